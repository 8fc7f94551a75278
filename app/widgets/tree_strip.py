"""The accepted path of a step in a few rows, for screens without room for the whole tree."""

from collections.abc import Iterator
from typing import NamedTuple

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.reactive import reactive
from typing_extensions import override

from sequoia_core.events import Outcome, Step

from ..present.tree_rows import (
    BONUS_NODE,
    FIGURES_CELLS,
    FIGURES_HEADING,
    NODE_STYLES,
    NodeVerdict,
    subtree_sizes,
    tree_row,
)
from ..state.sanitize import fit
from .line import Line, spread

_HEADED = 6  # rows of a strip that has a heading
_LEAST_PATH, _MOST_PATH = 14, 34  # cells
_LEVEL = 2  # cells of a guide
_GAP = "  "  # before the other guesses
_BEFORE_WHY = 3  # cells in front of what stands at the right
_PATH = NODE_STYLES[NodeVerdict.ACCEPTED]


class StripShown(NamedTuple):
    step: Step | None = None
    title: str = ""
    why: str = ""  # what is said of a tree that was chosen to be looked at


class TreeStrip(Line):
    """A row for each token of the accepted path, with the other guesses at its place beside it.

    As high as its style says, whatever it shows. A click shows the whole tree in its place.
    """

    ID = "tree-strip"
    shown: reactive[StripShown] = reactive(StripShown())

    @override
    def render(self) -> Content:
        (step, title, why), (width, height) = self.shown, self.size
        path = max(_LEAST_PATH, min(_MOST_PATH, width * 2 // 5))
        lines: list[Content] = []
        if height >= _HEADED:
            columns = f"{FIGURES_HEADING}{_GAP}other guesses, +n more"
            lines.append(Content.styled(fit(f" {fit(title, path - 1)}{columns}", width), "$notice"))
        if step is None:
            lines.append(
                Content.styled(fit("  the tree of each step appears here", width), "$notice")
            )
        else:
            rows = path_rows(step, path, width, height - len(lines))
            if why and not lines:  # there is no title
                first = rows[0].truncate(max(0, width - len(why) - _BEFORE_WHY), ellipsis=True)
                rows[0] = spread(first, Content.styled(why, "$notice"), width)
            lines += rows
        return Content("\n").join(lines)

    async def on_click(self, event: events.Click) -> None:
        event.stop()
        await self.run_action("screen.tree")


def path_rows(step: Step, path: int, width: int, height: int) -> list[Content]:
    """At most `height` rows of `width` cells: root, accepted nodes and the target's own token.

    The first row has all the nodes that have none of their own.
    """
    nodes, sizes = [*step.path, BONUS_NODE], subtree_sizes(step)
    joined = max(1, len(nodes) + 1 - height)
    shown = [tree_row(step, node) for node in nodes]
    first = Content.assemble(
        " ", *((f"{row.label} ", NODE_STYLES[row.verdict]) for row in shown[:joined])
    )
    rows = [first.truncate(width, ellipsis=True)]
    for level, row in enumerate(shown[joined:]):
        guide = " " + " " * (_LEVEL * level) + "┗━"
        label = fit(f" {row.label}", path - cell_len(guide))
        beside = list(_beside(step, row.node, sizes, width - path - FIGURES_CELLS - len(_GAP)))
        rows.append(
            Content.assemble(
                (guide, _PATH), (label + row.figures, NODE_STYLES[row.verdict]), _GAP, *beside
            ).truncate(width)
        )
    return rows[:height]


def _beside(step: Step, node: int, sizes: list[int], room: int) -> Iterator[tuple[str, str]]:
    """The siblings of a node, those that were tried first, and how many nodes are not listed."""
    parent = step.path[-1] if node == BONUS_NODE else step.nodes[node].parent
    others = [each for each in step.children[parent] if each != node]
    others.sort(key=lambda each: step.nodes[each].outcome is Outcome.NOT_REACHED)
    hidden = sum(sizes[each] for each in others)
    for each in others:
        row = tree_row(step, each)
        text = f"{row.label}  "
        left = f"+{hidden - 1}" if hidden > 1 else ""
        if cell_len(text) + len(left) > room:
            break
        hidden, room = hidden - 1, room - cell_len(text)
        yield text, NODE_STYLES[row.verdict]
    if hidden and len(f"+{hidden}") <= room:
        yield f"+{hidden}", "$notice"
