"""The conversation: entries one below another, held at the end until a person scrolls away."""

from collections.abc import Sequence
from typing import ClassVar

from rich.segment import Segment
from rich.style import Style
from textual import events
from textual.content import Content
from textual.geometry import Offset, Size
from textual.message import Message
from textual.selection import Selection
from typing_extensions import override

from sequoia_core.errors import counted

from ..config.keymap import Keys
from ..store.text_search import Term
from .entries import AnswerEntry, Entry, MessageEntry
from .entry_layout import Anchor, EntryLayout, TextLine
from .line_view import LineView
from .transcript_styles import STYLES, Look, current_look
from .welcome import WelcomeEntry


class Transcript(LineView[list[Segment]], can_focus=True):
    """Draws visible lines only; a widget per message took half a core while text streamed."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {f"transcript--{name}" for name in STYLES}
    BORDER_TITLE = "Chat"

    class Resized(Message):
        """There is another room for lines and for the title."""

    def __init__(self) -> None:
        super().__init__("transcript")
        self.follows = True  # the view stays at the end as the chat grows
        self._welcome: WelcomeEntry | None = None  # above notes while there is no message
        self._layout = EntryLayout()
        self.tinted = False  # tokens have the colours of where they came from
        self._look: Look | None = None
        self._window: list[TextLine] = []
        self._window_top = 0
        self._placing = False
        self._stale = False
        self._walked: tuple[int, int | None] | None = None
        self._searched: Sequence[Entry] = ()
        self._target: Sequence[Entry] = ()  # scrolled to again when the width changes
        self._target_due = False

    def use_keys(self, keys: Keys) -> None:
        """Welcome with these keys while there is no message."""
        notes, self._welcome = self._without_welcome, WelcomeEntry(keys)
        if not _has_answer(notes):
            self._layout.replace([self._welcome, *notes])
            self.redraw()

    def begin(self, *entries: Entry) -> None:
        """Add a message and its answer; the view goes to the end."""
        self._clear_search()
        self.follows = True
        if self._welcomes:
            self._layout.replace(self._without_welcome)
        self.add(*entries)

    def add(self, *entries: Entry) -> None:
        """Add entries; `redraw` shows what comes into an answer among them."""
        for entry in entries:
            self._layout.append(entry)
        self._tint(entries)
        if not self._stale:  # a recording may be long: all of it is drawn at once
            self._stale = True
            self.call_later(self.redraw)

    def take_out(self, entry: Entry) -> None:
        """Take an entry out, wherever it is; `add` follows, which draws the rest."""
        if entry in self._layout.entries:
            entry.release()
            self._layout.replace(each for each in self._layout.entries if each is not entry)

    def show(self, entries: Sequence[Entry]) -> None:
        """Show these entries from the end, with the welcome above them if there is no message."""
        self._clear_search()
        for left in {*self._layout.entries}.difference(entries):
            left.release()  # another branch may never be looked at again
        welcome = [self._welcome] if self._welcome is not None else []
        self._layout.replace(entries if _has_answer(entries) else [*welcome, *entries])
        self._tint(entries)
        self.follows, self._walked = True, None
        self.redraw()

    def tint(self, tinted: bool) -> None:
        """Tint the tokens of all answers, or of none."""
        self.tinted = tinted
        self._tint(self._layout.entries)
        if self._width > 0:
            top = self._layout.measure(self.scroll_offset.y, self._layout.width)
            self._settle(self._layout.anchor(top, self._room))

    def _tint(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if isinstance(entry, AnswerEntry):
                entry.tinted = self.tinted

    def follow(self) -> None:
        self.follows, self._target = True, ()
        self.redraw()

    def scroll_to_match(self, entries: Sequence[Entry], terms: tuple[Term, ...] = ()) -> None:
        """Bring the best match of a search into view, and the beginning if it is near.

        All matches are highlighted until the next search, message or branch. Without terms, the
        view goes to the beginning of the first entry.
        """
        self._clear_search()
        for entry in entries:
            entry.search(terms)
        self._searched = self._target = entries
        self._target_due, self.follows = True, False
        self.redraw()

    def unfold(self) -> bool:
        """Open or close what is folded in a message, the last in view or else the last of all.

        Returns whether there is one.
        """
        in_view = self._layout.in_view(self.scroll_offset.y, self._room)
        for entry in [*reversed(in_view), *reversed(self._layout.entries)]:
            if isinstance(entry, MessageEntry) and entry.folds:
                self._toggle(entry)
                if entry not in in_view:
                    self.scroll_to_match((entry,))
                return True
        return False

    def on_click(self, event: events.Click) -> None:
        """Open or close a part of a message by its line."""
        if self.text_selection is not None:  # what ends here selected text
            event.stop()  # the widgets around it would carry out what a starter does
            event.prevent_default()
            return
        place = event.get_content_offset(self)
        found = self._layout.place_at(place.y + self.scroll_offset.y) if place is not None else None
        entry, block = found or (None, 0)
        if isinstance(entry, MessageEntry):
            self._toggle(entry, block)

    def _toggle(self, entry: MessageEntry, block: int | None = None) -> None:
        if entry.toggle(block):
            self.follows, self._target = False, ()
            self.redraw()

    def _clear_search(self) -> None:
        for entry in self._searched:
            entry.search(())
        self._searched = self._target = ()

    def redraw(self) -> None:
        """Show what the entries hold now; stays at the end if it is there."""
        self._stale = False
        if self._width <= 0:
            return
        if self._welcome is not None and self._welcomes:
            notes = sum(each.estimate_height(self._width) for each in self._without_welcome)
            self._welcome.use_room(self._room - notes)
        wrapped = self._width != self._layout.width
        top = self._layout.use(self._width, self.look, self.scroll_offset.y)
        anchor = self._layout.anchor(top, self._room)
        self._layout.refresh()
        if self._target and (wrapped or self._target_due):
            self._target_due = False
            self._place(self._target_top(self._layout.height if wrapped else top))
        else:
            self._settle(anchor)

    @property
    def _welcomes(self) -> bool:
        return self._layout.entries[:1] == [self._welcome]

    @property
    def _without_welcome(self) -> list[Entry]:
        return self._layout.entries[self._welcomes :]

    @property
    def _width(self) -> int:
        return self.scrollable_content_region.width

    @property
    def _room(self) -> int:
        return self.size.height

    def _settle(self, anchor: Anchor | None) -> None:
        """Draw what is in view with the anchor in place, and repaint what changed."""
        top = self._walked_top()
        if top is None:
            top = self._layout.settle(None if self.follows else anchor, self._room)
        self._place(top)

    def _target_top(self, top: int) -> int:
        """Where the view goes from a row so that the target is in it."""
        entries, room = self._layout.entries, self._room
        top = self._layout.scroll_to(Anchor(entries.index(self._target[0]), 0, 0), 0, top, room)
        best = max(self._target, key=Entry.count_found)
        match = best.find_match(self._width, self.look)
        if match is None:
            return top
        block, line = match
        anchor = Anchor(entries.index(best), block, room // 3)
        return self._layout.scroll_to(anchor, line, top, room)

    def _walked_top(self) -> int | None:
        """Where the view goes when another step is walked to: to its text, at last to the end."""
        walked = [
            (at, entry)
            for at, entry in enumerate(self._layout.entries)
            if isinstance(entry, AnswerEntry) and entry.walked_step is not None
        ]
        now = (walked[0][0], walked[0][1].walked_step) if walked else None
        if now == self._walked:
            return None
        self._walked, self._target, self.follows = now, (), not walked
        if not walked:
            return None
        at, entry = walked[0]
        block, line = entry.walked_place(self._width)
        anchor = Anchor(at, block, self._room // 2)
        return self._layout.scroll_to(anchor, line, self.scroll_offset.y, self._room)

    def _place(self, top: int) -> None:
        """Scroll to a row that is settled, and repaint the lines that changed."""
        before, moved = self._window, self._window_top != top
        self._placing = True
        self._resize(Size(self._width, self._layout.height))
        if self.scroll_offset.y != top or self.scroll_target_y != top:
            self.scroll_to(y=top, animate=False, force=True)
        self._placing = False
        below = self._layout.height - top - self._room
        if self._walked is None and below <= 0:
            self.follows = True
        self._window, self._window_top = self._layout.window(top, self._room), top
        if moved or len(before) != len(self._window):
            self.refresh()
        else:
            for y, (old, new) in enumerate(zip(before, self._window, strict=True)):
                if old is not new and old != new:
                    self.refresh_line(top + y)
        hint = f"▼ {counted(below, 'more line')}: End" if below > 0 and not self.follows else ""
        if str(self.border_subtitle or "") != hint:
            self.border_subtitle = Content(hint)

    def _resize(self, size: Size) -> None:
        """Set the virtual size; lays out the screen only where a scroll bar comes or goes."""
        room = self.container_size.height
        if (self.virtual_size.height > room) != (size.height > room):
            self.virtual_size = size
            return
        self.set_reactive(Transcript.virtual_size, size)
        if size.height > room:
            self.vertical_scrollbar.window_virtual_size = size.height

    @override
    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        if self._placing or self._width <= 0 or round(old_value) == round(new_value):
            return
        top, self._target = round(new_value), ()
        self.follows = top >= self._layout.height - self._room
        anchor = None if self.follows else self._layout.anchor(top, self._room)
        self._place(self._layout.settle(anchor, self._room))

    def on_resize(self) -> None:
        self.redraw()
        self.post_message(self.Resized())

    def watch_show_vertical_scrollbar(self) -> None:
        """Wrap without the column of the scroll bar, for which no resize event comes."""
        self.call_after_refresh(self.redraw)

    @override
    def item_at(self, y: int) -> TextLine:
        at = y + self.scroll_offset.y - self._window_top
        return self._window[at] if 0 <= at < len(self._window) else None

    @override
    def segments(self, item: list[Segment], width: int) -> list[Segment]:
        return item

    @property
    @override
    def blank(self) -> Style:
        return self.look.styles["text"]

    def text(self, first: int = 0, last: int | None = None) -> list[str]:
        """Lines `first` to `last` as they are shown.

        Their heights are exact from now on where they were estimated; the view stays in place.
        """
        if self._width <= 0:
            return self._layout.text(first, last)
        anchor = self._layout.anchor(self.scroll_offset.y, self._room)
        lines = self._layout.text(first, last)
        self._settle(anchor)
        return lines

    @override
    def get_selection(self, selection: Selection) -> tuple[str, str] | None:
        first = selection.start.y if selection.start is not None else 0
        lines = self.text(first, selection.end.y if selection.end is not None else None)
        start, end = (at if at is None else Offset(at.x, at.y - first) for at in selection)
        return Selection(start, end).extract("\n".join(lines)), "\n"

    @property
    @override
    def look(self) -> Look:
        if self._look is None:
            self._look = current_look(self)
        return self._look

    @override
    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._look = None
        self.call_later(self._redraw_in_look)  # component styles change only after this

    def _redraw_in_look(self) -> None:
        self._look = None
        self.redraw()
        self.refresh()


def _has_answer(entries: Sequence[Entry]) -> bool:
    return any(isinstance(entry, AnswerEntry) for entry in entries)
