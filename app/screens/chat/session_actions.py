"""The chat and its record: opens sessions, says what is wrong with the record, offers to go on.

Owns what the commands `/sessions`, `/search`, `/save`, `/load` and `/continue` do. Knows the chat
screen; what is kept and how is the store's.
"""

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from sequoia_core.events import Event, Failed, Finished, FinishReason, Totals

from ...engine.messages import Answering, Clear, Report, SetSystem
from ...state.history import Exchange
from ...state.race_result import kept_note
from ...state.sanitize import fit
from ...state.slash_commands import SlashError
from ...store.archive import StoredSession
from ...store.database_recorder import DatabaseRecorder
from ...store.errors import StoreError
from ...store.recorder import About, Recorder
from ...store.windows import LeftOpen
from ...store.writer import Recovered, WriteFailed, WriteRecovered
from ..search import Place, SearchScreen
from ..sessions import SessionsScreen
from .apply_settings import ANSWERING, refuse_while_busy

if TYPE_CHECKING:
    from .screen import ChatScreen

NEWS_SECONDS = 0.25
NOTHING_KEPT = "recording is off (setting record): a chat is gone with its window"
BEHIND = "the record is behind this chat, which stays as it is here"


class Keeping:
    """The record of one chat screen.

    Args:
        chat: the screen.
        recorder: told everything that happens in the chat.
    """

    def __init__(self, chat: "ChatScreen", recorder: Recorder) -> None:
        self._chat = chat
        self._offer: LeftOpen | None = None
        self._exchange: Exchange | None = None
        self.recorder = recorder

    def start(self) -> None:
        """Begin to listen to the record."""
        if isinstance(self.recorder, DatabaseRecorder):
            self._chat.set_interval(NEWS_SECONDS, self.hear)

    # What happens in the chat

    def begin(self, exchange: Exchange | None) -> None:
        """A prompt was sent; an offer to continue stands no longer."""
        self._offer, self._exchange = None, exchange
        if exchange is not None:
            self.describe()
            self.recorder.begin(exchange)

    def describe(self) -> None:
        """Say what the chat is held with, as far as it is known."""
        pair = self._chat.pair
        target, draft = (pair.target, pair.draft) if pair else ("", None)
        self.recorder.about(About(target, draft, self._chat.settings.system))

    def tell(self) -> Callable[[Event], None]:
        """Records what happens in the answer that was begun, up to its end.

        It is called in the decode thread: the record does not wait for a screen that is painting.
        """
        recorder, exchange = self.recorder, self._exchange

        def record(event: Event) -> None:
            if exchange is not None and not isinstance(event, Finished | Failed):
                recorder.event(exchange.id, event)

        return record

    def event(self, event: Event) -> None:
        """An event of the answer under way; its end is recorded with the figures it has then."""
        if self._exchange is not None and isinstance(event, Finished | Failed):
            self.recorder.event(self._exchange.id, event)

    def finish(self, reports: Iterable[Report]) -> None:
        """Record what the decode thread reported last, and close the record.

        An answer whose end was not waited for is recorded as stopped.
        """
        if self._exchange is not None:
            answer = self._exchange.answer
            for report in reports:
                if isinstance(report, Answering):
                    self.event(report.event)
                    answer.add(report.event)  # its last figures are recorded too
            if not answer.done:
                totals = answer.statistics[-1].totals if answer.statistics else Totals()
                self.event(Finished(FinishReason.CANCELLED, totals))
        self.recorder.close()

    # What the record has to tell

    def hear(self) -> None:
        """Say what the record has to tell."""
        for news in self._record().news():
            match news:
                case WriteFailed(message):
                    self._chat.note(message, error=True)
                case WriteRecovered(message):
                    self._chat.note(message)
                case Recovered(sessions):
                    self._chat.run_worker(self._make_offer(sessions[0]))

    async def _make_offer(self, left: LeftOpen) -> None:
        try:
            stored = await asyncio.to_thread(self._record().archive.load, left.session)
        except StoreError as error:
            self._chat.note(str(error), error=True)
            return
        if self._chat.busy or self._record().session is not None:
            return  # the person has begun something else; the list has it
        self._offer = left
        how = "cut off in the middle of an answer" if left.cut_off else "not closed"
        key = self._chat.app.keys.shown("chat.sessions")
        self._chat.note(
            f'The last chat, "{_brief(stored.info.label)}", was {how}; nothing that was on the '
            f"screen is lost. {key} or /continue goes on with it; a message begins another, "
            "and /sessions lists all."
        )

    # What a person asks for

    def act(self, what: str, words: str = "") -> None:
        """Carry out a command.

        Args:
            what: sessions, search, save, load or continue.
            words: what stands behind it.

        Raises:
            SlashError: it cannot be done now.
        """
        match what:
            case "search":
                self.open_search(words)
            case "save":
                self.save(words)
            case "load":
                self.load(words)
            case "continue":
                self.go_on()
            case _:
                self.open_sessions()

    def open_sessions(self) -> None:
        """Show the list of sessions.

        Raises:
            SlashError: nothing is recorded.
        """
        screen = SessionsScreen(self._record(), lambda: self._chat.busy)
        self._chat.app.push_screen(screen, partial(self._left_list, screen))

    def open_search(self, words: str = "") -> None:
        """Show the search.

        Raises:
            SlashError: nothing is recorded.
        """
        self._chat.app.push_screen(SearchScreen(self._record(), words), self._open_place)

    def go_on(self) -> None:
        """Continue what the program was killed in, or choose from the list.

        Raises:
            SlashError: nothing is recorded, or an answer is under way.
        """
        offer, self._offer = self._offer, None
        if offer is None:
            self.open_sessions()
        else:
            self.open(offer.session)

    def save(self, name: str) -> None:
        """Call the session under way something.

        Raises:
            SlashError: there is none.
        """
        record = self._record()
        if not name:
            raise SlashError("a name is missing: /save NAME; the chat itself is saved as it grows")
        if record.session is None:
            raise SlashError("nothing to save yet: send a message first")
        self._chat.run_worker(self._rename(record, record.session, name))

    def load(self, name: str) -> None:
        """Open a session by its name, or by how its name or first message begins.

        Raises:
            SlashError: nothing is recorded, or an answer is under way.
        """
        if not name:
            self.open_sessions()
            return
        self._ready_to_open()
        self._chat.run_worker(self._find(name), exclusive=True, group="open session")

    def open(self, session: str) -> None:
        """Go on with a session where it was left.

        Raises:
            SlashError: nothing is recorded, or an answer is under way.
        """
        self.open_at(Place(session))

    def open_at(self, place: Place) -> None:
        """Go on with a session at a place.

        Raises:
            SlashError: nothing is recorded, or an answer is under way.
        """
        self._ready_to_open()
        work = self._open(place)
        self._chat.run_worker(work, exclusive=True, group="open session")

    def _record(self) -> DatabaseRecorder:
        if not isinstance(self.recorder, DatabaseRecorder):
            raise SlashError(NOTHING_KEPT)
        return self.recorder

    def _ready_to_open(self) -> None:
        self._record()
        refuse_while_busy(self._chat)

    def _left_list(self, screen: SessionsScreen, place: Place | None) -> None:
        if screen.deleted_open_session:
            self._chat.decoder.submit(Clear())
            self._chat.forget()
        self._open_place(place)

    def _open_place(self, place: Place | None) -> None:
        if place is None:
            return
        try:
            self.open_at(place)
        except SlashError as error:
            self._chat.prompt.hint(str(error))

    async def _find(self, name: str) -> None:
        try:
            info = await asyncio.to_thread(self._record().archive.find, name)
        except StoreError as error:
            self._chat.prompt.hint(str(error))
        else:
            await self._open(Place(info.id))

    async def _open(self, place: Place) -> None:
        chat, record, session = self._chat, self._record(), place.session
        try:
            stored = await asyncio.to_thread(self._load, session)
            races = await asyncio.to_thread(record.archive.races, session)
        except StoreError as error:
            chat.note(str(error), error=True)
            return
        if chat.busy:  # asked in the meantime
            chat.prompt.hint(chat.app.keys.shown(ANSWERING))
            return
        here = record.session == session
        known = chat.branching.history.exchanges
        if here and known.keys() - stored.history.exchanges.keys():
            chat.prompt.hint(BEHIND)
            return
        self._offer = None
        if stored.system != chat.settings.system:
            chat.decoder.submit(SetSystem(stored.system, chat.settings.system))
            chat.change_settings(replace(chat.settings, system=stored.system))
        notes = [(each.after, note) for each in races if (note := kept_note(each.result))]
        chat.branching.open(stored.history, notes)
        record.resume(session)
        found = stored.history.exchanges.get(place.exchange or "")
        if found is not None:
            chat.branching.select(found)
        for remark in self._remarks(stored, shared=stored.info.windows > here):
            chat.note(remark)
        if found is not None:
            chat.branching.find(found, place.wanted)

    def _load(self, session: str) -> StoredSession:
        self._record().settle(0.3)
        return self._record().archive.load(session)

    def _remarks(self, stored: StoredSession, *, shared: bool) -> list[str]:
        """What a person should know of a session that was opened."""
        remarks = []
        last = stored.history.branch[-1] if stored.history.branch else None
        if last is not None and last.answer.failure is not None:
            key = self._chat.app.keys.shown("chat.again")
            remarks.append(f"{last.answer.failure}. {key} asks again, beside it; or just go on.")
        if shared:
            remarks.append(
                "This session is open in another window too: what is said there is saved beside "
                "what is said here, and seen here when it is opened again."
            )
        pair = self._chat.pair
        if pair is not None and stored.target and stored.target != pair.target:
            remarks.append(f"It was begun with {stored.target}; {pair.target} goes on with it.")
        return remarks

    async def _rename(self, record: DatabaseRecorder, session: str, name: str) -> None:
        try:
            await asyncio.wrap_future(record.rename(session, name))
        except StoreError as error:
            self._chat.prompt.hint(str(error))
        else:
            self._chat.note(f"this chat is called {name} now; /load {name} opens it again")


def _brief(text: str) -> str:
    return fit(text, 48).rstrip()
