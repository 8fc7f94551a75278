"""A step's token tree as rows: preorder, depth guides, verdicts. Pure; knows no widget or colour.

The emitted tokens stand out without colour too: the guides from the root along the accepted path
to the bonus token are heavy lines, all others light ones.
"""

from dataclasses import dataclass
from enum import StrEnum

from rich.cells import cell_len

from sequoia_core.events import Origin, Outcome, Step, TreeNode

from ..state.sanitize import quote_token

MAX_GUIDE_CELLS = 40
"""Deeper guides are cut at the left, so that a deep chain still shows its tokens."""


BONUS_NODE = -1
"""Stands for the bonus token where a node's index is wanted."""


class Verdict(StrEnum):
    """What a row is, beyond the outcomes of a node."""

    ROOT = "root"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    NOT_REACHED = "not reached"
    BONUS = "bonus"


GLYPHS: dict[Verdict, str] = {
    Verdict.ROOT: "●",
    Verdict.ACCEPTED: "✔",
    Verdict.REJECTED: "✘",
    Verdict.NOT_REACHED: "·",
    Verdict.BONUS: "➜",
}
_OUTCOMES = {
    Outcome.ACCEPTED: Verdict.ACCEPTED,
    Outcome.REJECTED: Verdict.REJECTED,
    Outcome.NOT_REACHED: Verdict.NOT_REACHED,
}


@dataclass(frozen=True, slots=True)
class GuidePart:
    """A piece of a row's guides; heavy where the emitted path runs through it."""

    text: str
    heavy: bool


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the tree.

    Attributes:
        guides: from the left, ending at the row's own connector.
        verdict: what the walk did with the token.
        token: escaped and quoted.
        draft_prob: None for root and bonus, and for what was looked up.
        target_prob: None for the root.
        looked_up: the token was found in the conversation, not drafted.
        node: index of the node, or `BONUS_NODE`.
    """

    guides: tuple[GuidePart, ...]
    verdict: Verdict
    token: str
    draft_prob: float | None
    target_prob: float | None
    looked_up: bool = False
    node: int = BONUS_NODE


def guide_width(step: Step, room: int) -> int:
    """Cells per level of the guides, 3 to 1, so that the deepest row keeps to half the room."""
    deepest = 1 + max(node.depth for node in step.nodes)
    return max(1, min(3, room // 2 // deepest))


def tree_rows(step: Step, cells_per_level: int = 3) -> tuple[Row, ...]:
    """The tree's rows in preorder, siblings in drawn order, the bonus last under the path's leaf.

    Args:
        step: a step of any tree shape; nodes may be in any order that has parents before children.
        cells_per_level: width of one level of guides, at least 1.
    """
    leaf = step.path[-1]
    on_path = frozenset(step.path)
    rows: list[Row] = []
    # A stack and not recursion: a chain may be deeper than the interpreter's recursion limit.
    stack: list[tuple[int, tuple[GuidePart, ...], tuple[GuidePart, ...]]] = [(0, (), ())]
    while stack:
        index, guides, below = stack.pop()
        if index < 0:
            rows.append(_bonus_row(step, guides))
            continue
        rows.append(_node_row(step.nodes[index], index, guides))
        children = step.children[index]
        branch = (*children, -1) if index == leaf else children
        heavy_at = next(
            (at for at, child in enumerate(branch) if child < 0 or child in on_path), -1
        )
        for at in reversed(range(len(branch))):
            last = at == len(branch) - 1
            stack.append(
                (
                    branch[at],
                    (*below, _connector(at == heavy_at, at < heavy_at, last, cells_per_level)),
                    (*below, _rail(at < heavy_at, last, cells_per_level)),
                )
            )
    return tuple(rows)


def _connector(chosen: bool, passed: bool, last: bool, cells: int) -> GuidePart:
    """The corner in front of a row: chosen itself, passed by the path below it, or neither."""
    if chosen:
        corner, line = ("┗" if last else "┡"), "━"
    elif passed:
        corner, line = "┠", "─"
    else:
        corner, line = ("└" if last else "├"), "─"
    text = corner + line * (cells - 2) + (" " if cells > 1 else "")
    return GuidePart(text, heavy=chosen or passed)


def light_connector(last: bool, cells: int) -> GuidePart:
    """The corner in front of a row in a tree without a path."""
    return _connector(False, False, last, cells)


def light_rail(last: bool, cells: int) -> GuidePart:
    """The line beside the descendants of a row in such a tree."""
    return _rail(False, last, cells)


def _rail(passed: bool, last: bool, cells: int) -> GuidePart:
    """The line beside the descendants of a row, down to its next sibling."""
    rail = "┃" if passed else " " if last else "│"
    return GuidePart(rail.ljust(cells), heavy=passed)


def ordinal(rank: int) -> str:
    """A child rank as it is said: 1st, 2nd, 11th, 21st."""
    ending = "th" if rank // 10 % 10 == 1 else {1: "st", 2: "nd", 3: "rd"}.get(rank % 10, "th")
    return f"{rank}{ending}"


def verdict_of(node: TreeNode) -> Verdict:
    """What the walk did with a node."""
    return Verdict.ROOT if node.parent < 0 else _OUTCOMES[node.outcome]


def _node_row(node: TreeNode, index: int, guides: tuple[GuidePart, ...]) -> Row:
    verdict = verdict_of(node)
    token = quote_token(node.text)
    target_prob = None if node.parent < 0 else node.target_prob
    draft_prob = None if node.parent < 0 else node.draft_prob
    looked_up = node.origin is Origin.LOOKUP
    return Row(_cut(guides), verdict, token, draft_prob, target_prob, looked_up, index)


def _bonus_row(step: Step, guides: tuple[GuidePart, ...]) -> Row:
    token = quote_token(step.bonus_text)
    return Row(_cut(guides), Verdict.BONUS, token, None, step.bonus_prob)


def _cut(guides: tuple[GuidePart, ...]) -> tuple[GuidePart, ...]:
    kept = 0
    for at in reversed(range(len(guides))):
        kept += cell_len(guides[at].text)
        if kept > MAX_GUIDE_CELLS:
            return (GuidePart("⋯", heavy=False), *guides[at + 1 :])
    return guides
