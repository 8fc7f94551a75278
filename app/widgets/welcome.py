"""What a chat without messages shows: what the app is, prompts to begin with, an example tree."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.content import Content
from typing_extensions import override

from sequoia_core.events import Outcome, Step, StepTimings, TreeNode
from sequoia_core.files import parse_toml

from ..config.keymap import Keys
from ..present.accessible import is_accessible, row_in_words
from ..present.markdown import Lines
from ..present.tree_rows import (
    BONUS_NODE,
    FIGURES_CELLS,
    FIGURES_HEADING,
    GLYPHS,
    NODE_STYLES,
    NodeVerdict,
    TreeRow,
    tree_rows,
)
from ..state.sanitize import fit
from .blocks import Block, indent, wrap
from .entries import Entry
from .line import Line
from .transcript_styles import Look

_TEXTS = parse_toml(Path(__file__).with_name("welcome.toml").read_text("utf-8"))
STARTERS: dict[str, str] = {each["name"]: each["prompt"] for each in _TEXTS["starters"]}
"""Prompts to begin a chat with, by the name of the action that sends them."""
_EXAMPLE = _TEXTS["example"]
_GAP = 3  # cells between a token and what is said of it
_PATH = NODE_STYLES[NodeVerdict.ACCEPTED]


class WelcomeEntry(Entry):
    """What the app is, and the starters; less where there is no room."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._room = 0
        self._block = Block(_TEXTS["about"], self._draw)

    @override
    def estimate_height(self, width: int) -> int:
        return self._block.height(width)

    @override
    def release(self) -> None:
        self._block = Block(_TEXTS["about"], self._draw)

    @override
    def blocks(self) -> Sequence[Block]:
        return [self._block]

    def use_room(self, rows: int) -> None:
        """Take no more rows than these."""
        if rows != self._room:
            self._room = rows
            self.release()

    def _draw(self, about: str, width: int, look: Look) -> Lines:
        text, quiet = look.styles["text"], look.styles["note"]
        starters = [self._starter(name, width, look) for name in STARTERS]
        title = [Segment("Try one of these:", quiet)]
        more = [*self._lines(_TEXTS["more"], quiet, width), []]
        brief = [*self._lines(_TEXTS["brief"], quiet, width), []]
        long = [*self._lines(about, text, width), [], title, *starters, []]
        short = [*self._lines(_TEXTS["short"], text, width), [], *starters, []]
        forms = [[*long, *more], [*long, *brief], [*short, *more], [*short, *brief]]
        return next((form for form in forms if len(form) <= self._room), short)

    def _lines(self, text: str, style: Style, width: int) -> Lines:
        return indent(wrap(Text(self._keys.shown(text.strip()), style=style), width - 1), "", style)

    def _starter(self, name: str, width: int, look: Look) -> list[Segment]:
        """One line, which can be clicked."""
        keys = self._keys.shown(f"chat.starter_{name}")
        click = Style(meta={"@click": f"screen.starter('{name}')"})
        room = max(0, width - cell_len(keys) - _GAP)
        return [
            Segment(f" {keys}  ", look.styles["name"] + click),
            Segment(fit(STARTERS[name], room).rstrip(), look.styles["text"] + click),
        ]


def _example() -> Step:
    """The step of the example, as if it had been decoded."""
    own, nodes = _EXAMPLE["own"], list[TreeNode]()
    for index, each in enumerate(_EXAMPLE["nodes"]):
        parent = each["parent"]
        draft, target = each.get("probs", (None, None))
        nodes.append(
            TreeNode(
                token_id=index,
                text=each["text"],
                parent=parent,
                depth=nodes[parent].depth + 1 if nodes else 0,
                rank=1 + sum(node.parent == parent for node in nodes) if nodes else 0,
                draft_prob=draft,
                target_prob=target,
                outcome=Outcome(each.get("outcome", "accepted")),
            )
        )
    path = tuple(at for at, node in enumerate(nodes) if node.outcome is Outcome.ACCEPTED)
    return Step(
        1, tuple(nodes), path, len(nodes), own["text"], own["prob"], (*path[1:], len(nodes)),
        0, StepTimings(0.0, 0.0, 0.0), 0.0, "",
    )  # fmt: skip


class ExampleTree(Line):
    """A small tree, and beside each row what it means; below the tree if there is no room."""

    ID = "example"
    BORDER_TITLE = "An example of a tree"

    def __init__(self) -> None:
        super().__init__()
        self._rows = tree_rows(_example())
        said = {at: each["says"] for at, each in enumerate(_EXAMPLE["nodes"])}
        self._said = {**said, BONUS_NODE: _EXAMPLE["own"]["says"]}

    @override
    def render(self) -> Content:
        width = max(1, self.size.width)
        if is_accessible(self):
            rows = ((row_in_words(row), self._said[row.node]) for row in self._rows)
            words = (f"{row}. {said.capitalize()}." for row, said in rows)
            texts = [*map(Content, words), Content(_EXAMPLE["sum"])]
            return Content("\n").join(line for text in texts for line in text.wrap(width))
        labels = [_label(row) for row in self._rows]
        column = max(label.cell_length for label in labels) + _GAP
        room = width - column - FIGURES_CELLS - 1
        beside = room >= max(map(cell_len, self._said.values()))
        heading = f"{_EXAMPLE['columns'] if beside else ''} {FIGURES_HEADING}"
        lines = [Content.styled(heading.rjust(width), "$notice")]
        for row, label in zip(self._rows, labels, strict=True):
            says = (fit(self._said[row.node], room), "italic $notice") if beside else ""
            left = Content.assemble(label, " " * (column - label.cell_length), says)
            left = left.truncate(width - FIGURES_CELLS, pad=True)
            lines.append(Content.assemble(left, (row.figures, NODE_STYLES[row.verdict])))
        below = [] if beside else list(self._below())
        closing = [Content(f" {line.plain}") for line in Content(_EXAMPLE["sum"]).wrap(width - 1)]
        blank = [Content("")] if len([*lines, *below, *closing]) + 1 < self.size.height else []
        return Content("\n").join([*lines, *blank, *below, *blank[: len(below)], *closing])

    def _below(self) -> Iterator[Content]:
        """What rows mean, once for each glyph."""
        rows = {row.verdict: row for row in reversed(self._rows)}
        for verdict in NodeVerdict:
            sign = (GLYPHS[verdict], NODE_STYLES[verdict])
            yield Content.assemble(" ", sign, f" {self._said[rows[verdict].node]}")


def _label(row: TreeRow) -> Content:
    guides = ((part.text, _PATH if part.heavy else "$unreached") for part in row.guides)
    return Content.assemble(" ", *guides, (row.label, NODE_STYLES[row.verdict]))
