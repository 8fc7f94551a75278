"""Explains what is on a screen: sentences beside its parts, or a list where there is no room."""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from rich.cells import cell_len
from textual import events, on
from textual.app import ComposeResult
from textual.containers import VerticalScroll
from textual.content import Content
from textual.geometry import Region
from textual.screen import ModalScreen, Screen
from textual.widget import Widget
from textual.widgets import Static

from sequoia_core.files import parse_toml

from ..state.sanitize import fit
from ..ui.base_app import BaseApp
from ..widgets.prompt import Prompt

_TABLES = parse_toml(Path(__file__).with_name("explained.toml").read_text("utf-8"))
GLOSSARY: dict[str, str] = _TABLES["glossary"]
"""Words of the screens, each in a sentence."""
CLOSES, SCROLLS = "any key closes this", "up, down scroll; others close"
AGAIN = "; a second ? is typed"  # where it was that key
_ACTION = re.compile(r"\bchat(\.[a-z_]+)")  # an action, which another screen may have as well
_MARKS = {"up": "▲", "down": "▼", "right": " ", "": " "}
_SCROLLS = {"up": -1, "down": 1, "pageup": -2, "pagedown": 2}  # half a panel each
_LONGEST_SIGN = 42
_INDENT = 4  # of a sentence's second and later lines
_LEAST_WIDTH = 48
_FARTHEST = 4  # rows that a sentence is moved down to stand beside what it explains
_WIDEST = 100
_FRAME = 4  # cells of frame and padding
_AROUND = 3  # rows around a list that is as high as the screen


class Part(NamedTuple):
    """Something on the screen, and what it is."""

    place: str
    points: str  # where it is from the transcript: up, right, down; "" in it
    sign: str  # as it stands on the screen
    text: str
    rows: tuple[int, ...]  # of the screen, where it stands


def parts_on_show(screen: Screen[None]) -> Iterator[Part]:
    """Every part of the table whose sign is on the screen."""
    for place in _TABLES["places"]:
        widgets = [each for each in screen.query(place["where"]) if each.region]
        lines = [line for widget in widgets for line in _lines(widget)]
        for sign, text in place["parts"]:
            found = {row: match for row, line in lines if (match := re.search(sign, line))}
            for first in [*found.values()][:1]:
                shown, said = first[first.lastindex or 0].strip(), GLOSSARY.get(text, text)
                yield Part(place["name"], place.get("points", ""), shown, said, tuple(found))


def _lines(widget: Widget) -> Iterator[tuple[int, str]]:
    """The lines of a widget as they are drawn, each with its row of the screen.

    The lower border is left out: a legend there says what a glyph means, but is not one to explain.
    """
    width, height = widget.outer_size
    strips = widget.render_lines(Region(0, 0, width, height - widget.gutter.bottom))
    return ((row, strip.text) for row, strip in enumerate(strips, widget.region.y))


def placed(wanted: Sequence[Sequence[int]], heights: Sequence[int], room: int) -> list[int] | None:
    """First rows of labels in their order, each in or near a wanted one; None without room."""
    if sum(heights) > room:
        return None
    rows, free = list[int](), 0
    for good, height in zip(wanted, heights, strict=True):
        later = [row for row in good if row >= free]
        near = bool(later) and (later[0] == good[0] or later[0] - free <= _FARTHEST)
        rows.append(later[0] if near else free)
        free = rows[-1] + height
    end = room
    for at in reversed(range(len(rows))):
        rows[at] = min(rows[at], end - heights[at])
        end = rows[at]
    return rows


class ExplainScreen(ModalScreen[None]):
    """Explains what is on the screen below; any key closes it, and is typed into its prompt.

    Sentences are drawn over the transcript, if possible in the rows of what they explain. Their
    actions are those of a `context`; a sentence that names another is left out.
    """

    app: BaseApp

    def __init__(
        self, below: Screen[None], prompt: Prompt | None = None, context: str = "chat"
    ) -> None:
        super().__init__()
        self._below, self._prompt, self._of = below, prompt, context
        self._typed_before = prompt.text if prompt is not None else ""

    def compose(self) -> ComposeResult:
        with VerticalScroll(id="explained", can_focus=False) as panel:
            panel.border_title = "What is on the screen"
            yield Static("", markup=False)

    def on_mount(self) -> None:
        prompt = self._prompt
        if prompt is not None and prompt.text != self._typed_before:
            typed = "?" * self._is_typed  # it came in a burst, as the first of a text
            prompt.put(typed + prompt.text)
            self.dismiss()

    def on_resize(self) -> None:
        self.call_after_refresh(self._explain)

    @property
    def _is_typed(self) -> bool:
        """Whether the key that opens this is a character of the prompt."""
        return self._prompt is not None and "question_mark" in self.app.keys.of("chat.explain")

    def _explain(self) -> None:
        parts = list(self._parts())
        panel, labels = self.query_one("#explained"), None
        over = next((each.region for each in self._below.query("#transcript")), None)
        if over is not None and over.width >= _LEAST_WIDTH and self._below.has_class("-wide"):
            labels = _labels(parts, over.width - _FRAME, over.height - 2, over.y + 1)
        self.set_class(labels is None, "-list")
        if over is not None and labels is not None:
            panel.styles.offset = over.offset
            panel.styles.width, panel.styles.height = over.size
        else:
            panel.styles.offset = (0, 0)
            panel.styles.width = panel.styles.height = None
            labels = _list(parts, max(1, min(_WIDEST, self.size.width) - _FRAME - 4))
        scrolls = len(labels.plain.splitlines()) > self.size.height - _AROUND
        panel.border_subtitle = (SCROLLS if scrolls else CLOSES) + AGAIN * self._is_typed
        self.query_one(Static).update(labels)

    def _parts(self) -> Iterator[Part]:
        """What is on show, with the keys of the screen below."""
        for part in parts_on_show(self._below):
            own = _ACTION.sub(rf"{self._of}\1", part.text)
            text = self.app.keys.shown(own)
            if not re.search(rf"\b{self._of}\.[a-z_]", text):
                yield part._replace(text=text)

    async def on_key(self, event: events.Key) -> None:
        event.stop()
        panel = self.query_one(VerticalScroll)
        if self.has_class("-list") and (by := _SCROLLS.get(event.key)) and panel.max_scroll_y:
            panel.scroll_relative(y=by * panel.size.height // 2, animate=False)
            return
        self._close()
        if self._prompt is not None and event.is_printable and event.character is not None:
            self._prompt.write(event.character)

    def on_paste(self, event: events.Paste) -> None:
        event.stop()
        self._close()
        if self._prompt is not None:
            self._prompt.post_message(events.Paste(event.text))

    @on(events.Click)
    def _close(self) -> None:
        if self.is_current:  # more keys may come before it is gone
            self.dismiss()


def _labels(parts: Sequence[Part], width: int, height: int, top: int) -> Content | None:
    """The sentences in a panel that begins at a row of the screen; None if they do not fit."""
    ordered = sorted(parts, key=lambda part: part.rows)
    labels = [_label(part, width) for part in ordered]
    wanted = [[max(0, row - top) for row in part.rows] for part in ordered]
    rows = placed(wanted, list(map(len, labels)), height)
    if rows is None:
        return None
    lines = [Content("")] * height
    for part, row, label in zip(ordered, rows, labels, strict=True):
        lines[row : row + len(label)] = label
        if part.points == "right" and row + top in part.rows:
            room = width - label[0].cell_length - 2
            arrow = f" {'─' * room}▶" if room > 0 else ""
            lines[row] = Content.assemble(label[0], (arrow, "$primary"))
    return Content("\n").join(lines)


def _label(part: Part, width: int) -> list[Content]:
    """The sign and the sentence, wrapped."""
    mark = _MARKS[part.points]
    sign = fit(part.sign, min(cell_len(part.sign), _LONGEST_SIGN))
    text = Content.assemble((f"{mark} ", "$primary"), (sign, "bold $foreground"), f"  {part.text}")
    first, *others = text.wrap(max(1, width - _INDENT))
    return [first, *(Content(" " * _INDENT + line.plain) for line in others)]


def _list(parts: Sequence[Part], width: int) -> Content:
    """The sentences below the names of their places."""
    lines = list[Content]()
    for place, those in groupby(parts, key=lambda part: part.place):
        lines += [Content(""), Content.styled(place, "bold $primary")]
        lines += [line for part in those for line in _label(part._replace(points=""), width)]
    return Content("\n").join(lines[1:])
