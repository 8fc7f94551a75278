"""The conversation: entries one under another, held at the end until a person scrolls away.

Drawn line by line, and only where it is looked at, so that a token more costs one block of
Markdown and a repaint of the lines that changed, however long the chat is; a tree of widgets per
message cost half a core while text streamed. Which row is whose, and what is kept, is `rows`.
"""

import io
from collections.abc import Hashable, Sequence
from typing import ClassVar

from rich.console import Console
from rich.style import Style
from rich.syntax import SyntaxTheme
from textual.content import Content
from textual.geometry import Offset, Size
from textual.selection import Selection

from ..config.keymap import Keys
from ..config.themes import least_contrast
from ..present.code_colors import CODE_STYLES, ReadableCode
from ..present.markdown import MarkdownLook, MarkdownPen
from ..state.answer import Answer
from ..store.matching import Term
from .blocks import Look
from .entries import AnswerEntry, Entry, TextEntry
from .line_view import LineView
from .rows import Anchor, Row, Rows
from .sought import occurring
from .welcome import welcome

_STYLES = (
    "text", "user", "name", "note", "error", "figures", "heading", "code", "quiet", "fence",
    "walked", "walked-bonus", "sought", "rank-0", "rank-1", "rank-2", "rank-3",
)  # fmt: skip


class Transcript(LineView, can_focus=True):
    """Messages and notes in order."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"transcript--{name}" for name in _STYLES}
    DEFAULT_CSS = """
    Transcript {
        overflow-x: hidden;
        border-subtitle-color: $primary;
        & .transcript--text { color: $foreground; }
        & .transcript--user { color: $user; text-style: bold; }
        & .transcript--name, & .transcript--heading { color: $primary; text-style: bold; }
        & .transcript--note, & .transcript--figures, & .transcript--quiet { color: $notice; }
        & .transcript--error { color: $error; }
        & .transcript--code { color: $secondary; }
        & .transcript--fence { background: $surface; }
        & .transcript--walked { color: $accepted; background: $accepted 25%; text-style: bold; }
        & .transcript--walked-bonus { color: $bonus; background: $bonus 25%; text-style: bold; }
        & .transcript--sought { color: $bonus; text-style: bold underline; }
        & .transcript--rank-0 { color: $bonus; text-style: bold; }
        & .transcript--rank-1 { color: $rank-1; }
        & .transcript--rank-2 { color: $rank-2; text-style: underline; }
        & .transcript--rank-3 { color: $rank-3; text-style: italic underline; }
    }
    """

    def __init__(self) -> None:
        super().__init__("transcript")
        self._keys = Keys()
        self._rows = Rows()
        self._rows.replace([welcome(self._keys)])
        self._empty = True
        self._tinted = False
        self._look: Look | None = None
        self._window: list[Row] = []
        self._window_top = 0
        self._follows = True
        self._placing = False
        self._stale = False
        self._walked: tuple[int, int] | None = None
        self._marked: Sequence[Entry] = ()
        self._revealed: Sequence[Entry] = ()
        self._due = False

    def use_keys(self, keys: Keys) -> None:
        """Call actions by the keys that a person chose."""
        self._keys = keys
        if self._empty:
            self._rows.replace([welcome(self._keys)])
            self.redraw()

    def on_mount(self) -> None:
        """Show the welcome text."""
        self.border_title = "Chat"
        self.redraw()

    def add_user(self, text: str) -> TextEntry:
        """A message of the person; the view goes to the end."""
        self._unmark()
        self._follows = True
        entry = TextEntry(text, "text", name="You")
        self._add(entry)
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
        self._unmark()
        for left in {*self._rows.entries}.difference(entries):
            left.release()  # another branch may never be looked at again
        for entry in entries:
            if isinstance(entry, AnswerEntry):
                entry.tinted = self._tinted
        self._rows.replace(entries or [welcome(self._keys)])
        self._empty, self._follows, self._walked = not entries, True, None
        self.redraw()

    def reveal(self, entry: Entry) -> None:
        """Bring the beginning of an entry into view."""
        self.seek([entry], ())

    def seek(self, entries: Sequence[Entry], wanted: tuple[Term, ...]) -> None:
        """Bring into view where the words of a search stand, and the beginning if it is near.

        They are marked until something else is sought, shown or said.

        Args:
            entries: in which they stand, one after another.
            wanted: the words; where there are none, the beginning of the first entry is revealed.
        """
        self._unmark()
        for entry in entries:
            entry.sought = wanted
        self._marked = self._revealed = entries
        self._due, self._follows = True, False
        self.redraw()

    def _unmark(self) -> None:
        for entry in self._marked:
            entry.sought = ()
        self._marked = self._revealed = ()

    def clear(self) -> None:
        """Back to the welcome text."""
        self._unmark()
        self._rows.replace([welcome(self._keys)])
        self._empty = self._follows = True
        self._walked = None
        self.redraw()

    def tint(self, tinted: bool) -> None:
        """Tint the tokens of all answers, or of none."""
        self._tinted = tinted
        for entry in self._rows.entries:
            if isinstance(entry, AnswerEntry):
                entry.tinted = tinted
        top = self.scroll_offset.y
        place = self._rows.place(top)
        self._rows.measure()
        self._show(self._rows.anchor(self._rows.row_of(place), self._room))

    def follow(self) -> None:
        """Go to the end and stay there."""
        self._follows, self._revealed = True, ()
        self.redraw()

    @property
    def follows(self) -> bool:
        """Whether the view stays at the end as the chat grows."""
        return self._follows

    def text(self) -> str:
        """The whole chat as it is shown, drawn for once."""
        return "\n".join(self._rows.text())

    def redraw(self) -> None:
        """Show what the entries hold now; stays at the end if it is there."""
        self._stale = False
        if self._width <= 0:
            return
        look, place = self._current_look(), self._rows.place(self.scroll_offset.y)
        anchor = self._rows.anchor(self.scroll_offset.y, self._room)
        wrapped = self._rows.use(self._width, look)
        if wrapped:
            anchor = self._rows.anchor(self._rows.row_of(place), self._room)
        self._rows.refresh()
        if self._revealed and (wrapped or self._due):
            self._place(self._bring(self._rows.height if wrapped else self.scroll_offset.y))
        else:
            self._show(anchor)

    @property
    def _width(self) -> int:
        return self.scrollable_content_region.width

    @property
    def _room(self) -> int:
        return self.size.height

    def _show(self, anchor: Anchor | None) -> None:
        """Draw what is in view, with the anchor where it was, and repaint what changed."""
        top = self._follow_walk()
        if top is None:
            top = self._rows.settle(None if self._follows else anchor, self._room)
        self._place(top)

    def _bring(self, top: int) -> int:
        """Where the view goes from a row so that what was revealed is in it."""
        self._due = False
        entries, room = self._rows.entries, self._room
        top = self._rows.reveal(Anchor(entries.index(self._revealed[0]), 0, 0), 0, top, room)
        found = max(self._revealed, key=lambda entry: occurring(entry.said, entry.sought))
        place = found.sought_place(self._width, self._current_look())
        if place is None:
            return top
        block, line = place
        return self._rows.reveal(Anchor(entries.index(found), block, room // 3), line, top, room)

    def _place(self, top: int) -> None:
        """Take the size and the place that were found out, and repaint the lines that changed."""
        before, moved = self._window, self._window_top != top
        self._placing = True
        self._grow(Size(self._width, self._rows.height))
        if self.scroll_offset.y != top or self.scroll_target_y != top:
            self.scroll_to(y=top, animate=False, force=True)
        self._placing = False
        if self._walked is None and top + self._room >= self._rows.height:
            self._follows = True
        self._window, self._window_top = self._rows.window(top, self._room), top
        if moved or len(before) != len(self._window):
            self.refresh()
        else:
            for y, (old, new) in enumerate(zip(before, self._window, strict=True)):
                if old is not new and old != new:
                    self.refresh_line(top + y)
        self._hint(self._rows.height - top - self._room)

    def _hint(self, below: int) -> None:
        """Say on the border how much there is below the view."""
        lines = f"▼ {below} more line{'s' if below > 1 else ''}: End"
        hint = lines if below > 0 and not self._follows else ""
        if str(self.border_subtitle or "") != hint:
            self.border_subtitle = Content(hint)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        """A person scrolled: let go of the end, or take hold of it again."""
        super().watch_scroll_y(old_value, new_value)
        if self._placing or self._width <= 0 or round(old_value) == round(new_value):
            return
        top, self._revealed = round(new_value), ()
        self._follows = top >= self._rows.height - self._room
        anchor = None if self._follows else self._rows.anchor(top, self._room)
        self._place(self._rows.settle(anchor, self._room))

    def _follow_walk(self) -> int | None:
        """Where the view goes as the walk moves: to the walked step's text, at last to the end."""
        walked = next(
            (
                (at, entry)
                for at, entry in enumerate(self._rows.entries)
                if isinstance(entry, AnswerEntry) and entry.walked_step is not None
            ),
            None,
        )
        now = (walked[0], walked[1].walked_step or 0) if walked else None
        moved, self._walked = now != self._walked, now
        if not moved:
            return None
        self._revealed = ()
        if walked is None:
            self._follows = True
            return None
        self._follows = False
        at, entry = walked
        block, line = entry.walked_place(self._width, self._current_look()) or (0, 0)
        top, room = self.scroll_offset.y, self._room
        return self._rows.reveal(Anchor(at, block, room // 2), line, top, room)

    def _grow(self, size: Size) -> None:
        """Take another virtual size; lays out the screen only where a scroll bar comes or goes."""
        room = self.container_size.height
        if (self.virtual_size.height > room) != (size.height > room):
            self.virtual_size = size
            return
        self.set_reactive(Transcript.virtual_size, size)
        if size.height > room:
            self.vertical_scrollbar.window_virtual_size = size.height

    def line(self, at: int) -> Row:
        """As `LineView` has it."""
        place = at - self._window_top
        return self._window[place] if 0 <= place < len(self._window) else None

    @property
    def look(self) -> Hashable:
        """As `LineView` has it."""
        return self._current_look()

    @property
    def blank(self) -> Style:
        """As `LineView` has it."""
        return self._current_look().styles["text"]

    def notify_style_update(self) -> None:
        """Another theme: every line is drawn anew."""
        super().notify_style_update()
        self._look = None
        self.call_later(self._redraw_in_look)

    def _redraw_in_look(self) -> None:
        """The styles of parts are taken over only after the widget was told."""
        self._look = None
        self.redraw()
        self.refresh()

    def on_resize(self) -> None:
        """Another width wraps otherwise."""
        self.redraw()

    def watch_show_vertical_scrollbar(self) -> None:
        """A scroll bar takes a column; no resize tells of it."""
        self.call_after_refresh(self.redraw)

    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        """The selected text, as it is shown."""
        first = selection.start.y if selection.start is not None else 0
        lines = self._rows.text(first, selection.end.y if selection.end is not None else None)
        start, end = (at if at is None else Offset(at.x, at.y - first) for at in selection)
        return Selection(start, end).extract("\n".join(lines)), "\n"

    def _add(self, entry: Entry) -> None:
        if self._empty:
            self._rows.replace([])
            self._empty = False
        self._rows.append(entry)
        if not self._stale:
            self._stale = True
            self.call_later(self._redraw_stale)

    def _redraw_stale(self) -> None:
        """Draw what was added, all of it at once: an opened session may be long."""
        if self._stale:
            self.redraw()

    def _current_look(self) -> Look:
        if self._look is None:
            styles = {name: self._style(name) for name in _STYLES}
            markdown = MarkdownLook(
                styles["heading"], styles["code"], styles["quiet"], *self._code_look()
            )
            console = Console(file=io.StringIO(), color_system="truecolor", force_terminal=True)
            self._look = Look(styles, MarkdownPen(markdown), console)
        return self._look

    def _code_look(self) -> tuple[str, SyntaxTheme | str]:
        """Ground and colours of code blocks."""
        theme = self.app.current_theme
        if self.app.native_ansi_color:
            return "default", "ansi_dark" if theme.dark else "ansi_light"
        fence = self.get_component_styles("transcript--fence").background
        ink = self.get_component_styles("transcript--text").color
        return fence.hex6, ReadableCode(CODE_STYLES[theme.dark], fence, ink, least_contrast(theme))

    def _style(self, name: str) -> Style:
        return self.get_component_rich_style(f"transcript--{name}")
