"""What `/sessions`, `/search`, `/save`, `/load` and `/continue` do, and news of the record."""

import asyncio
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sequoia_core.errors import counted
from sequoia_core.files import expanded, is_file_name

from ...state.chat_import import read_chat
from ...state.chat_session import STILL_ANSWERING, ChatError, ChatSession
from ...state.race_result import recorded_note
from ...state.sanitize import fit
from ...store.archive import SessionInfo, StoredSession
from ...store.database import StoreError
from ...store.open_windows import LeftOpen
from ...store.recorder import DatabaseRecorder, Recorder
from ...store.writer import WriteNews
from ...ui.base_app import errors_shown
from ...widgets.prompt import Prompt
from ..sessions import Place, SearchScreen, SessionsScreen
from .branches import Branches, StoredNotes, TranscriptPages

NEWS_SECONDS = 0.25
NOTHING_RECORDED = "recording is off (setting record): a chat is gone with its window"
NO_NAME = "a name is missing: /save NAME; the chat itself is saved as it grows"
BEHIND = "the record is behind this chat, which stays as it is here"
_SETTLE_SECONDS = 0.3
_SHARED = (
    "This session is open in another window too. Both are saved; what is said there shows here "
    "when the session is opened again."
)


@dataclass(slots=True)
class SessionActions:
    session: ChatSession
    recorder: Recorder
    branches: Branches
    pages: TranscriptPages
    prompt: Prompt
    offer: str = ""  # id of the last chat, which `/continue` goes on with

    def start(self) -> None:
        if isinstance(self.recorder, DatabaseRecorder):
            self.prompt.set_interval(NEWS_SECONDS, self._show_news)

    def forget_offer(self) -> None:
        self.offer = ""

    def act(self, what: str, words: str = "") -> None:
        """Carry out a command by its name; raises `ChatError` if that cannot be done now."""
        if what == "import":  # without a record too
            self._begin_import(words)
            return
        record = self._record
        match what:
            case "search":
                self.prompt.app.push_screen(SearchScreen(record, words), self._open_place)
            case "save":
                if not words:
                    raise ChatError(NO_NAME)
                if record.session is None:
                    raise ChatError("nothing to save yet: send a message first")
                self._begin(self._rename(record.rename(record.session, words), words))
            case "load" if words:
                self.session.check_idle()
                self._begin(self._find(words), exclusive=True, group="open")
            case "continue" if self.offer:
                self.open(Place(self.offer))
                self.offer = ""
            case "sessions" | "load" | "continue":
                self._list()
            case _:
                raise AssertionError(what)

    def open(self, place: Place) -> None:
        """Continue a recorded session; raises `ChatError` while an answer is running."""
        self.session.check_idle()
        self._begin(self._open(place), exclusive=True, group="open")

    def open_last(self) -> None:
        """Continue the session that was used last."""
        self._begin(self._open_last(), exclusive=True, group="open")

    @property
    def _record(self) -> DatabaseRecorder:
        if not isinstance(self.recorder, DatabaseRecorder):
            raise ChatError(NOTHING_RECORDED)
        return self.recorder

    def _begin(self, work: Coroutine[Any, Any, None], **options: Any) -> None:
        """Run a coroutine that waits for the database; its error is shown at the prompt."""

        async def run() -> None:
            with errors_shown(self.prompt.hint):
                await work

        self.prompt.run_worker(run(), **options)

    # News of the record

    def _show_news(self) -> None:
        for news in self._record.news():
            match news:
                case WriteNews(message, failed):
                    self.pages.note(message, error=failed)
                case LeftOpen():
                    self._begin(self._make_offer(news))

    async def _make_offer(self, left: LeftOpen) -> None:
        with errors_shown(self.prompt.hint):
            stored = await asyncio.to_thread(self._record.archive.load, left.session)
            if self.session.busy or self._record.session is not None:
                return  # the person has begun something else; the list has it
            self.offer = left.session
            label = fit(stored.info.label, 48).rstrip()
            how = "cut off in the middle of an answer" if left.cut_off else "not closed"
            key = self.prompt.keys.shown("chat.sessions")
            self.pages.note(
                f'The last chat, "{label}", was {how}; nothing that was on the screen is lost. '
                f"{key} or /continue continues it; a message begins a new chat, and /sessions "
                "lists all chats."
            )

    # Commands

    def _list(self) -> None:
        screen = SessionsScreen(self._record, lambda: self.session.busy)

        def left(place: Place | None) -> None:
            if screen.deleted_open_session:
                self.branches.clear()
            self._open_place(place)

        self.prompt.app.push_screen(screen, left)

    def _open_place(self, place: Place | None) -> None:
        if place is not None:
            with errors_shown(self.prompt.hint):
                self.open(place)

    async def _rename(self, change: "Future[None]", name: str) -> None:
        await asyncio.wrap_future(change)
        text = f"this chat is called {name} now; /load {name} opens it again"
        self.prompt.hint(text, passing=True)

    # Importing

    def _begin_import(self, file: str) -> None:
        if not file:
            raise ChatError("name a file: /import FILE.json or FILE.jsonl")
        path = expanded(file)
        if not is_file_name(str(path)):
            raise ChatError(f"{file!r} is no name of a file")
        self.session.check_idle()
        self._begin(self._import(path, file), exclusive=True, group="open")

    async def _import(self, path: Path, typed: str) -> None:
        try:
            chat = await asyncio.to_thread(read_chat, path, time.time())
        except ChatError:
            if not self.prompt.text:  # it was taken, and stays to be corrected
                self.prompt.put(f"/import {typed}")
            raise
        self.session.check_idle()
        self.offer = ""
        branch = chat.history.branch
        self.branches.open(chat.history, chat.system, {})
        self.recorder.about(chat.target or "imported", None, chat.system)
        for exchange in chat.history.exchanges.values():
            self.recorder.begin(exchange)
            for event in chat.events[exchange.id]:
                self.recorder.event(exchange.id, event)
        if branch:
            self.recorder.select(branch[-1].id)
        if chat.unanswered:
            self.prompt.put(chat.unanswered)
        self.prompt.hint(f"imported: {counted(len(chat.events), 'message')}")

    # Opening

    async def _find(self, name: str) -> None:
        info = await asyncio.to_thread(self._record.archive.find, name)
        await self._open(Place(info.id))

    async def _open_last(self) -> None:
        infos: Sequence[SessionInfo] = ()
        with suppress(StoreError):  # there is no record yet, or its writer says what is wrong
            infos = await asyncio.to_thread(self._record.archive.sessions)
        last = next((info for info in infos if not info.deleted), None)
        if last is None:
            self.prompt.hint("there is no earlier chat: this is a new one")
        else:
            await self._open(Place(last.id))

    async def _open(self, place: Place) -> None:
        with errors_shown(self.prompt.hint):
            stored, notes = await asyncio.to_thread(_load, self._record, place.session)
            self._show_opened(place, stored, notes)

    def _show_opened(self, place: Place, stored: StoredSession, notes: StoredNotes) -> None:
        if self.session.busy:  # asked in the meantime
            self.prompt.hint(STILL_ANSWERING)
            return
        here = self._record.session == place.session
        if here and self.session.history.exchanges.keys() - stored.history.exchanges.keys():
            self.prompt.hint(BEHIND)
            return
        self.offer = ""
        self.branches.open(stored.history, stored.system, notes)
        self._record.resume(place.session)
        found = stored.history.exchanges.get(place.exchange or "")
        if found is not None:
            self.branches.select(found)
        if stored.info.windows > here:
            self.pages.note(_SHARED)
        self._remark(stored)
        if found is not None:
            self.pages.scroll_to(found, place.wanted)

    def _remark(self, stored: StoredSession) -> None:
        last, pair = self.session.last, self.session.pair
        if last is not None and last.answer.failure is not None:
            key = self.prompt.keys.shown("chat.again")
            again = f"{key} regenerates it and keeps this text"
            self.pages.note(f"{last.answer.failure}. {again}; or just go on.")
        if pair is not None and stored.target and stored.target != pair.target:
            self.pages.note(f"It was begun with {stored.target}; {pair.target} continues it.")


def _load(record: DatabaseRecorder, session: str) -> tuple[StoredSession, StoredNotes]:
    record.settle(_SETTLE_SECONDS)
    stored = record.archive.load(session)
    notes: dict[str | None, list[str]] = {}
    for after, result in record.archive.races(session):
        if note := recorded_note(result):
            notes.setdefault(after, []).append(note)
    return stored, notes
