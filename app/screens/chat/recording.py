"""Records a chat while it goes on."""

from collections.abc import Callable, Iterable

from sequoia_core.events import Event, Failed, Finished, FinishReason, Totals

from ...engine.messages import Answering, Report
from ...state.chat_session import ChatSession
from ...state.history import Exchange
from ...state.race_result import RaceResult
from ...store.recorder import About, Recorder


class Recording:
    """Passes what happens in a session to its recorder."""

    def __init__(self, session: ChatSession, recorder: Recorder) -> None:
        self._session, self._recorder = session, recorder

    def describe(self) -> None:
        """Record models and system prompt, as far as they are known."""
        pair = self._session.pair
        target, draft = (pair.target, pair.draft) if pair else ("", None)
        self._recorder.about(About(target, draft, self._session.settings.system))

    def begin(self, exchange: Exchange) -> Callable[[Event], None]:
        """Record a prompt.

        Returns:
            Records each event of its answer but the last. It is called in the decode thread, so
            that the record does not wait while the screen paints.
        """
        self.describe()
        self._recorder.begin(exchange)

        def record(event: Event) -> None:
            if not isinstance(event, Finished | Failed):
                self._recorder.event(exchange.id, event)

        return record

    def event(self, event: Event) -> None:
        """Record the last event of the running answer, with the figures that it has then."""
        if self._session.last is not None and isinstance(event, Finished | Failed):
            self._recorder.event(self._session.last.id, event)

    def race(self, exchange: str | None, result: RaceResult) -> None:
        """Record a race; `exchange` asked its prompt, if any did."""
        self._recorder.race(exchange, result)

    def finish(self, reports: Iterable[Report]) -> None:
        """Record the last reports of the decode thread, and close the record.

        An answer that is still running is recorded as stopped.
        """
        answer = self._session.answer
        if answer is not None and not answer.done:
            for report in reports:
                if isinstance(report, Answering):
                    self.event(report.event)
                    answer.add(report.event)  # its last figures are recorded too
            if not answer.done:
                totals = answer.statistics[-1].totals if answer.statistics else Totals()
                self.event(Finished(FinishReason.CANCELLED, totals))
        self._recorder.close()
