"""The conversation: entries one under another, held at the end until a person scrolls away.

Drawn line by line from lines the entries keep, so that a token more costs one block of Markdown
and a repaint of this widget; a tree of widgets per message cost half a core while text streamed.
"""

import io
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import ClassVar

from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from ..answer import Answer
from ..markdown import Lines, MarkdownLook
from .entries import AnswerEntry, Entry, Look, TextEntry

WELCOME = """\
Every step of the decoding is drawn: a small draft model grows a tree of guesses, the target \
model reads all of them in one pass, and the path it accepts is kept, with one token of its own.

✔ accepted   ✘ rejected   · not reached   ➜ the target's own token

Type a message and press Enter. F2 pauses, Space then runs one step, [ and ] walk back and \
forth through the steps, F1 shows all keys, /? all commands."""

_STYLES = (
    "text", "user", "name", "note", "error", "figures", "heading", "code", "quiet", "fence",
    "walked", "walked-bonus", "rank-0", "rank-1", "rank-2", "rank-3",
)  # fmt: skip


class Transcript(ScrollView, can_focus=True):
    """Messages and notes in order."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"transcript--{name}" for name in _STYLES}
    DEFAULT_CSS = """
    Transcript {
        overflow-x: hidden;
        & .transcript--text { color: $foreground; }
        & .transcript--user { color: $user; text-style: bold; }
        & .transcript--name, & .transcript--heading { color: $primary; text-style: bold; }
        & .transcript--note, & .transcript--figures, & .transcript--quiet { color: $notice; }
        & .transcript--error { color: $error; }
        & .transcript--code { color: $secondary; }
        & .transcript--fence { background: $surface; }
        & .transcript--walked { color: $accepted; background: $accepted 25%; text-style: bold; }
        & .transcript--walked-bonus { color: $bonus; background: $bonus 25%; text-style: bold; }
        & .transcript--rank-0 { color: $bonus; text-style: bold; }
        & .transcript--rank-1 { color: $rank-1; }
        & .transcript--rank-2 { color: $rank-2; text-style: underline; }
        & .transcript--rank-3 { color: $rank-3; text-style: italic underline; }
    }
    """

    def __init__(self) -> None:
        super().__init__(id="transcript")
        self._welcome = TextEntry(WELCOME, "note", mark=" ")
        self._entries: list[Entry] = []
        self._tinted = False
        self._look: Look | None = None
        self._ends: list[int] = []
        self._lines: list[Lines] = []
        self._walked: tuple[int, int] | None = None

    def on_mount(self) -> None:
        """Show the welcome text."""
        self.border_title = "Chat"
        self.redraw()

    def add_user(self, text: str) -> TextEntry:
        """A message of the person; the view goes to the end."""
        entry = TextEntry(text, "text", name="You")
        self._add(entry)
        self.scroll_end(animate=False)
        return entry

    def add_answer(self, answer: Answer, name: str) -> AnswerEntry:
        """An answer that will grow; `redraw` shows that it did."""
        entry = AnswerEntry(answer, name)
        entry.tinted = self._tinted
        self._add(entry)
        return entry

    def add_note(self, text: str, *, error: bool = False) -> TextEntry:
        """A line that is nobody's message: what a command says, a notice, an error."""
        entry = TextEntry(text, "error" if error else "note", mark="▌ ")
        self._add(entry)
        return entry

    def show(self, entries: Sequence[Entry]) -> None:
        """Show these entries instead of what is there, from the end."""
        self._entries, self._walked = list(entries), None
        self.tint(self._tinted)
        self.follow()

    def follow(self) -> None:
        """Go to the end."""
        self.scroll_end(animate=False)

    def reveal(self, entry: Entry) -> None:
        """Bring the beginning of an entry into view."""
        self.redraw()
        if self._ends:
            start = [0, *self._ends][self._entries.index(entry)]
            self.scroll_to(y=start, animate=False, force=True)

    def clear(self) -> None:
        """Back to the welcome text."""
        self._entries = []
        self.redraw()

    def tint(self, tinted: bool) -> None:
        """Tint the tokens of all answers, or of none."""
        self._tinted = tinted
        for entry in self._entries:
            if isinstance(entry, AnswerEntry):
                entry.tinted = tinted
        self.redraw()

    def redraw(self) -> None:
        """Show what the entries hold now; stays at the end if it is there."""
        width = self.scrollable_content_region.width
        if width <= 0:
            return
        look = self._current_look()
        top, before = self.scroll_offset.y, self._visible_lines()
        at_end = top >= self.max_scroll_y
        self._lines = [entry.lines(width, look) for entry in self._entries or [self._welcome]]
        self._ends = list(accumulate(len(part) for part in self._lines))
        self._grow(Size(width, self._ends[-1]))
        if not self._follow_walk() and at_end:
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True)
        if self.scroll_offset.y == top:
            for y, (old, new) in enumerate(zip(before, self._visible_lines(), strict=True)):
                if old != new:
                    self.refresh_line(top + y)

    def _follow_walk(self) -> bool:
        """Bring the walked step's text into view when the walk moves, the end when it is over."""
        walked = None
        for start, entry in zip([0, *self._ends], self._entries, strict=False):
            if isinstance(entry, AnswerEntry) and entry.walked_line is not None:
                walked = (entry.walked_step or 0, start + entry.walked_line)
        moved, self._walked = walked != self._walked, walked
        if not moved:
            return walked is not None
        y, height = (
            (walked[1] if walked else self.max_scroll_y + self.size.height),
            self.size.height,
        )
        if not self.scroll_offset.y <= y < self.scroll_offset.y + height:
            self.scroll_to(y=max(0, y - height // 2), animate=False, force=True)
        return True

    def _grow(self, size: Size) -> None:
        """Take another virtual size; lays out the screen only where a scroll bar comes or goes."""
        room = self.container_size.height
        if (self.virtual_size.height > room) != (size.height > room):
            self.virtual_size = size
            return
        self.set_reactive(Transcript.virtual_size, size)
        if size.height > room:
            self.vertical_scrollbar.window_virtual_size = size.height

    def _visible_lines(self) -> list[list[Segment] | None]:
        top = self.scroll_offset.y
        return [self._line(at) for at in range(top, top + self.size.height)]

    def _line(self, at: int) -> list[Segment] | None:
        entry = bisect_right(self._ends, at)
        if entry >= len(self._ends):
            return None
        return self._lines[entry][at - (self._ends[entry - 1] if entry else 0)]

    def notify_style_update(self) -> None:
        """Another theme: every line is drawn anew."""
        super().notify_style_update()
        self._look = None
        self.redraw()
        self.refresh()

    def on_resize(self) -> None:
        """Another width wraps otherwise."""
        self.redraw()

    def render_line(self, y: int) -> Strip:
        """One visible line."""
        width = self.scrollable_content_region.width
        at = y + self.scroll_offset.y
        line = self._line(at)
        base = self._current_look().styles["text"]
        if line is None:
            return Strip.blank(width, base)
        strip = Strip(line).adjust_cell_length(width, base)
        selection = self.text_selection
        if selection is not None and (span := selection.get_span(at)) is not None:
            start, end = span
            style = self.screen.get_component_rich_style("screen--selection")
            strip = _select(strip, start, width if end == -1 else end, style)
        return strip.apply_offsets(0, at)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The selected text, as it is shown."""
        lines = ["".join(s.text for s in line).rstrip() for part in self._lines for line in part]
        return selection.extract("\n".join(lines)), "\n"

    def selection_updated(self, selection: Selection | None) -> None:
        """Show what is selected."""
        del selection
        self.refresh()

    def _add(self, entry: Entry) -> None:
        self._entries.append(entry)
        self.redraw()

    def _current_look(self) -> Look:
        if self._look is None:
            styles = {name: self._style(name) for name in _STYLES}
            fence = self.get_component_styles("transcript--fence").background
            markdown = MarkdownLook(
                styles["heading"], styles["code"], styles["quiet"], fence.hex6,
                self.app.current_theme.dark,
            )  # fmt: skip
            console = Console(file=io.StringIO(), color_system="truecolor", force_terminal=True)
            self._look = Look(styles, markdown, console)
        return self._look

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"transcript--{name}")


def _select(strip: Strip, start: int, end: int, style: Style) -> Strip:
    before, inside, after = strip.divide([start, end, strip.cell_length])
    return Strip.join([before, inside.apply_style(style), after])
