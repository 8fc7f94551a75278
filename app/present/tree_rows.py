"""A step's token tree as rows: preorder, guides that show depth, verdicts.

The emitted tokens stand out without colour too: the guides from the root along the accepted path
to the bonus token are heavy lines, all others light ones.
"""

from dataclasses import dataclass
from enum import StrEnum

from rich.cells import cell_len

from sequoia_core.events import Origin, Step, TreeNode

from ..state.sanitize import quote_token

MAX_GUIDE_CELLS = 40
"""Deeper guides are cut at the left, so that a deep chain still shows its tokens."""
BONUS_NODE = -1
"""Index that stands for the bonus token."""


class NodeVerdict(StrEnum):
    """The outcome of a node, with values for the root and the bonus token."""

    ROOT = "root"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    NOT_REACHED = "not reached"
    BONUS = "bonus"


GLYPHS: dict[NodeVerdict, str] = {
    NodeVerdict.ROOT: "●",
    NodeVerdict.ACCEPTED: "✔",
    NodeVerdict.REJECTED: "✘",
    NodeVerdict.NOT_REACHED: "·",
    NodeVerdict.BONUS: "➜",
}


@dataclass(frozen=True, slots=True)
class GuidePart:
    """A piece of a row's guides; heavy where the emitted path runs through it."""

    text: str
    heavy: bool


Guides = tuple[GuidePart, ...]
"""From the left, ending at the row's own connector."""


@dataclass(frozen=True, slots=True)
class TreeRow:
    """One line of the tree.

    Attributes:
        guides: in front of the token.
        verdict: of verification.
        token: escaped and quoted.
        draft_prob: None for root and bonus, and for a looked-up token.
        target_prob: None for the root.
        depth: below the root.
        looked_up: the token was found in the conversation, not drafted.
        node: index of the node, or `BONUS_NODE`.
    """

    guides: Guides
    verdict: NodeVerdict
    token: str
    draft_prob: float | None
    target_prob: float | None
    depth: int = 0
    looked_up: bool = False
    node: int = BONUS_NODE


def guide_width(step: Step, room: int) -> int:
    """Cells per level of the guides, 3 to 1, so that the deepest row keeps to half the room."""
    deepest = 1 + max(node.depth for node in step.nodes)
    return max(1, min(3, room // 2 // deepest))


def tree_rows(step: Step, cells_per_level: int = 3) -> tuple[TreeRow, ...]:
    """The tree's rows in preorder, siblings by rank, the bonus last under the path's leaf."""
    leaf, on_path = step.path[-1], {*step.path, BONUS_NODE}
    rows: list[TreeRow] = []
    # A stack, since a chain may be deeper than the interpreter's recursion limit.
    stack: list[tuple[int, Guides, Guides]] = [(0, (), ())]
    while stack:
        index, guides, below = stack.pop()
        if index == BONUS_NODE:
            rows.append(_bonus_row(step, guides))
            continue
        rows.append(_node_row(step.nodes[index], index, guides))
        branch = [*step.children[index], *([BONUS_NODE] if index == leaf else [])]
        heavy = next((at for at, child in enumerate(branch) if child in on_path), -1)
        for at in reversed(range(len(branch))):
            last, passed = at == len(branch) - 1, at < heavy
            own = connector(last, cells_per_level, chosen=at == heavy, passed=passed)
            line = rail(last, cells_per_level, passed=passed)
            stack.append((branch[at], (*below, own), (*below, line)))
    return tuple(rows)


def connector(last: bool, cells: int, *, chosen: bool = False, passed: bool = False) -> GuidePart:
    """The corner in front of a row; `chosen` if it is on the emitted path, or `passed` by it."""
    if chosen:
        corner, line = ("┗" if last else "┡"), "━"
    elif passed:
        corner, line = "┠", "─"
    else:
        corner, line = ("└" if last else "├"), "─"
    text = corner + line * (cells - 2) + (" " if cells > 1 else "")
    return GuidePart(text, heavy=chosen or passed)


def rail(last: bool, cells: int, *, passed: bool = False) -> GuidePart:
    """The line in front of a row's descendants, down to its next sibling."""
    text = "┃" if passed else " " if last else "│"
    return GuidePart(text.ljust(cells), heavy=passed)


def ordinal(rank: int) -> str:
    """A rank as an ordinal number: 1st, 2nd, 11th, 21st."""
    ending = "th" if rank // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{ending}"


def verdict_of(node: TreeNode) -> NodeVerdict:
    """The verdict on a node."""
    return NodeVerdict.ROOT if node.parent < 0 else NodeVerdict[node.outcome.name]


def _node_row(node: TreeNode, index: int, guides: Guides) -> TreeRow:
    is_root = node.parent < 0
    return TreeRow(
        guides=_cut(guides),
        verdict=verdict_of(node),
        token=quote_token(node.text),
        draft_prob=None if is_root else node.draft_prob,
        target_prob=None if is_root else node.target_prob,
        depth=node.depth,
        looked_up=node.origin is Origin.LOOKUP,
        node=index,
    )


def _bonus_row(step: Step, guides: Guides) -> TreeRow:
    depth = step.nodes[step.path[-1]].depth + 1
    token = quote_token(step.bonus_text)
    return TreeRow(_cut(guides), NodeVerdict.BONUS, token, None, step.bonus_prob, depth)


def _cut(guides: Guides) -> Guides:
    kept = 0
    for at in reversed(range(len(guides))):
        kept += cell_len(guides[at].text)
        if kept > MAX_GUIDE_CELLS:
            return (GuidePart("⋯", heavy=False), *guides[at + 1 :])
    return guides
