"""What the decode thread reports becomes state and record of the chat; it is drawn later."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from sequoia_core import events
from sequoia_core.chat.race import Raced, RaceTerms
from sequoia_core.events import AnswerStart, Event, Failed, Finished

from ...engine import messages
from ...present.words import progress_text
from ...state.answer import ENDINGS
from ...state.chat_session import ChatSession
from ...state.history import Exchange
from ...store.recorder import Recorder
from ...widgets.prompt import Prompt
from .branches import TranscriptPages


@dataclass(frozen=True, slots=True)
class EngineReports:
    session: ChatSession
    recorder: Recorder
    pages: TranscriptPages
    prompt: Prompt

    def begin(
        self, exchange: Exchange, start: AnswerStart | None = None
    ) -> Callable[[Event], None]:
        """Record a prompt; what is returned records each event of its answer but the last.

        It is called in the decode thread, so that the record does not wait while the screen paints.
        """
        self._describe()
        self.recorder.begin(exchange)
        if start is not None:
            exchange.answer.add(start)
            self.recorder.event(exchange.id, start)

        def record(event: Event) -> None:
            if not isinstance(event, Finished | Failed):
                self.recorder.event(exchange.id, event)

        return record

    def store(self, exchange: Exchange, start: AnswerStart) -> None:
        """Record a prompt whose answer is this text, without decoding."""
        self.begin(exchange, start)
        self._add(Finished(events.FinishReason.STOP, events.Totals()))

    def _describe(self) -> None:
        """Record models and system prompt, as far as they are known."""
        pair = self.session.pair
        target, draft = (pair.target, pair.draft) if pair else ("", None)
        self.recorder.about(target, draft, self.session.settings.system)

    def take(self, report: messages.Report) -> None:
        """Take in the next report; `LoadFailed` is the app's affair."""
        session, note = self.session, self.pages.note
        match report:
            case messages.Loading(message, fraction):
                doing = progress_text(message, fraction)
                if session.race is not None and session.racing:
                    session.race.loading = doing
                else:
                    self.prompt.hint(doing, passing=True)
            case messages.Ready(pair):
                session.pair, session.memory = pair, None
                self.pages.name_answers()
                self._describe()
                self.prompt.hint("", passing=True)
                if pair.remark:
                    note(pair.remark)
            case messages.Answering(event):
                self.take(event)
                self._add(event)
            case events.TreeChosen():
                session.tree = report
            case events.MemoryUse():
                session.memory = report
            case events.Notice(events.NoticeKind.CONTEXT_TRIMMED, _):
                pass  # the answer says it
            case events.Notice(kind, message):
                note(message, topic=kind)
            case Failed(message):
                note(message, error=True)
            case messages.Refused(message):
                self.prompt.hint(message)
            case messages.Unreached(message) if not session.busy:  # else the answer tells
                self.prompt.hint(f"{message}; the next question tries again")
            case RaceTerms() | Raced() if session.race is not None:
                session.race.add(report)
            case messages.RaceEnded(error) if session.race is not None:
                session.race.end(error)
                if result := session.race.result():
                    self.recorder.race(session.race.exchange, result)
                    note(result.note())
            case messages.SystemRefused(message, refused, in_use):
                if session.settings.system == refused:  # else another one was set since
                    session.settings = replace(session.settings, system=in_use)
                self.prompt.hint(f"the system prompt is not used: {message}")

    def _add(self, event: Event) -> None:
        """Add an event to the running answer, and record the last one."""
        last = self.session.last
        if last is not None:
            if isinstance(event, Finished | Failed):
                self.recorder.event(last.id, event)
            last.answer.add(event)
            if isinstance(event, Finished) and event.reason is events.FinishReason.LENGTH:
                (how,) = ENDINGS[event.reason]
                self.prompt.hint(f"{how}: chat.continue_answer goes on from there")
            if isinstance(event, Failed) and last.answer.given:
                self.session.leave_engine()  # it may not know that text

    def finish(self, reports: Iterable[messages.Report]) -> None:
        """Record the last reports, a running answer as stopped, and close the record."""
        for report in reports:
            if isinstance(report, messages.Answering) and self.session.busy:
                self._add(report.event)
        answer = self.session.answer
        if answer is not None and not answer.done:
            totals = answer.statistics[-1].totals if answer.statistics else events.Totals()
            self._add(Finished(events.FinishReason.CANCELLED, totals))
        self.recorder.close()
