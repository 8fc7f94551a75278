"""A step's token tree as rows: preorder, guides that show depth, verdicts, folded subtrees."""

from collections.abc import Container, Iterator, Mapping
from enum import StrEnum
from typing import NamedTuple

from rich.cells import cell_len

from sequoia_core.events import Origin, Outcome, Step, TreeNode

from ..state.sanitize import quote_token

MAX_GUIDE_CELLS = 40
"""Deeper guides are cut at the left, so that a deep chain still shows its tokens."""
BONUS_NODE = -1  # index that stands for the bonus token
Folds = Mapping[int, tuple[int, ...]]
"""By node, those of its children that one row stands for, with all that is below them."""


class NodeVerdict(StrEnum):
    """The outcome of a node, with values for the root and the bonus token."""

    ROOT = "root"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    NOT_REACHED = "not reached"
    BONUS = "bonus"

    @property
    def words(self) -> str:
        return "target's own" if self is NodeVerdict.BONUS else self.value

    @property
    def color(self) -> str:
        """Its variable in a theme."""
        return "unreached" if self is NodeVerdict.NOT_REACHED else self.value


_LEAST_FOLD = 2  # rows that the smallest fold takes away
GLYPHS = dict(zip(NodeVerdict, "●✔✘·➜", strict=True))
_PASSED_OVER = (NodeVerdict.REJECTED, NodeVerdict.NOT_REACHED)
NODE_STYLES = {
    each: f"{'' if each in _PASSED_OVER else 'bold '}${each.color}" for each in NodeVerdict
}
FIGURES_HEADING = f"{'draft':>6} {'target':>6} "
FIGURES_CELLS = len(FIGURES_HEADING)


class GuidePart(NamedTuple):
    text: str
    heavy: bool  # the emitted path runs through it


Guides = tuple[GuidePart, ...]  # from the left, ending at the row's own connector


class TreeRow(NamedTuple):
    guides: Guides
    verdict: NodeVerdict
    token: str  # escaped and quoted
    draft_prob: float | None  # None for root and bonus, and for a looked-up token
    target_prob: float | None  # None for the root
    depth: int = 0
    looked_up: bool = False
    node: int = BONUS_NODE  # `fold_index` of the node above for a row of folded nodes
    folded: int = 0  # nodes that the row stands for
    opened: bool = False  # they follow nevertheless

    @property
    def glyph(self) -> str:
        return "+−"[self.opened] if self.folded else GLYPHS[self.verdict]

    @property
    def label(self) -> str:
        return f"{self.glyph}{'' if self.folded else ' '}{self.token}"

    @property
    def figures(self) -> str:
        """Both probabilities, with two digits, so that a column of them is compared at a glance."""
        draft = "lookup " if self.looked_up else _probability(self.draft_prob)
        return draft + _probability(self.target_prob)


def _probability(value: float | None) -> str:
    return f"{'' if value is None else f'{value:.2f}':>6} "


def fold_index(node: int) -> int:
    """Index that stands for the folded nodes below a node, and for that node the other way."""
    return BONUS_NODE - 1 - node


def is_fold(index: int) -> bool:
    return index < BONUS_NODE


def unreached_children(step: Step, node: int) -> tuple[int, ...]:
    return tuple(
        child for child in step.children[node] if step.nodes[child].outcome is Outcome.NOT_REACHED
    )


def subtree_sizes(step: Step) -> list[int]:
    """Nodes of each subtree, its root included."""
    sizes = [1] * len(step.nodes)
    for index in range(len(step.nodes) - 1, 0, -1):
        sizes[step.nodes[index].parent] += sizes[index]
    return sizes


def folds_for(step: Step, room: int) -> Folds:
    """What to fold so that path, siblings and tried nodes fit into so many rows, if they can.

    A tree that fits is not folded. Else the nodes below the path's siblings are; and where that is
    not enough, siblings that were not reached, from the last. Nothing is gained by folding a
    single node.
    """
    if len(step.nodes) + 1 <= room:
        return {}
    sizes, path = subtree_sizes(step), set(step.path)
    siblings = [child for node in step.path for child in step.children[node] if child not in path]
    rows_of = {node: min(_LEAST_FOLD, sizes[node]) for node in siblings}
    folds = {node: step.children[node] for node in siblings if sizes[node] > _LEAST_FOLD}
    excess = len(step.path) + 1 + sum(rows_of.values()) - room
    unreached = [(node, unreached_children(step, node)) for node in step.path]
    for node, children in sorted(unreached, key=lambda each: -sum(rows_of[at] for at in each[1])):
        saved, first = -1, len(children)
        while first and saved < excess:
            first -= 1
            saved += rows_of[children[first]]
        if excess > 0 and saved > 0:
            folds[node], excess = children[first:], excess - saved
    return folds


def guide_width(step: Step, room: int) -> int:
    """Cells per level of the guides, 3 to 1, so that the deepest row keeps to half the room."""
    deepest = 1 + max(node.depth for node in step.nodes)
    return max(1, min(3, room // 2 // deepest))


def tree_rows(
    step: Step, cells_per_level: int = 3, folds: Folds | None = None, opened: Container[int] = ()
) -> tuple[TreeRow, ...]:
    """The tree's rows in preorder, siblings by rank, the bonus last under the path's leaf.

    Guides from the root along the accepted path to the bonus token are heavy, all others light.
    Folds that are `opened`, by their node, have their row in front of the nodes.
    """
    folds = folds or {}
    on_path = {*step.path, BONUS_NODE}
    sizes = subtree_sizes(step) if folds else []
    rows: list[TreeRow] = []
    # A stack, since a chain may be deeper than the interpreter's recursion limit.
    stack: list[tuple[int, Guides, Guides]] = [(0, (), ())]
    while stack:
        index, guides, below = stack.pop()
        if is_fold(index):
            above = fold_index(index)
            count = sum(sizes[child] for child in folds[above])
            rows.append(_fold_row(step, above, _cut(guides), count, above in opened))
        else:
            rows.append(tree_row(step, index, _cut(guides)))
        branch = [] if index <= BONUS_NODE else list(_branch(step, index, folds, opened))
        heavy = next((at for at, child in enumerate(branch) if child in on_path), -1)
        for at in reversed(range(len(branch))):
            last, passed = at == len(branch) - 1, at < heavy
            own = connector(last, cells_per_level, chosen=at == heavy, passed=passed)
            line = rail(last, cells_per_level, passed=passed)
            stack.append((branch[at], (*below, own), (*below, line)))
    return tuple(rows)


def _branch(step: Step, node: int, folds: Folds, opened: Container[int]) -> Iterator[int]:
    """What is drawn below a node: children, their fold in front of the first, the bonus token."""
    folded = folds.get(node, ())
    for child in step.children[node]:
        if folded and child == folded[0]:
            yield fold_index(node)
        if child not in folded or node in opened:
            yield child
    if node == step.path[-1]:
        yield BONUS_NODE


def connector(last: bool, cells: int, *, chosen: bool = False, passed: bool = False) -> GuidePart:
    """The corner in front of a row; `chosen` if it is on the emitted path, or `passed` by it."""
    if chosen:
        corner = "┗" if last else "┡"
    elif passed:
        corner = "┠"
    else:
        corner = "└" if last else "├"
    line = ("━" if chosen else "─") * (cells - 2)
    return GuidePart(corner + line + (" " if cells > 1 else ""), heavy=chosen or passed)


def rail(last: bool, cells: int, *, passed: bool = False) -> GuidePart:
    """The line in front of a row's descendants, down to its next sibling."""
    text = "┃" if passed else " " if last else "│"
    return GuidePart(text.ljust(cells), heavy=passed)


def verdict_of(node: TreeNode) -> NodeVerdict:
    return NodeVerdict.ROOT if node.parent < 0 else NodeVerdict[node.outcome.name]


def tree_row(step: Step, index: int, guides: Guides = ()) -> TreeRow:
    """The row of a node, or of the bonus token (`BONUS_NODE`)."""
    if index == BONUS_NODE:
        token, depth = quote_token(step.bonus_text), step.nodes[step.path[-1]].depth + 1
        return TreeRow(guides, NodeVerdict.BONUS, token, None, step.bonus_prob, depth)
    node = step.nodes[index]
    return TreeRow(
        guides, verdict_of(node), quote_token(node.text), node.draft_prob, node.target_prob,
        node.depth, node.origin is Origin.LOOKUP, index,
    )  # fmt: skip


def _fold_row(step: Step, above: int, guides: Guides, count: int, opened: bool) -> TreeRow:
    return TreeRow(
        guides, NodeVerdict.NOT_REACHED, f"{count} not reached", None, None,
        step.nodes[above].depth + 1, node=fold_index(above), folded=count, opened=opened,
    )  # fmt: skip


def _cut(guides: Guides) -> Guides:
    kept = 0
    for at in reversed(range(len(guides))):
        kept += cell_len(guides[at].text)
        if kept > MAX_GUIDE_CELLS:
            return (GuidePart("⋯", heavy=False), *guides[at + 1 :])
    return guides
