"""One window at the engine server: its connection, its conversation, and what runs in it.

It decodes when the server gives it a turn and knows nothing of the other windows.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import Raced, RaceEvent
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Event, Notice, NoticeKind, PrefillProgress, Step

from .decode_thread import carry_out, error_line
from .messages import Ask, LoadFailed, Race
from .protocol import (
    Done,
    Go,
    Held,
    Leave,
    Link,
    Opened,
    Rejected,
    Request,
    Stop,
    ToWindow,
    Tune,
    WireError,
)

WAITING = Notice(
    NoticeKind.WAITING,
    "waiting for another window: answers that run at once take turns, a step each; "
    "tok/s counts this window's own steps",
)


class Session:
    """A window.

    Args:
        link: the connection to it.

    Attributes:
        engine: its conversation; None until it has begun.
        turn: number of its last turn, over all windows; a new answer counts from its request.
        gone: whether the window is closed.
        wants_tuning: whether it measures while no window wants a turn.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.engine: ChatEngine | None = None
        self.turn = 0
        self.gone = False
        self.wants_tuning = False
        self._requests: deque[Request] = deque()
        self._answer: Iterator[Event] | Iterator[RaceEvent] | None = None
        self._held = self._stopping = self._leaving = False
        self._noticed_waiting = False

    @property
    def answering(self) -> bool:
        """Whether an answer runs, even while its reader holds it."""
        return self._answer is not None

    @property
    def ready(self) -> bool:
        """Whether it wants a turn now."""
        if self.engine is None or self._requests:
            return True
        return self._ends or (self.answering and not self._held)

    @property
    def _ends(self) -> bool:
        """Whether what runs ends without another step."""
        return self._leaving or (self.wants_tuning and self._stopping)

    def receive(self, now: int) -> None:
        """Take in the window's messages. Uses no model: this may be in the middle of a step.

        Args:
            now: number of the running turn, or of the last.
        """
        try:
            self.link.flush()
            for message in self.link.receive():
                self._take(message, now)
        except WireError:
            self.gone = True

    def _take(self, message: Any, now: int) -> None:
        match message:
            case Go():
                self._held = False
            case Stop():
                self._stopping = True
            case Leave():
                running = self.answering or self.wants_tuning or bool(self._requests)
                self._stopping = self._leaving = running
            case _ if isinstance(message, Request):
                self.turn = now
                self._stopping = self._leaving = self._noticed_waiting = False
                self._requests.append(message)
            case _:
                raise WireError(f"a window sent {type(message).__name__}")

    def send(self, *messages: ToWindow) -> None:
        """Send messages to the window; it may be gone."""
        try:
            self.link.send(*messages)
        except WireError:
            self.gone = True

    def begin(self, factory: Callable[[], ChatEngine]) -> None:
        """Begin the conversation."""
        try:
            self.engine = factory()
        except SequoiaError as error:
            self.send(LoadFailed(str(error)))
            self.gone = True
        else:
            self.send(Opened(self.engine.description))

    def run(self, *, waited: bool) -> None:
        """Take a turn: carry out a request, or decode the next step of the answer.

        Args:
            waited: whether another window had a turn since this answer's last.
        """
        try:
            if self._ends:
                self._requests.clear()
                self._finish(Done())
                return
            if self._answer is None:
                self._carry_out(self._requests.popleft())
            if self._answer is not None:
                self._decode(self._answer, waited)
        except Exception as error:
            self._finish(Rejected(error_line(error)))

    def tune(self, interrupted: Callable[[], bool]) -> None:
        """Measure until all is measured, or until interrupted; then it goes on later."""
        stopped = False

        def should_stop() -> bool:
            nonlocal stopped
            stopped = stopped or interrupted()
            return stopped

        assert self.engine is not None
        try:
            for event in self.engine.tune(should_stop):
                self.send(event)
        except Exception as error:
            self._finish(Rejected(error_line(error)))
        else:
            if not stopped:
                self._finish(Done())

    def close(self) -> None:
        """End the running answer and the connection."""
        self._end_answer()
        self.link.close()

    def _carry_out(self, request: Request) -> None:
        """Begin an answer or measuring, or do what takes no time."""
        engine = self.engine
        assert engine is not None
        match request:
            case Ask(prompt, params):
                self._answer = engine.reply(prompt, params, lambda: self._stopping)
            case Race(turns, prompt, params):
                self._answer = engine.race(turns, prompt, params, lambda: self._stopping)
            case Tune():
                self.wants_tuning = True
            case _:
                carry_out(engine, request)
                self._finish(Done())

    def _decode(self, answer: Iterator[Event] | Iterator[RaceEvent], waited: bool) -> None:
        """Up to the next event after which the reader may hold the decoding."""
        if waited and not self._noticed_waiting:
            self._noticed_waiting = True
            self.send(WAITING)
        for event in answer:
            decoded = event.event if isinstance(event, Raced) else event
            if isinstance(decoded, Step | PrefillProgress):
                self._held = True
                self.send(event, Held())
                return
            self.send(event)
        self._finish(Done())

    def _finish(self, message: Done | Rejected) -> None:
        self._end_answer()
        self.wants_tuning = self._held = self._leaving = False
        self.send(message)

    def _end_answer(self) -> None:
        answer, self._answer = self._answer, None
        close = getattr(answer, "close", None)
        if close is not None:  # a generator: the conversation keeps what was said so far
            close()
