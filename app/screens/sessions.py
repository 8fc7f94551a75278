"""The list of sessions, and the search in all of them. Both read the record in a thread."""

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import NamedTuple

from textual import on, work
from textual.content import Content
from textual.widgets import Input, OptionList
from typing_extensions import override

from sequoia_core.errors import counted

from ..config.actions import bindings
from ..present.words import when
from ..state.sanitize import fit, visible
from ..store.archive import SearchHit, SessionInfo
from ..store.recorder import DatabaseRecorder
from ..store.text_search import Term, excerpt, terms
from ..ui.base_app import errors_shown
from .dialog import Dialog, FilterDialog

_NAMING = "enter saves, empty removes the name   esc cancels"
_DELETED = "deleted for good when this window closes"
_SETTLE_SECONDS = 0.2
_DATE_CELLS = 17
_NARROW_CELLS = 64

MOST = 200  # hits of a search that are shown
_PATIENCE_SECONDS = 0.12
_HIT = "bold underline $bonus"
_EXCERPT_MARGIN = 17  # cells around an excerpt: who wrote it, and the dots where it is cut


class Place(NamedTuple):
    """A place to open: a session, at one of its exchanges or else where it was left."""

    session: str
    exchange: str | None = None
    wanted: tuple[Term, ...] = ()  # what to find in the exchange


class SessionsScreen(Dialog[Place | None, SessionInfo | None]):
    """The list of sessions over the chat; ends with the session to open, or None.

    While an answer is under way (`busy`), the open session cannot be deleted.
    """

    BINDINGS = bindings("sessions")
    KEYS = (
        "enter open  sessions.rename rename  sessions.delete delete  sessions.search search  "
        "sessions.close close"
    )

    def __init__(self, record: DatabaseRecorder, busy: Callable[[], bool]) -> None:
        super().__init__("Sessions", placeholder="a name for this session")
        self._record, self._busy = record, busy
        self._deleted: list[str] = []
        self._renamed = ""

    def on_mount(self) -> None:
        self._read()

    def on_resize(self) -> None:
        self.call_after_refresh(lambda: self._show(self._items))

    @property
    def deleted_open_session(self) -> bool:
        """Whether the open session was deleted here and not brought back."""
        return self._record.session in self._deleted

    # Rows

    @work(exclusive=True)
    async def _read(self) -> None:
        infos: Sequence[SessionInfo] = ()
        with errors_shown(self._say):
            infos = await asyncio.to_thread(self._current)
        self._show(infos)

    def _current(self) -> list[SessionInfo]:
        self._record.settle(_SETTLE_SECONDS)
        return self._record.archive.sessions()

    def _show(self, infos: Sequence[SessionInfo | None]) -> None:
        chosen = self._chosen.id if self._chosen is not None else None
        rows = [(info, self._row(info)) for info in infos if info is not None]
        at = next((at for at, (info, _) in enumerate(rows) if info.id == chosen), 0)
        nothing = (None, Content("  no session yet: the first message begins one"))
        self._fill(rows or [nothing], at if rows else None)

    def _row(self, info: SessionInfo) -> Content:
        room, remarks = self._room, self._remarks(info)
        right = f"{when(info.changed, time.time()):>{_DATE_CELLS}} "
        if room >= _NARROW_CELLS:
            right = f"  {counted(info.exchanges, 'message'):>13}{right}"
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

    # Actions

    @on(OptionList.OptionSelected)
    def _open(self) -> None:
        if info := self._stored():
            self.dismiss(Place(info.id))
        elif self._chosen is not None and self._chosen.deleted:
            self._say(self.app.keys.shown("deleted: sessions.undo brings it back"))

    @override
    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        return action != "search" or not self._typing  # a name may have its key

    def action_search(self) -> None:
        """Search all sessions; leaving the search leads back to the list."""
        self.app.push_screen(SearchScreen(self._record), self._searched)

    def _searched(self, place: Place | None) -> None:
        if place is not None:
            self.dismiss(place)

    def _stored(self) -> SessionInfo | None:
        """The chosen session unless it is deleted; keys may come after the list was left."""
        info = self._chosen
        return info if info is not None and not info.deleted and self.is_current else None

    def action_rename(self) -> None:
        if info := self._stored():
            self._renamed = info.id
            self._ask(info.name or "", _NAMING)

    @on(Input.Submitted)
    async def _name_given(self, message: Input.Submitted) -> None:
        if self._typing:
            self._end_asking()
            name = " ".join(message.value.split()) or None
            await self._change(self._record.rename(self._renamed, name))

    async def action_delete(self) -> None:
        """Delete the chosen session; it can be brought back until the window is closed."""
        info = self._stored()
        if info is None:
            return
        if self._busy() and info.id == self._record.session:
            self._say("an answer is being written in it: stop it first, then delete")
        elif await self._change(self._record.delete(info.id), _DELETED):
            self._deleted.append(info.id)

    async def action_undo(self) -> None:
        """Bring back the chosen session if it is deleted, else the one deleted last."""
        if not self.is_current:
            return
        deleted = [*self._deleted]
        if self._chosen is not None and self._chosen.deleted:
            deleted.append(self._chosen.id)
        if not deleted:
            self._say("nothing was deleted")
        elif await self._change(self._record.undelete(deleted[-1]), "it is back"):
            self._deleted = [each for each in self._deleted if each != deleted[-1]]

    async def _change(self, change: "Future[None]", done: str = "") -> bool:
        """Wait for a change of the record, and show it; whether it succeeded."""
        changed = False
        with errors_shown(self._say):
            await asyncio.wrap_future(change)
            self._say(done)
            changed = True
        self._read()
        return changed


class SearchScreen(FilterDialog[Place | None, SearchHit]):
    """A search over the chat; ends with the place to open, or None."""

    BINDINGS = bindings("search")
    KEYS = "up down choose   enter open   search.close close"

    def __init__(self, record: DatabaseRecorder, words: str = "") -> None:
        super().__init__(
            "Search all sessions", placeholder='words or their beginnings; "in quotes" together'
        )
        self._record = record
        self._input.value = words
        self._wanted: tuple[Term, ...] = ()

    def on_resize(self) -> None:
        self.call_after_refresh(self._search)

    @on(Input.Changed)
    @work(exclusive=True)
    async def _search(self) -> None:
        await asyncio.sleep(_PATIENCE_SECONDS)  # a word that is still being typed
        wanted = terms(self._input.value)
        rows: list[tuple[SearchHit, Content]] = []
        with errors_shown(self._say):
            rows = await asyncio.to_thread(self._rows, wanted, self._room)
            self._say(_count(len(rows)) if wanted else "")
        self._wanted = wanted
        self._fill(rows[:MOST])

    def _rows(self, wanted: tuple[Term, ...], room: int) -> list[tuple[SearchHit, Content]]:
        hits = self._record.archive.search(wanted, MOST + 1)
        return [(hit, _row(hit, wanted, room)) for hit in hits]

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _open(self) -> None:
        if hit := self._chosen:
            self.dismiss(Place(hit.session, hit.exchange, self._wanted))


def _count(hits: int) -> str:
    if hits > MOST:
        return f"the newest {MOST} hits"
    return counted(hits, "hit") if hits else "no hit"


def _row(hit: SearchHit, wanted: tuple[Term, ...], room: int) -> Content:
    date = f"  {when(hit.started, time.time())} "
    title = fit(f" {visible(hit.label)}", max(8, room - len(date)))
    lines = [Content.assemble((title, "bold"), (date, "$notice"))]
    for name, text in (("you", hit.prompt), ("answer", hit.answer)):
        part = excerpt(text, wanted, max(3, room - _EXCERPT_MARGIN))
        if part is not None:
            pieces = [(piece, _HIT if found else "") for piece, found in part]
            lines.append(Content.assemble((f"   {name:<7} ", "$notice"), *pieces))
    return Content("\n").join(lines)
