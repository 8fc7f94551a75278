"""A step's token tree as rows: preorder, guides that show depth, verdicts."""

from enum import StrEnum
from typing import NamedTuple

from rich.cells import cell_len

from sequoia_core.events import Origin, Step, TreeNode

from ..state.sanitize import quote_token

MAX_GUIDE_CELLS = 40
"""Deeper guides are cut at the left, so that a deep chain still shows its tokens."""
BONUS_NODE = -1  # index that stands for the bonus token


class NodeVerdict(StrEnum):
    """The outcome of a node, with values for the root and the bonus token."""

    ROOT = "root"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    NOT_REACHED = "not reached"
    BONUS = "bonus"


GLYPHS = dict(zip(NodeVerdict, "●✔✘·➜", strict=True))


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
    node: int = BONUS_NODE


def guide_width(step: Step, room: int) -> int:
    """Cells per level of the guides, 3 to 1, so that the deepest row keeps to half the room."""
    deepest = 1 + max(node.depth for node in step.nodes)
    return max(1, min(3, room // 2 // deepest))


def tree_rows(step: Step, cells_per_level: int = 3) -> tuple[TreeRow, ...]:
    """The tree's rows in preorder, siblings by rank, the bonus last under the path's leaf.

    Guides from the root along the accepted path to the bonus token are heavy, all others light.
    """
    leaf, on_path = step.path[-1], {*step.path, BONUS_NODE}
    rows: list[TreeRow] = []
    # A stack, since a chain may be deeper than the interpreter's recursion limit.
    stack: list[tuple[int, Guides, Guides]] = [(0, (), ())]
    while stack:
        index, guides, below = stack.pop()
        rows.append(_row(step, index, _cut(guides)))
        if index == BONUS_NODE:
            continue
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


def _row(step: Step, index: int, guides: Guides) -> TreeRow:
    if index == BONUS_NODE:
        token, depth = quote_token(step.bonus_text), step.nodes[step.path[-1]].depth + 1
        return TreeRow(guides, NodeVerdict.BONUS, token, None, step.bonus_prob, depth)
    node = step.nodes[index]
    return TreeRow(
        guides, verdict_of(node), quote_token(node.text), node.draft_prob, node.target_prob,
        node.depth, node.origin is Origin.LOOKUP, index,
    )  # fmt: skip


def _cut(guides: Guides) -> Guides:
    kept = 0
    for at in reversed(range(len(guides))):
        kept += cell_len(guides[at].text)
        if kept > MAX_GUIDE_CELLS:
            return (GuidePart("⋯", heavy=False), *guides[at + 1 :])
    return guides
