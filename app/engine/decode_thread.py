"""The decode thread: runs the engine, takes requests, reports events, pauses between steps.

One long-lived daemon thread per app. Reports wait until the screen drains them; none is dropped.
"""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import Raced
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Event, Failed, Finished, Step

from .messages import (
    Answering,
    Ask,
    ChooseTree,
    Clear,
    EngineFactory,
    LoadAbortedError,
    LoadFailed,
    Loading,
    OutOfSync,
    Race,
    RaceEnded,
    Racing,
    Ready,
    Refused,
    Report,
    Request,
    Restore,
    SetSystem,
    Start,
    SystemRefused,
    Tuning,
)

_log = logging.getLogger("sequoia.decoder")
_log.addHandler(logging.NullHandler())

OnEvent = Callable[[Event], None]


class Decoder:
    """Handle of the decode thread; all methods are for the screen's thread.

    Args:
        factory: makes the engine, in the decode thread.
    """

    def __init__(self, factory: EngineFactory) -> None:
        self._factory = factory
        self._requests: queue.SimpleQueue[tuple[Request, OnEvent | None] | None]
        self._requests = queue.SimpleQueue()  # None ends the thread
        self._reports: deque[Report] = deque()
        self._cancelled = threading.Event()
        self._closing = threading.Event()
        self._latest: Start | None = None
        self._out_of_sync = ""
        self._systems: list[str | None] = []  # the one in use; empty until it is known
        self._gate = threading.Condition()
        self._paused = self._permitted = False
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
        return self._paused

    def submit(self, request: Request, on_event: OnEvent | None = None) -> None:
        """Queue a request; an `Ask` or a `Race` cancels an earlier `cancel`.

        Args:
            request: what is wanted.
            on_event: called with each event of an answer in the decode thread, before the report.
        """
        if isinstance(request, Ask | Race):
            self._cancelled.clear()
        if isinstance(request, Start):
            self._latest = request
        self._requests.put((request, on_event))

    def superseded(self, request: Start) -> bool:
        """Whether a later request says what the engine goes on from."""
        return request is not self._latest

    def cancel(self) -> None:
        """End the running answer after its step; also ends a pause."""
        self._cancelled.set()
        self.resume()

    def pause(self) -> None:
        """Hold the decoding after the current step."""
        with self._gate:
            self._paused, self._permitted = True, False

    def resume(self) -> None:
        """End a pause."""
        with self._gate:
            self._paused = False
            self._gate.notify_all()

    def toggle_pause(self) -> None:
        """Resume while paused, else pause."""
        if self.paused:
            self.resume()
        else:
            self.pause()

    def single_step(self) -> None:
        """Run exactly one step while paused. Permits do not add up: a held key must not run on."""
        with self._gate:
            self._permitted = self._paused
            self._gate.notify_all()

    def drain(self) -> list[Report]:
        """Everything reported since the last drain, in order."""
        return [self._reports.popleft() for _ in range(len(self._reports))]

    def close(self) -> None:
        """Ask the thread to end: loading, an answer, a race and measuring stop where they can."""
        self._closing.set()
        self._cancelled.set()
        with self._gate:
            self._gate.notify_all()
        self._requests.put(None)

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

    # In the thread

    def _run(self) -> None:
        try:
            engine = self._factory(self._report_loading)
        except LoadAbortedError:
            return
        except Exception as error:
            self._reports.append(LoadFailed(error_line(error)))
            return
        self._reports.append(Ready(engine.description))
        tuning = True
        while not self._closing.is_set():
            tuning = tuning and self._tune(engine)
            match self._requests.get():
                case Ask() as request, on_event:
                    self._answer(engine, request, on_event)
                case Race() as request, _:
                    self._reports.append(RaceEnded(self._race(engine, request)))
                case request, _:
                    self._carry_out(engine, request)

    def _report_loading(self, message: str, fraction: float | None) -> None:
        if self._closing.is_set():
            raise LoadAbortedError
        self._reports.append(Loading(message, fraction))

    def _wait_while_paused(self) -> None:
        with self._gate:
            self._gate.wait_for(
                lambda: not self._paused or self._permitted or self._cancelled.is_set()
            )
            self._permitted = False

    def _answer(self, engine: ChatEngine, request: Ask, on_event: OnEvent | None) -> None:
        if self._out_of_sync:
            why = out_of_sync_line(self._out_of_sync)
            self._fail(f"not answered: {why}; ask again to try once more")
            return
        event: Event | None = None
        try:
            for event in engine.reply(request.prompt, request.params, self._cancelled.is_set):
                if on_event is not None:
                    on_event(event)
                self._reports.append(Answering(event))
                if isinstance(event, Step):
                    self._wait_while_paused()
        except Exception as error:
            self._fail(error_line(error))
        else:
            if not isinstance(event, Finished | Failed):
                self._fail("the engine ended the answer without a result")

    def _fail(self, message: str) -> None:
        self._reports.append(Answering(Failed(message)))

    def _race(self, engine: ChatEngine, request: Race) -> str | None:
        """Run a race to its end; the error it ended by."""
        cancelled = self._cancelled.is_set
        try:
            for event in engine.race(request.turns, request.prompt, request.params, cancelled):
                self._reports.append(Racing(event))
                if isinstance(event, Raced) and isinstance(event.event, Step):
                    self._wait_while_paused()
        except Exception as error:
            return error_line(error)
        return None

    def _carry_out(self, engine: ChatEngine, request: ChooseTree | Start) -> None:
        if isinstance(request, SetSystem):
            self._systems = self._systems or [request.before]
        try:
            carry_out(engine, request)
        except Exception as error:
            self._refuse(engine, request, error_line(error))
        else:
            if isinstance(request, SetSystem):
                self._systems = [request.system_prompt]
            if isinstance(request, Start):
                self._out_of_sync = ""

    def _refuse(self, engine: ChatEngine, request: ChooseTree | Start, message: str) -> None:
        match request:
            case SetSystem(refused):
                self._reports.append(SystemRefused(message, refused, self._systems[0]))
                try:  # the screen has begun another chat nevertheless
                    engine.clear()
                except Exception as error:
                    self._lose_sync(request, error_line(error))
                else:
                    self._out_of_sync = ""
            case ChooseTree():
                self._reports.append(Refused(message))
            case _:
                self._lose_sync(request, message)

    def _lose_sync(self, request: Start, message: str) -> None:
        self._out_of_sync = message
        self._reports.append(OutOfSync(message, request))

    def _tune(self, engine: ChatEngine) -> bool:
        """Measure until a request arrives; False when it failed and must not be tried again."""
        try:
            for event in engine.tune(lambda: not self._requests.empty()):
                self._reports.append(Tuning(event))
        except Exception as error:
            self._reports.append(Refused(error_line(error)))
            return False
        return True


def carry_out(engine: ChatEngine, request: ChooseTree | Start) -> None:
    """Do what takes no time.

    Raises:
        SequoiaError: the engine refuses it.
    """
    match request:
        case ChooseTree(choice):
            engine.choose_tree(choice)
        case SetSystem(system_prompt):
            engine.set_system_prompt(system_prompt)
        case Clear():
            engine.clear()
        case Restore(turns):
            engine.restore(turns)


def out_of_sync_line(message: str) -> str:
    """What `OutOfSync` means, in words."""
    return f"the model could not be taken to this branch: {message}"


def error_line(error: Exception) -> str:
    """One line for the person; the traceback of what is no `SequoiaError` goes to the log."""
    if isinstance(error, SequoiaError):
        return str(error)
    _log.error("unexpected error in the decode thread", exc_info=error)
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}{': ' if text else ''}{text}"
