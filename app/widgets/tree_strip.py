"""The accepted path of a step in a few rows, for screens without room for the whole tree."""

from collections.abc import Iterator

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.reactive import reactive
from typing_extensions import override

from sequoia_core.events import Outcome, Step

from ..present.tree_rows import BONUS_NODE, GLYPHS, NodeVerdict, subtree_sizes, verdict_of
from ..state.sanitize import fit, quote_token
from .line import Line

_HEADED = 6  # rows of a strip that has a heading
_LEAST_PATH, _MOST_PATH = 14, 34  # cells
_FIGURES = 14
_LEVEL = 2  # cells of a guide
_STYLES = {verdict: f"bold ${verdict.value}" for verdict in NodeVerdict}
_STYLES |= {NodeVerdict.REJECTED: "$rejected", NodeVerdict.NOT_REACHED: "$unreached"}


class TreeStrip(Line):
    """A row for each token of the accepted path, with the other guesses at its place beside it.

    As high as its style says, whatever it shows. A click shows the whole tree in its place.
    """

    ID = "tree-strip"
    shown: reactive[tuple[Step | None, str]] = reactive((None, ""))  # a step and its title

    @override
    def render(self) -> Content:
        (step, title), (width, height) = self.shown, self.size
        path = max(_LEAST_PATH, min(_MOST_PATH, width * 2 // 5))
        lines: list[Content] = []
        if height >= _HEADED:
            columns = f"{'draft':>6} {'target':>6}   other guesses, +n more"
            lines.append(Content.styled(fit(f" {fit(title, path - 1)}{columns}", width), "$notice"))
        if step is None:
            lines.append(
                Content.styled(fit("  the tree of each step appears here", width), "$notice")
            )
        else:
            lines += path_rows(step, path, width, height - len(lines))
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
    first = Content.assemble(
        " ", *((f"{_label(step, node)} ", _STYLES[_verdict(step, node)]) for node in nodes[:joined])
    )
    rows = [first.truncate(width, ellipsis=True)]
    for level, node in enumerate(nodes[joined:]):
        verdict = _verdict(step, node)
        guide = " " + " " * (_LEVEL * level) + "┗━"
        label = fit(f" {_label(step, node)}", path - cell_len(guide))
        beside = list(_beside(step, node, sizes, width - path - _FIGURES - 2))
        rows.append(
            Content.assemble(
                (guide, "bold $accepted"), (label, _STYLES[verdict]),
                (_figures(step, node), _STYLES[verdict]), "   ", *beside,
            ).truncate(width)
        )  # fmt: skip
    return rows[:height]


def _verdict(step: Step, node: int) -> NodeVerdict:
    return NodeVerdict.BONUS if node == BONUS_NODE else verdict_of(step.nodes[node])


def _label(step: Step, node: int) -> str:
    text = step.bonus_text if node == BONUS_NODE else step.nodes[node].text
    return f"{GLYPHS[_verdict(step, node)]} {quote_token(text)}"


def _figures(step: Step, node: int) -> str:
    draft = None if node == BONUS_NODE else step.nodes[node].draft_prob
    target = step.bonus_prob if node == BONUS_NODE else step.nodes[node].target_prob
    return "".join(" " * 7 if value is None else f"{value:>6.2f} " for value in (draft, target))


def _beside(step: Step, node: int, sizes: list[int], room: int) -> Iterator[tuple[str, str]]:
    """The siblings of a node, those that were tried first, and how many nodes are not listed."""
    parent = step.path[-1] if node == BONUS_NODE else step.nodes[node].parent
    others = [each for each in step.children[parent] if each != node]
    others.sort(key=lambda each: step.nodes[each].outcome is Outcome.NOT_REACHED)
    hidden = sum(sizes[each] for each in others)
    for each in others:
        text = f"{_label(step, each)}  "
        left = f"+{hidden - 1}" if hidden > 1 else ""
        if cell_len(text) + len(left) > room:
            break
        hidden, room = hidden - 1, room - cell_len(text)
        yield text, _STYLES[verdict_of(step.nodes[each])]
    if hidden:
        yield fit(f"+{hidden}", min(room, len(f"+{hidden}"))), "$notice"
