"""What the decode thread reports becomes state of the chat; it is drawn later."""

from dataclasses import replace

from sequoia_core.chat.race import Raced, RaceTerms
from sequoia_core.events import Event, Failed, Notice, PairDescription, TreeChosen

from ...engine.decode_thread import Decoder
from ...engine.messages import (
    Answering,
    Loading,
    OutOfSync,
    RaceEnded,
    Ready,
    Refused,
    Report,
    SystemRefused,
    Tuning,
)
from ...state.chat_session import ChatSession
from ...widgets.prompt import Prompt
from .recording import Recording
from .transcript_pages import TranscriptPages


class EngineReports:
    """Takes in the reports of a decode thread.

    Args:
        session: changes as it is reported.
        recording: records the end of answers, and races.
        pages: for notes and the names of answers.
        prompt: for hints.
        decoder: the decode thread.
    """

    def __init__(
        self,
        session: ChatSession,
        recording: Recording,
        pages: TranscriptPages,
        prompt: Prompt,
        decoder: Decoder,
    ) -> None:
        self._session, self._recording, self._pages = session, recording, pages
        self._prompt, self._decoder = prompt, decoder

    def take(self, report: Report) -> None:
        """Take in the next report; `LoadFailed` is the app's affair."""
        session, note = self._session, self._pages.note
        match report:
            case Loading(message, fraction):
                share = "" if fraction is None else f" {fraction:.0%}"
                self._prompt.hint(f"{message}{share}", passing=True)
            case Ready(pair):
                self._take_pair(pair)
            case Answering(event):
                self._recording.event(event)
                self._take_event(event)
                if session.answer is not None:
                    session.answer.add(event)
            case Tuning(event):
                self._take_event(event)
            case RaceTerms() | Raced() if session.race is not None:
                session.race.add(report)
            case RaceEnded(message):
                self._end_race(message)
            case Refused(message):
                note(message, error=True)
            case SystemRefused(message, refused, in_use):
                if session.settings.system == refused:  # else another one was set since
                    session.settings = replace(session.settings, system=in_use)
                note(f"the system prompt is not used: {message}", error=True)
            case OutOfSync(message, request) if not self._decoder.superseded(request):
                session.engine_out_of_sync()
                if not session.busy:  # else the question fails for the same reason
                    note(f"{message}; the next question tries again", error=True)

    def _take_pair(self, pair: PairDescription) -> None:
        self._session.pair = pair
        self._pages.name_answers(self._session.answer_name)
        self._recording.describe()
        self._prompt.hint("")
        if pair.remark:
            self._pages.note(pair.remark)

    def _take_event(self, event: Event) -> None:
        match event:
            case TreeChosen():
                self._session.tree = event
            case Notice(_, message):
                self._pages.note(message)
            case Failed(message):
                self._pages.note(message, error=True)

    def _end_race(self, error: str | None) -> None:
        race = self._session.race
        if race is None:
            return
        race.end(error)
        result = race.result()
        if result is not None:
            self._recording.race(race.exchange, result)
            self._pages.note(result.note())
