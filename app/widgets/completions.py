"""Above the prompt: what completes the typed text, or a message too long for the border."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from textwrap import wrap

from rich.cells import cell_len
from textual import events
from textual.content import Content
from textual.widget import Widget
from textual.widgets import TextArea
from textual.worker import Worker
from typing_extensions import override

from ..state.completion import FILES, SIDES, Suggestion, Typing, matching, typing_at
from ..state.sanitize import fit, one_line

Source = Callable[[Typing], Sequence[Suggestion]]
"""Finds all suggestions for an argument; runs in a thread, so it may read files."""

ROWS = 8
_MOVES = {"up": -1, "down": 1}
_GAP = 2  # cells between a name and its help
_ROOM_ABOVE = 1  # the header


class Completions(Widget):
    """Opens by itself as one types into an area, without a layout of other widgets."""

    ALLOW_SELECT = False

    def __init__(self, area: TextArea) -> None:
        super().__init__(id="completions")
        self.sources: Mapping[str, Source] = {}  # by name
        self.taken: set[str] = set()  # files
        self.commands = True  # a line may be one
        self._area = area
        self._typing: Typing | None = None  # what the rows complete; None while they are not shown
        self._rows: Sequence[Suggestion] = ()
        self._at = self._top = 0  # the chosen row, the first one in view
        self._known: tuple[str, str] | None = None  # whose suggestions `_all` has
        self._all: Sequence[Suggestion] = ()
        self._dismissed: Typing | None = None
        self._message = ""

    # What is typed

    def typed(self, *, opens: bool) -> None:
        """A key was typed in the area, which may open the list; it is painted first."""
        typing = self._current()
        if typing is None:
            self._dismissed = None
        if self._typing is not None or (opens and typing is not None):
            self.call_after_refresh(self._look)

    def _current(self) -> Typing | None:
        (row, column), area = self._area.cursor_location, self._area
        if not area.selection.is_empty or not area.has_focus:
            return None
        before = area.document.get_line(row)[:column]
        typing = typing_at(before, alone=self.commands and area.document.line_count == 1)
        return typing if typing is not None and typing.source in self.sources else None

    def _look(self) -> None:
        typing, left = self._current(), self._dismissed
        if typing is None:
            self.close()
        elif not self._message and not (left is not None and _same_place(typing, left)):

            async def find() -> None:  # no coroutine: one that never starts would be warned of
                await self._find(typing)

            _: Worker[None] = self.run_worker(find, exclusive=True, group="completions")

    async def _find(self, typing: Typing) -> None:
        known = (typing.source, typing.of)
        if known != self._known:
            self._all = await asyncio.to_thread(self.sources[typing.source], typing)
            self._known = known
        begins = typing.source == SIDES  # other words are of a prompt
        rows = await asyncio.to_thread(matching, typing.typed, self._all, begins=begins)
        if typing != self._current() or self._message:
            return  # another key was typed, which looks again; or it led to an error
        if rows:
            self._typing, self._rows = typing, rows
            self._at = self._top = 0
            self._show(min(ROWS, len(rows)))
        else:
            self._typing = None
            self.display = False

    def close(self) -> None:
        self.workers.cancel_group(self, "completions")
        self._typing = self._known = self._dismissed = None
        if not self._message:
            self.display = False

    # Keys and the mouse

    def take_key(self, key: str) -> bool:
        """Whether the key acts here: it chooses, takes or closes."""
        typing = self._typing
        if typing is None or typing != self._current():
            return False
        complete = self._rows[self._at].text == typing.typed
        if key in _MOVES and not (complete and len(self._rows) == 1):
            self._choose((self._at + _MOVES[key]) % len(self._rows))
        elif key == "tab" or (key == "enter" and not complete):
            self._take(self._at)
        elif key == "escape":
            self.close()
            self._dismissed = typing
        else:
            return False
        return True

    def on_click(self, event: events.Click) -> None:
        place = event.get_content_offset(self)
        if self._typing is not None and place is not None and self._top + place.y < len(self._rows):
            self._take(self._top + place.y)

    def _choose(self, at: int) -> None:
        height = self.content_size.height
        self._at = at
        self._top = min(max(self._top, at - height + 1), at)
        self.refresh()

    def _take(self, at: int) -> None:
        typing, area = self._typing, self._area
        if typing is not None:
            row, column = area.cursor_location
            if typing.source == FILES:
                self.taken.add(self._rows[at].text)
            written = typing.written(self._rows[at])
            start = (row, column - typing.length)
            area.replace(written, start, (row, column), maintain_selection_offset=False)
            self.typed(opens=True)

    # Drawing

    def say(self, message: str) -> None:
        """Show the whole of a message, "" to hide it."""
        if message or self._message:
            self._message = message
            self.close()
            if message:  # the area may grow for its hint
                self.call_after_refresh(self._show_message)

    def _show_message(self) -> None:
        if self._message:
            self._show(len(wrap(self._message, self._width)))

    def settle(self) -> None:
        """Leave the list, and show the message where the area is now."""
        self.close()
        self.call_after_refresh(self._show_message)

    @property
    def _width(self) -> int:
        return max(1, self._area.outer_size.width - 4)

    def _show(self, rows: int) -> None:
        """Show so many rows above the area, as far as there is room."""
        frame = self.styles.gutter.height
        bottom = self._area.region.y
        height = min(rows, bottom - frame - _ROOM_ABOVE)
        self.display = height > 0
        if height > 0:
            self.styles.height = height + frame
            self.styles.offset = (0, bottom - height - frame)
            self.refresh()

    @override
    def render(self) -> Content:
        if self._message:
            lines = wrap(self._message, self._width)
            return Content("\n").join(Content.styled(line, "$foreground") for line in lines)
        shown = self._rows[self._top : self._top + max(0, self.content_size.height)]
        names = [one_line(each.text) for each in shown]
        cells = min(max(map(cell_len, names), default=0), self.content_size.width // 2)
        rows = (
            self._row(name, each.help, cells, chosen=self._top + at == self._at)
            for at, (name, each) in enumerate(zip(names, shown, strict=True))
        )
        return Content("\n").join(rows)

    def _row(self, name: str, text: str, cells: int, *, chosen: bool) -> Content:
        mark = "▸" if chosen else " "
        room = max(0, self.content_size.width - cells - _GAP - 2)
        style = "bold $block-cursor-foreground on $block-cursor-background" if chosen else "bold"
        help_style = style if chosen else "$notice"
        return Content.assemble(
            (f"{mark} {fit(name, cells)}", style),
            (" " * _GAP + fit(one_line(text), room), help_style),
        )


def _same_place(one: Typing, other: Typing) -> bool:
    """Whether the one goes on from the other."""
    same = (one.source, one.of) == (other.source, other.of)
    return same and (one.typed.startswith(other.typed) or other.typed.startswith(one.typed))
