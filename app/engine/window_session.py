"""One window at the engine server: its connection, its conversation, what is under way in it.

Owns the order of a conversation over the connection, as `remote_engine` does at the other end. It
decodes when the server gives it a turn and knows nothing of the other windows.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import Raced, RaceEvent
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Event, Notice, NoticeKind, PrefillProgress, Step

from .decode_thread import unexpected
from .messages import Ask, Clear, LoadFailed, Race, Restore, SetSystem
from .protocol import (
    Choose,
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
    "waiting for another window: answers under way at once take turns, a step each; "
    "tok/s counts this window's own steps",
)


class Session:
    """A window.

    Args:
        link: the connection to it.

    Attributes:
        engine: its conversation; None until it has begun.
        turn: number of its last turn, over all windows; a new answer counts from when it was asked.
        gone: whether the window is no more.
    """

    def __init__(self, link: Link) -> None:
        self.link = link
        self.engine: ChatEngine | None = None
        self.turn = 0
        self.gone = False
        self._requests: deque[Request] = deque()
        self._answer: Iterator[Event] | Iterator[RaceEvent] | None = None
        self._tuning = self._held = self._stopping = self._leaving = False
        self._told_of_waiting = False

    @property
    def answering(self) -> bool:
        """Whether an answer is under way, also while its reader holds it."""
        return self._answer is not None

    @property
    def wants_tuning(self) -> bool:
        """Whether it would measure while nobody wants a turn."""
        return self._tuning

    @property
    def ready(self) -> bool:
        """Whether it wants a turn now."""
        if self.engine is None or self._requests:
            return True
        stops = self._leaving or (self._tuning and self._stopping)
        return stops or (self.answering and not self._held)

    def hear(self, now: int) -> None:
        """Note what the window says. Touches no model: this may be the middle of a step.

        Args:
            now: number of the turn that is being taken, or was last.
        """
        try:
            self.link.flush()
            for message in self.link.receive():
                self._note(message, now)
        except WireError:
            self.gone = True

    def _note(self, message: Any, now: int) -> None:
        match message:
            case Go():
                self._held = False
            case Stop():
                self._stopping = True
            case Leave():
                under_way = self.answering or self._tuning or bool(self._requests)
                self._stopping = self._leaving = under_way
            case _ if isinstance(message, Request):
                self.turn = now
                self._stopping = self._leaving = self._told_of_waiting = False
                self._requests.append(message)
            case _:
                raise WireError(f"a window sent {type(message).__name__}")

    def send(self, *messages: ToWindow) -> None:
        """Tell the window; it may be gone."""
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
            if self._leaving or (self._tuning and self._stopping):
                self._requests.clear()
                self._finish(Done())
                return
            if self._answer is None:
                self._carry_out(self._requests.popleft())
            if self._answer is not None:
                self._decode(self._answer, waited)
        except SequoiaError as error:
            self._finish(Rejected(str(error)))
        except Exception as error:
            self._finish(Rejected(unexpected(error)))

    def tune(self, interrupted: Callable[[], bool]) -> None:
        """Measure until all is measured, or until interrupted; then it still wants to go on."""
        broken_off = False

        def should_stop() -> bool:
            nonlocal broken_off
            broken_off = broken_off or interrupted()
            return broken_off

        assert self.engine is not None
        try:
            for event in self.engine.tune(should_stop):
                self.send(event)
        except SequoiaError as error:
            self._finish(Rejected(str(error)))
        except Exception as error:
            self._finish(Rejected(unexpected(error)))
        else:
            if not broken_off:
                self._finish(Done())

    def close(self) -> None:
        """End the answer under way and the connection."""
        self._end_answer()
        self.link.close()

    def _carry_out(self, request: Request) -> None:
        """Begin an answer or measuring, or do what takes no time."""
        engine = self.engine
        assert engine is not None
        match request:
            case Ask(prompt, params):
                self._held = False
                self._answer = engine.reply(prompt, params, lambda: self._stopping)
                return
            case Race(turns, prompt, params):
                self._held = False
                self._answer = engine.race(turns, prompt, params, lambda: self._stopping)
                return
            case Tune():
                self._tuning = True
                return
            case Choose():
                engine.choose_tree(request.choice)
            case Clear():
                engine.clear()
            case SetSystem(system_prompt):
                engine.set_system_prompt(system_prompt)
            case Restore(turns):
                engine.restore(turns)
        self._finish(Done())

    def _decode(self, answer: Iterator[Event] | Iterator[RaceEvent], waited: bool) -> None:
        """Up to the next event after which the reader may hold the decoding."""
        if waited and not self._told_of_waiting:
            self._told_of_waiting = True
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
        self._tuning = self._held = self._leaving = False
        self.send(message)

    def _end_answer(self) -> None:
        answer, self._answer = self._answer, None
        close = getattr(answer, "close", None)
        if close is not None:  # a generator: the conversation keeps what was said so far
            close()
