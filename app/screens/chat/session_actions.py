"""What `/sessions`, `/search`, `/save`, `/load` and `/continue` do, and news of the record."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from ...state.chat_session import STILL_ANSWERING, ChatError, ChatSession
from ...state.race_result import recorded_note
from ...state.sanitize import fit
from ...store.archive import StoredSession
from ...store.database import StoreError
from ...store.recorder import DatabaseRecorder, Recorder
from ...store.windows import LeftOpen
from ...store.writer import WriteFailed, WriteRecovered
from ...widgets.prompt import Prompt
from ..search import Place, SearchScreen
from ..sessions import SessionsScreen
from .branches import Branches
from .transcript_pages import TranscriptPages

NEWS_SECONDS = 0.25
NOTHING_RECORDED = "recording is off (setting record): a chat is gone with its window"
BEHIND = "the record is behind this chat, which stays as it is here"
_SETTLE_SECONDS = 0.3


class SessionActions:
    """Lists, searches, opens and renames recorded sessions.

    Args:
        session: the chat.
        recorder: has the sessions.
        branches: shows the session that is opened.
        pages: for notes.
        prompt: for hints.
    """

    def __init__(
        self,
        session: ChatSession,
        recorder: Recorder,
        branches: Branches,
        pages: TranscriptPages,
        prompt: Prompt,
    ) -> None:
        self._session, self._recorder, self._branches = session, recorder, branches
        self._pages, self._prompt = pages, prompt
        self._offer: LeftOpen | None = None

    def start(self) -> None:
        """Begin to listen to the record."""
        if isinstance(self._recorder, DatabaseRecorder):
            self._prompt.set_interval(NEWS_SECONDS, self._show_news)

    def act(self, what: str, words: str = "") -> None:
        """Carry out a command.

        Args:
            what: sessions, search, save, load or continue.
            words: its argument.

        Raises:
            ChatError: it cannot be done now.
        """
        record = self._record()
        match what:
            case "search":
                self._prompt.app.push_screen(SearchScreen(record, words), self._open_place)
            case "save":
                self._save(record, words)
            case "load" if words:
                self._session.check_idle()
                self._run(self._find(record, words))
            case "continue" if self._offer is not None:
                offer, self._offer = self._offer, None
                self.open(Place(offer.session))
            case _:
                self._list(record)

    def open(self, place: Place) -> None:
        """Continue a session.

        Raises:
            ChatError: nothing is recorded, or an answer is running.
        """
        record = self._record()
        self._session.check_idle()
        self._run(self._open(record, place))

    def withdraw_offer(self) -> None:
        """Do not offer any more to continue the last chat: another one has begun."""
        self._offer = None

    def _record(self) -> DatabaseRecorder:
        if not isinstance(self._recorder, DatabaseRecorder):
            raise ChatError(NOTHING_RECORDED)
        return self._recorder

    # News of the record

    def _show_news(self) -> None:
        record = self._record()
        for news in record.news():
            match news:
                case WriteFailed(message):
                    self._pages.note(message, error=True)
                case WriteRecovered(message):
                    self._pages.note(message)
                case LeftOpen():
                    self._prompt.run_worker(self._make_offer(record, news))

    async def _make_offer(self, record: DatabaseRecorder, left: LeftOpen) -> None:
        try:
            stored = await asyncio.to_thread(record.archive.load, left.session)
        except StoreError as error:
            self._pages.note(str(error), error=True)
            return
        if self._session.busy or record.session is not None:
            return  # the person has begun something else; the list has it
        self._offer = left
        how = "cut off in the middle of an answer" if left.cut_off else "not closed"
        label = fit(stored.info.label, 48).rstrip()
        key = self._prompt.keys.shown("chat.sessions")
        self._pages.note(
            f'The last chat, "{label}", was {how}; nothing that was on the screen is lost. {key} '
            "or /continue goes on with it; a message begins another, and /sessions lists all."
        )

    # Commands

    def _list(self, record: DatabaseRecorder) -> None:
        screen = SessionsScreen(record, lambda: self._session.busy)

        def left(place: Place | None) -> None:
            if screen.deleted_open_session:
                self._branches.clear()
            self._open_place(place)

        self._prompt.app.push_screen(screen, left)

    def _open_place(self, place: Place | None) -> None:
        if place is None:
            return
        try:
            self.open(place)
        except ChatError as error:
            self._prompt.hint(str(error))

    def _save(self, record: DatabaseRecorder, name: str) -> None:
        if not name:
            raise ChatError("a name is missing: /save NAME; the chat itself is saved as it grows")
        if record.session is None:
            raise ChatError("nothing to save yet: send a message first")
        self._prompt.run_worker(self._rename(record, record.session, name))

    async def _rename(self, record: DatabaseRecorder, session: str, name: str) -> None:
        try:
            await asyncio.wrap_future(record.rename(session, name))
        except StoreError as error:
            self._prompt.hint(str(error))
        else:
            self._pages.note(f"this chat is called {name} now; /load {name} opens it again")

    # Opening

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._prompt.run_worker(work, exclusive=True, group="open session")

    async def _find(self, record: DatabaseRecorder, name: str) -> None:
        try:
            info = await asyncio.to_thread(record.archive.find, name)
        except StoreError as error:
            self._prompt.hint(str(error))
        else:
            await self._open(record, Place(info.id))

    async def _open(self, record: DatabaseRecorder, place: Place) -> None:
        try:
            stored, notes = await asyncio.to_thread(_load, record, place.session)
        except StoreError as error:
            self._pages.note(str(error), error=True)
            return
        if self._session.busy:  # asked in the meantime
            self._prompt.hint(STILL_ANSWERING)
            return
        here = record.session == place.session
        if here and self._session.history.exchanges.keys() - stored.history.exchanges.keys():
            self._prompt.hint(BEHIND)
            return
        self._offer = None
        self._branches.open(stored.history, stored.system, notes)
        record.resume(place.session)
        found = stored.history.exchanges.get(place.exchange or "")
        if found is not None:
            self._branches.select(found)
        for remark in self._remarks(stored, shared=stored.info.windows > here):
            self._pages.note(remark)
        if found is not None:
            self._pages.scroll_to(found, place.wanted)

    def _remarks(self, stored: StoredSession, *, shared: bool) -> list[str]:
        """What a person should know of the session."""
        remarks = []
        last = self._session.last
        if last is not None and last.answer.failure is not None:
            key = self._prompt.keys.shown("chat.again")
            remarks.append(f"{last.answer.failure}. {key} asks again, beside it; or just go on.")
        if shared:
            remarks.append(
                "This session is open in another window too: what is said there is saved beside "
                "what is said here, and seen here when it is opened again."
            )
        pair = self._session.pair
        if pair is not None and stored.target and stored.target != pair.target:
            remarks.append(f"It was begun with {stored.target}; {pair.target} goes on with it.")
        return remarks


def _load(
    record: DatabaseRecorder, session: str
) -> tuple[StoredSession, list[tuple[str | None, str]]]:
    """A session and the notes of its races: id of the exchange each belongs to, and its text."""
    record.settle(_SETTLE_SECONDS)
    stored = record.archive.load(session)
    races = record.archive.races(session)
    notes = [(after, note) for after, result in races if (note := recorded_note(result))]
    return stored, notes
