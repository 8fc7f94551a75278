"""The decode thread: owns the engine, takes requests, reports events, pauses between steps.

One long-lived daemon thread per app. It knows no widget: everything it has to say goes into a
mailbox that the screen drains when it likes. Nothing in the mailbox is ever dropped; that tree
pictures are "latest wins" is the drainer's doing, which draws only the last step of a drain.
"""

import logging
import queue
import threading
from collections.abc import Callable, Iterator

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import Raced
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Event, Failed, Finished, Step

from .messages import (
    Answering,
    Ask,
    Astray,
    ChooseTree,
    Clear,
    EngineFactory,
    LoadFailed,
    Loading,
    Race,
    RaceEnded,
    Racing,
    Ready,
    Refused,
    Report,
    Request,
    Restore,
    SetSystem,
    Shutdown,
    Start,
    SystemRefused,
    Tuning,
)

_log = logging.getLogger("sequoia.decoder")
_log.addHandler(logging.NullHandler())


Tell = Callable[[Event], None]


class _ShuttingDownError(Exception):
    """Raised out of the load progress call, so that quitting need not wait for a load."""


class Gate:
    """Holds the decoding after a step while paused, and lets single steps through."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._paused = False
        self._permitted = False

    @property
    def paused(self) -> bool:
        """Whether the next step will be held."""
        return self._paused

    def pause(self) -> None:
        """Hold the decoding after the step it is in."""
        with self._changed:
            self._paused = True
            self._permitted = False

    def resume(self) -> None:
        """Let the decoding run on."""
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def permit_step(self) -> None:
        """Let one step through while paused. Permits do not add up: a held key must not run on."""
        with self._changed:
            self._permitted = self._paused
            self._changed.notify_all()

    def wake(self) -> None:
        """Make a waiter look again at whether it should stop."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, should_stop: Callable[[], bool]) -> None:
        """Return when not paused, when a step is permitted, or when told to stop."""
        with self._changed:
            self._changed.wait_for(lambda: not self._paused or self._permitted or should_stop())
            self._permitted = False


class Decoder:
    """Handle of the decode thread; all methods are for the screen's thread.

    Args:
        factory: makes the engine, in the decode thread.
    """

    def __init__(self, factory: EngineFactory) -> None:
        self._factory = factory
        self._requests: queue.SimpleQueue[tuple[Request, Tell | None]] = queue.SimpleQueue()
        self._mail: queue.SimpleQueue[Report] = queue.SimpleQueue()
        self._cancel = threading.Event()
        self._closing = threading.Event()
        self._latest: Start | None = None
        self._astray = ""
        self._systems: list[str | None] = []  # the one in use; empty until it is known
        self._gate = Gate()
        self._thread = threading.Thread(target=self._run, name="sequoia-decoder", daemon=True)

    def start(self) -> None:
        """Start loading the engine."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether the thread still runs."""
        return self._thread.is_alive()

    @property
    def paused(self) -> bool:
        """Whether decoding stops after each step."""
        return self._gate.paused

    def submit(self, request: Request, tell: Tell | None = None) -> None:
        """Queue a request; an `Ask` or a `Race` forgets an earlier `cancel`.

        Args:
            request: what is wanted.
            tell: called with each event of an answer in the decode thread, before it is reported.
        """
        if isinstance(request, Ask | Race):
            self._cancel.clear()
        if isinstance(request, Start):
            self._latest = request
        self._requests.put((request, tell))

    def superseded(self, request: Start) -> bool:
        """Whether the engine was told since to go on from something else."""
        return request is not self._latest

    def cancel(self) -> None:
        """End the answer under way after its step; also ends a pause."""
        self._cancel.set()
        self._gate.resume()

    def pause(self) -> None:
        """Hold the decoding after the step it is in."""
        self._gate.pause()

    def resume(self) -> None:
        """Let the decoding run on."""
        self._gate.resume()

    def single_step(self) -> None:
        """Run exactly one step while paused."""
        self._gate.permit_step()

    def drain(self) -> list[Report]:
        """Everything reported since the last drain, in order."""
        reports: list[Report] = []
        while True:
            try:
                reports.append(self._mail.get_nowait())
            except queue.Empty:
                return reports

    def close(self) -> None:
        """Ask the thread to end: loading, an answer, a race and measuring stop where they can."""
        self._closing.set()
        self._cancel.set()
        self._gate.wake()
        self._requests.put((Shutdown(), None))

    def shutdown(self, timeout: float) -> bool:
        """End the thread and join it.

        Args:
            timeout: seconds to wait for the step, or the part of loading, that it is in.

        Returns:
            Whether it ended; if not, being a daemon, it dies with the process.
        """
        self.close()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            engine = self._factory(self._report_loading)
        except _ShuttingDownError:
            return
        except Exception as error:
            self._mail.put(LoadFailed(_told(error)))
            return
        self._mail.put(Ready(engine.description))
        tuning = True
        while not self._closing.is_set():
            tuning = tuning and self._tune(engine)
            request, tell = self._requests.get()
            if isinstance(request, Ask):
                self._answer(engine, request, tell)
            elif isinstance(request, Race):
                self._mail.put(RaceEnded(self._race(engine, request)))
            else:
                self._serve(engine, request)

    def _report_loading(self, message: str, fraction: float | None) -> None:
        if self._closing.is_set():
            raise _ShuttingDownError
        self._mail.put(Loading(message, fraction))

    def _answer(self, engine: ChatEngine, request: Ask, tell: Tell | None) -> None:
        if self._astray:
            self._fail(f"not answered: {astray(self._astray)}; ask again to try once more")
            return
        ended = False
        try:
            events = engine.reply(request.prompt, request.params, self._cancel.is_set)
            for event in events:
                ended = isinstance(event, Finished | Failed)
                if tell is not None:
                    tell(event)
                self._mail.put(Answering(event))
                if isinstance(event, Step):
                    self._gate.wait(self._cancel.is_set)
        except Exception as error:
            ended = self._fail(_told(error))
        if not ended:
            self._fail("the engine ended the answer without a result")

    def _fail(self, message: str) -> bool:
        self._mail.put(Answering(Failed(message)))
        return True

    def _race(self, engine: ChatEngine, request: Race) -> str | None:
        """Run a race to its end; the error it ended by."""
        try:
            for event in engine.race(
                request.turns, request.prompt, request.params, self._cancel.is_set
            ):
                self._mail.put(Racing(event))
                if isinstance(event, Raced) and isinstance(event.event, Step):
                    self._gate.wait(self._cancel.is_set)
        except Exception as error:
            return _told(error)
        return None

    def _serve(self, engine: ChatEngine, request: Request) -> None:
        try:
            match request:
                case ChooseTree(choice):
                    engine.choose_tree(choice)
                case SetSystem(system_prompt, before):
                    self._systems = self._systems or [before]
                    engine.set_system_prompt(system_prompt)
                    self._systems = [system_prompt]
                case Clear():
                    engine.clear()
                case Restore(turns):
                    engine.restore(turns)
        except Exception as error:
            self._refuse(engine, request, _told(error))
        else:
            if isinstance(request, Start):
                self._astray = ""

    def _refuse(self, engine: ChatEngine, request: Request, message: str) -> None:
        if isinstance(request, SetSystem):
            self._mail.put(SystemRefused(message, request.system_prompt, self._systems[0]))
            try:  # the screen has begun another chat all the same
                engine.clear()
            except Exception as error:
                self._lose(request, _told(error))
            else:
                self._astray = ""
        elif isinstance(request, Start):
            self._lose(request, message)
        else:
            self._mail.put(Refused(message))

    def _lose(self, request: Start, message: str) -> None:
        self._astray = message
        self._mail.put(Astray(message, request))

    def _tune(self, engine: ChatEngine) -> bool:
        """Measure until a request arrives; False when it failed and must not be tried again."""
        try:
            events: Iterator[Event] = engine.tune(lambda: not self._requests.empty())
            for event in events:
                self._mail.put(Tuning(event))
        except Exception as error:
            self._mail.put(Refused(_told(error)))
            return False
        return True


def astray(message: str) -> str:
    """What `Astray` means, in words."""
    return f"the model could not be taken to this branch: {message}"


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, SequoiaError) else unexpected(error)


def unexpected(error: Exception) -> str:
    """One line for the person; the traceback goes to the log."""
    _log.error("unexpected error in the decode thread", exc_info=error)
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}{': ' if text else ''}{text}"
