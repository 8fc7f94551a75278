"""One pair of models for several windows: each has its own conversation, their steps take turns.

All of it is one thread: messages are read between steps, so two windows never use a model at once,
and what a window is slow to read is kept, so nobody waits for it. Run as a program it is the engine
process of `sequoia web`; it ends with the process that started it.
"""

import logging
import os
import selectors
import socket
import sys
from collections.abc import Callable
from itertools import count
from typing import IO

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Progress

from .messages import LoadAbortedError, LoadFailed, Loading
from .protocol import Done, Link, to_line
from .window_session import Session

Loader = Callable[[Progress], Callable[[], ChatEngine]]
"""Loads the models; what it returns begins a conversation with them."""

Report = Callable[[Loading | LoadFailed | Done], None]
"""Called with the progress of loading; `Done` when windows are served."""


class EngineServer:
    """Serves the windows that connect.

    Args:
        listener: a listening socket; becomes this object's own.
        parent: a stream whose end of file ends the server.
        report: called with the progress of loading.
    """

    def __init__(self, listener: socket.socket, parent: IO[bytes], report: Report) -> None:
        listener.setblocking(False)
        self._listener = listener
        self._report = report
        self._selector = selectors.DefaultSelector()
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(parent, selectors.EVENT_READ, self._end)
        self._factory: Callable[[], ChatEngine] | None = None
        self._sessions: list[Session] = []
        self._turns = count(1)
        self._now = 0
        self._closing = False

    def serve(self, load: Loader) -> None:
        """Load, then serve until the parent ends.

        Raises:
            SequoiaError: the models do not load.
        """
        try:
            self.load(load)
            while not self._closing:
                self.take_turn()
        except LoadAbortedError:
            pass
        finally:
            self.close()

    def load(self, load: Loader) -> None:
        """Load the models; windows that connect meanwhile get the progress.

        Raises:
            SequoiaError: the models do not load; this is sent to the windows before.
        """
        try:
            self._factory = load(self._report_loading)
        except SequoiaError as error:
            self._send_all(LoadFailed(str(error)))
            self._report(LoadFailed(str(error)))
            raise
        self._report(Done())

    def close(self) -> None:
        """End the running answers and all connections."""
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
        """The windows that want a turn."""
        return [each for each in self._sessions if each.ready]

    @property
    def _measurable(self) -> Session | None:
        """A window that wants to measure, if no answer runs."""
        if any(session.answering for session in self._sessions):
            return None
        return next((session for session in self._sessions if session.wants_tuning), None)

    def _serve(self, session: Session) -> None:
        if session.engine is None:
            assert self._factory is not None
            session.begin(self._factory)
            return
        others = (each.turn for each in self._sessions if each.answering and each is not session)
        waited = max(others, default=0) > session.turn
        self._now = session.turn = next(self._turns)
        session.run(waited=waited)

    def _interrupts(self, tuning: Session) -> bool:
        """Whether measuring for this session should end now."""
        self._poll(0)
        return self._closing or tuning.gone or bool(self._ready)

    def _report_loading(self, message: str, fraction: float | None) -> None:
        self._poll(0)
        if self._closing:
            raise LoadAbortedError
        self._send_all(Loading(message, fraction))
        self._report(Loading(message, fraction))

    def _send_all(self, message: Loading | LoadFailed) -> None:
        for session in self._sessions:
            session.send(message)

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
            else:
                key.data()

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it went away again
            return
        session = Session(Link(connection))
        self._sessions.append(session)
        self._selector.register(session.link, selectors.EVENT_READ, session)

    def _end(self) -> None:
        self._closing = True


def main(descriptor: str, flags: str) -> None:
    """The engine process.

    Args:
        descriptor: of the listening socket, inherited.
        flags: descriptor of the settings, as on the command line.
    """
    from ..config.load import load_settings, read_flags
    from .build import load_for_many

    logging.basicConfig(format="sequoia engine: %(message)s")
    # what libraries print must not come between the reports
    out = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def report(message: Loading | LoadFailed | Done) -> None:
        out.write(to_line(message))
        out.flush()

    listener = socket.socket(fileno=int(descriptor))
    server = EngineServer(listener, sys.stdin.buffer, report)
    try:
        settings = load_settings(read_flags(flags))
        server.serve(lambda progress: load_for_many(settings, progress, insight=settings.insight))
    except (SequoiaError, BrokenPipeError):
        sys.exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
