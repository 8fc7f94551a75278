"""The engine process of `sequoia web`: one pair of models for several windows."""

import logging
import os
import selectors
import socket
import sys
from collections.abc import Callable, Generator, Iterator
from typing import IO

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import Race, Raced, RaceEvent
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Event, Notice, NoticeKind, PrefillProgress, Progress, Step

from . import messages as msg
from .decode_thread import answered, carry_out, error_line

WAITING = Notice(
    NoticeKind.WAITING,
    "waiting for another window: answers that run at once take turns, a step each; "
    "tokens/s counts this window's own steps",
)

NO_OTHER_DRAFTS = (
    "a browser's windows share their models: to race another draft, start `sequoia` in a terminal"
)

Loader = Callable[[Progress], Callable[[], ChatEngine]]
"""Loads the models; what it returns begins a conversation with them."""

Report = Callable[[msg.Loading | msg.LoadFailed | msg.Done], None]
"""Called with the progress of loading; `Done` when windows are served."""


class Session:
    """A window: its connection, its conversation, and what runs in it."""

    def __init__(self, link: msg.Link) -> None:
        self.link = link
        self.engine: ChatEngine | None = None  # None until the conversation has begun
        self.turn = 0  # number of the last, over all windows; an answer counts from its request
        self.gone = False
        self.answer: Iterator[Event] | Iterator[RaceEvent] | None = None  # runs, or is held
        self.wants_tuning = False  # measures while no window wants a turn
        self._request: msg.RemoteRequest | None = None
        self._held = self._stopping = self._noticed_waiting = False

    @property
    def ready(self) -> bool:
        """Whether it wants a turn now."""
        if self.engine is None or self._request is not None:
            return True
        if self.wants_tuning:
            return self._stopping
        return self.answer is not None and not self._held

    def receive(self, now: int) -> None:
        """Take in messages at turn `now`; uses no model, since a step may be running."""
        try:
            self.link.flush()
            for message in self.link.receive():
                match message:
                    case msg.Go():
                        self._held = False
                    case msg.Stop():
                        self._stopping = True
                    case _ if isinstance(message, msg.RemoteRequest):
                        self.turn, self._request = now, message
                        self._stopping = self._noticed_waiting = False
                    case _:
                        raise msg.WireError(f"a window sent {type(message).__name__}")
        except msg.WireError:
            self.gone = True

    def send(self, *messages: msg.ToWindow) -> None:
        """Send messages to the window; it may be gone."""
        try:
            self.link.send(*messages)
        except msg.WireError:
            self.gone = True

    def begin(self, factory: Callable[[], ChatEngine]) -> None:
        try:
            self.engine = factory()
        except SequoiaError as error:
            self.send(msg.LoadFailed(str(error)))
            self.gone = True
        else:
            self.send(msg.Ready(self.engine.description))

    def run(self, *, waited: bool) -> None:
        """Take a turn: carry out a request, or decode the next step of the answer.

        `waited` is whether another window had a turn since this answer's last.
        """
        engine, request = self.engine, self._request
        assert engine is not None
        try:
            if self.wants_tuning and self._stopping:
                self._finish(msg.Done())
                return
            if self.answer is None:
                self._request = None
                match request:
                    case msg.Ask() | msg.ContinueAnswer():
                        self.answer = answered(engine, request, lambda: self._stopping)
                    case Race(sides):
                        if any(side.draft is not None for side in sides):
                            raise SequoiaError(NO_OTHER_DRAFTS)
                        self.answer = engine.race(request, lambda: self._stopping, lambda *_: None)
                    case msg.Tune():
                        self.wants_tuning = True
                    case msg.ChooseTree() | msg.Clear() | msg.Restore() | msg.SetSystem():
                        carry_out(engine, request)
                        self._finish(msg.Done())
            if self.answer is not None:
                self._decode(self.answer, waited)
        except Exception as error:
            self._finish(msg.Refused(error_line(error)))

    def _decode(self, answer: Iterator[Event] | Iterator[RaceEvent], waited: bool) -> None:
        """Up to the next event after which the reader may hold the decoding."""
        if waited and not self._noticed_waiting:
            self._noticed_waiting = True
            self.send(WAITING)
        for event in answer:
            decoded = event.event if isinstance(event, Raced) else event
            if isinstance(decoded, Step | PrefillProgress):
                self._held = True
                self.send(event, msg.Held())
                return
            self.send(event)
        self._finish(msg.Done())

    def tune(self, interrupted: Callable[[], bool]) -> None:
        """Measure until all is measured, or until interrupted; then it goes on later."""
        assert self.engine is not None
        try:
            for event in self.engine.tune(interrupted):
                self.send(event)
            if not interrupted():
                self._finish(msg.Done())
        except Exception as error:
            self._finish(msg.Refused(error_line(error)))

    def close(self) -> None:
        self._end_answer()
        self.link.close()

    def _finish(self, message: msg.Done | msg.Refused) -> None:
        self._end_answer()
        self.wants_tuning = self._held = False
        self.send(message)

    def _end_answer(self) -> None:
        answer, self.answer = self.answer, None
        if isinstance(answer, Generator):
            answer.close()  # the conversation keeps what was said so far


class EngineServer:
    """Serves the windows that connect to `listener`, until the stream `parent` ends.

    In one thread: messages are read between steps, so two windows never use a model at once, and
    what a window is slow to read is kept.
    """

    def __init__(self, listener: socket.socket, parent: IO[bytes], report: Report) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._report = report
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ)
        self._selector.register(parent, selectors.EVENT_READ)
        self._factory: Callable[[], ChatEngine] | None = None
        self._sessions: list[Session] = []
        self._now = 0  # number of the last turn
        self._closing = False

    def serve(self, load: Loader) -> None:
        """Load, then serve until the parent ends; raises SequoiaError if the models do not load."""
        try:
            self.load(load)
            while not self._closing:
                self.take_turn()
        except msg.LoadAbortedError:
            pass
        finally:
            self.close()

    def load(self, load: Loader) -> None:
        """Load the models; windows that connect meanwhile get the progress, or the error."""
        try:
            self._factory = load(self._report_loading)
        except SequoiaError as error:
            self._tell_all(msg.LoadFailed(str(error)))
            raise
        self._report(msg.Done())

    def close(self) -> None:
        for session in self._sessions:
            session.close()
        self._selector.close()
        self._listener.close()

    def take_turn(self) -> None:
        """Give a turn to the window that waits longest, or measure, or wait for messages."""
        self._poll(0 if self._ready or self._measurable else None)
        if ready := self._ready:
            self._serve(min(ready, key=lambda session: session.turn))
        elif session := self._measurable:
            session.tune(lambda: self._interrupts(session))

    @property
    def _ready(self) -> list[Session]:
        return [each for each in self._sessions if each.ready]

    @property
    def _measurable(self) -> Session | None:
        """A window that wants to measure, if no answer runs."""
        if any(session.answer is not None for session in self._sessions):
            return None
        return next((session for session in self._sessions if session.wants_tuning), None)

    def _serve(self, session: Session) -> None:
        if session.engine is None:
            assert self._factory is not None
            session.begin(self._factory)
            return
        waited = any(
            each.answer is not None and each.turn > session.turn for each in self._sessions
        )
        self._now += 1
        session.turn = self._now
        session.run(waited=waited)

    def _interrupts(self, tuning: Session) -> bool:
        """Whether measuring for this session should end now."""
        self._poll(0)
        return self._closing or tuning.gone or bool(self._ready)

    def _report_loading(self, message: str, fraction: float | None) -> None:
        self._poll(0)
        if self._closing:
            raise msg.LoadAbortedError
        self._tell_all(msg.Loading(message, fraction))

    def _tell_all(self, message: msg.Loading | msg.LoadFailed) -> None:
        for session in self._sessions:
            session.send(message)
        self._report(message)

    def _poll(self, timeout: float | None) -> None:
        """Receive messages, waiting for them if need be, and send what is still unsent."""
        for session in [each for each in self._sessions if each.gone]:
            # safe within another's measuring: closing an answer only tidies its caches
            self._selector.unregister(session.link)
            self._sessions.remove(session)
            session.close()
        for session in self._sessions:
            wanted = selectors.EVENT_READ | (selectors.EVENT_WRITE * session.link.unsent)
            if self._selector.get_key(session.link).events != wanted:
                self._selector.modify(session.link, wanted, session)
        for key, _ in self._selector.select(timeout):
            if isinstance(key.data, Session):
                key.data.receive(self._now)
            elif key.fileobj is self._listener:
                self._accept()
            else:
                self._closing = True

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it went away again
            return
        session = Session(msg.Link(connection))
        self._sessions.append(session)
        self._selector.register(session.link, selectors.EVENT_READ, session)


def main(descriptor: str, flags: str) -> None:
    """The engine process, with inherited descriptors of the listening socket and the settings."""
    from ..config.load import load_settings, read_flags
    from ..config.model_choice import load_for_many

    logging.basicConfig(format="sequoia engine: %(message)s")
    # what libraries print must not come between the reports
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(message: msg.Loading | msg.LoadFailed | msg.Done) -> None:
        out.write(msg.to_line(message))
        out.flush()

    server = EngineServer(socket.socket(fileno=int(descriptor)), sys.stdin.buffer, report)
    try:
        settings = load_settings(read_flags(flags))
        server.serve(lambda progress: load_for_many(settings, progress, insight=settings.insight))
    except (SequoiaError, BrokenPipeError):
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
