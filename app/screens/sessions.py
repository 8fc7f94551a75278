"""The list of sessions: open, rename, delete and bring back. It is read in a thread."""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import ClassVar

from textual import events, on, work
from textual.binding import BindingType
from textual.content import Content
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from sequoia_core.errors import counted

from ..config.actions import bindings
from ..present.words import when
from ..state.sanitize import fit, visible
from ..store.archive import SessionInfo
from ..store.database import StoreError
from ..store.recorder import DatabaseRecorder
from ..widgets.line import Line
from .dialog import Dialog, highlighted
from .search import Place, SearchScreen

_NAMING = "enter keeps it, empty takes it away   esc leaves it"
_DELETED = "deleted for good when this window closes"
_DATE_CELLS = 17
_NARROW_CELLS = 64
_FRAME_CELLS = 8


class SessionsScreen(Dialog[Place | None]):
    """The list of sessions over the chat; ends with the session to open, or None.

    Args:
        record: the record of the chats.
        busy: whether an answer is under way: then the open session cannot be deleted.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("sessions")
    DEFAULT_CSS = """
    SessionsScreen {
        & > Vertical { width: 110; }
        & OptionList > .option-list--option-disabled { color: $notice; }
        & Input { display: none; }
        & Line { dock: bottom; }
    }
    """

    def __init__(self, record: DatabaseRecorder, busy: Callable[[], bool]) -> None:
        self._list = OptionList(markup=False)
        self._name_input = Input(placeholder="a name for this session", select_on_focus=False)
        self._keys = Line()
        super().__init__("Sessions", self._list, self._name_input, self._keys)
        self._record, self._busy = record, busy
        self._infos: list[SessionInfo] = []
        self._deleted: list[str] = []
        self._renamed: str | None = None
        self._search: SearchScreen | None = None

    def on_mount(self) -> None:
        """Read the list."""
        self._list.focus()
        self._read()

    def on_resize(self) -> None:
        """Cut the titles to the width."""
        if self._renamed is None:
            self._keys.show(self._key_line())
        self.call_after_refresh(self._show)

    def _key_line(self) -> str:
        acts = ("rename", "delete", "undo", "search", "close")
        shown = [f"{self.app.keys.shown(f'sessions.{act}')} {act}" for act in acts]
        line = "   ".join(["enter open", *shown])
        return line if len(line) <= self.app.size.width - _FRAME_CELLS else "  ".join(shown)

    def on_key(self, event: events.Key) -> None:
        """Open the search, and pass on what is typed behind its key.

        Keys may come in a burst: as a binding the search would open after the keys behind it.
        """
        if self._search is not None:
            event.stop()
            self._search.on_key(event)
        elif event.key in self.app.keys.of("sessions.search"):
            event.stop()
            self.action_search()

    @property
    def chosen(self) -> SessionInfo | None:
        """The highlighted session."""
        return highlighted(self._list, self._infos)

    @property
    def deleted_open_session(self) -> bool:
        """Whether the open session was deleted here and not brought back."""
        return self._record.session in self._deleted

    @work(exclusive=True)
    async def _read(self) -> None:
        try:
            self._infos = await asyncio.to_thread(self._current)
        except StoreError as error:
            self._infos = []
            self._say(str(error))
        self._show()

    def _current(self) -> list[SessionInfo]:
        self._record.settle(0.2)
        return self._record.archive.sessions()

    def _show(self) -> None:
        chosen = self.chosen.id if self.chosen is not None else None
        self._list.clear_options()
        if self._infos:
            room = max(10, self._list.scrollable_content_region.width or self._frame.size.width - 2)
            self._list.add_options(Option(self._row(info, room)) for info in self._infos)
            ids = [info.id for info in self._infos]
            self._list.highlighted = ids.index(chosen) if chosen in ids else 0
        else:
            nothing = Content("  no session yet: the first message begins one")
            self._list.add_option(Option(nothing, disabled=True))

    def _row(self, info: SessionInfo, room: int) -> Content:
        remarks = self._remarks(info)
        figures = counted(info.exchanges, "message")
        date = when(info.changed, time.time())
        right = f"{date:>{_DATE_CELLS}} "
        if room >= _NARROW_CELLS:
            right = f"  {figures:>13}{right}"
        remark = f"  {remarks}" if remarks else ""
        left = fit(visible(info.label), max(7, room - 1 - len(right) - len(remark)))
        label = left.rstrip()
        style = "strike $notice" if info.deleted else "bold" if info.name else ""
        return Content.assemble(
            " ", (label, style), left[len(label) :], (remark, "$bonus"), (right, "$notice")
        )

    def _remarks(self, info: SessionInfo) -> str:
        if info.deleted:
            return self.app.keys.shown("deleted, sessions.undo brings it back")
        here = info.id == self._record.session
        others = info.windows - here
        words = ["open here"] * here + ["open in another window"] * (others > 0)
        return " · ".join([*words, *["cut off"] * (info.cut_off > 0)])

    @on(OptionList.OptionSelected)
    def _open(self) -> None:
        info = self.chosen
        if info is not None and not info.deleted:
            self.dismiss(Place(info.id))
        elif info is not None:
            self._say(self.app.keys.shown("deleted: sessions.undo brings it back"))

    def action_leave(self) -> None:
        """Leave the naming, or the list."""
        if self._renamed is not None:
            self._end_naming()
        else:
            self.dismiss(None)

    def action_search(self) -> None:
        """Search all sessions; leaving the search leads back to the list."""
        if self.is_current:
            self._search = SearchScreen(self._record)
            self.app.push_screen(self._search, self._searched)

    def _searched(self, place: Place | None) -> None:
        self._search = None
        if place is not None:
            self.dismiss(place)

    def action_rename(self) -> None:
        """Ask for a name for the highlighted session."""
        info = self.chosen
        if info is None or info.deleted or not self.is_current:
            return
        self._renamed = info.id
        self._name_input.value = info.name or ""
        self._name_input.cursor_position = len(self._name_input.value)
        self._name_input.display = True
        self._keys.show(_NAMING)
        self._name_input.focus()

    @on(Input.Submitted)
    async def _name_given(self, message: Input.Submitted) -> None:
        message.stop()
        session, name = self._renamed, " ".join(message.value.split()) or None
        self._end_naming()
        if session is None:
            return
        await self._change(self._record.rename(session, name))

    async def _change(self, change: "Future[None]", said: str = "") -> bool:
        """Wait for a change of the record, and show it; whether it succeeded."""
        try:
            await asyncio.wrap_future(change)
        except StoreError as error:
            said = str(error)
            return False
        finally:
            if said:
                self._say(said)
            self._read()
        return True

    def _end_naming(self) -> None:
        self._renamed = None
        self._name_input.display = False
        self._keys.show(self._key_line())
        self._list.focus()

    async def action_delete(self) -> None:
        """Delete the highlighted session; it can be brought back until the window is closed."""
        info = self.chosen
        if info is None or info.deleted or not self.is_current:
            return  # also when a key comes late, after the list was left
        if self._busy() and info.id == self._record.session:
            self._say("an answer is being written in it: Esc, stop it, then delete")
            return
        if await self._change(self._record.delete(info.id), _DELETED):
            self._deleted.append(info.id)

    async def action_undo(self) -> None:
        """Bring back the highlighted session if it is deleted, else the one deleted last."""
        info = self.chosen
        session = info.id if info is not None and info.deleted else None
        if not self.is_current:
            return
        if session is None and self._deleted:
            session = self._deleted[-1]
        if session is None:
            self._say("nothing was deleted")
            return
        if await self._change(self._record.undelete(session), "it is back"):
            self._deleted = [each for each in self._deleted if each != session]
