"""The decode thread: runs the engine, takes requests, reports events, pauses between steps."""

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import Race, Raced
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Event, Failed, Finished, Step, StopCheck

from . import messages as msg

_log = logging.getLogger("sequoia.decoder")
_log.addHandler(logging.NullHandler())

OnEvent = Callable[[Event], None]

NO_MODEL = "no model is loaded: /model chooses one"
STOPPED = "stopped"


class DecodeThread:
    """Handle of the decode thread, which makes the engine; all methods are for the screen's thread.

    `paused` is whether decoding stops after each step.
    """

    def __init__(self, factory: msg.EngineFactory) -> None:
        self._factory = factory
        self._engine: ChatEngine | None = None  # used in the thread only
        self._requests: queue.SimpleQueue[tuple[msg.Request | msg.Switch, OnEvent] | None] = (
            queue.SimpleQueue()
        )
        self._reports: deque[msg.Report] = deque()
        self._cancelled = threading.Event()
        self._closing = threading.Event()
        self._switch_stopped = threading.Event()
        self._unreached: msg.Clear | msg.Restore | None = None  # failed, tried before an answer
        self._systems: list[str | None] = []  # the one in use; empty until it is known
        self._gate = threading.Condition()
        self.paused = self._permitted = False
        self._thread = threading.Thread(target=self._run, name="sequoia-decoder", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(
        self, request: msg.Request | msg.Switch, on_event: OnEvent = lambda _event: None
    ) -> None:
        """Queue a request; one that decodes cancels an earlier `cancel`.

        `on_event` is called with each event of an answer in the decode thread, before the report.
        """
        if isinstance(request, msg.Ask | msg.ContinueAnswer | Race):
            self._cancelled.clear()
        elif isinstance(request, msg.Switch):
            self._switch_stopped.clear()
        self._requests.put((request, on_event))

    def cancel(self) -> None:
        """End the running answer after its step; also ends a pause."""
        self._cancelled.set()
        self._open_gate(paused=False)

    def stop_switch(self) -> None:
        """Leave the models that are being loaded; those before stay in use."""
        self._switch_stopped.set()

    def toggle_pause(self) -> None:
        self._open_gate(paused=not self.paused)

    def single_step(self) -> None:
        """Run exactly one step while paused. Permits do not add up: a held key must not run on."""
        self._open_gate(paused=self.paused, permitted=self.paused)

    def _open_gate(self, *, paused: bool, permitted: bool = False) -> None:
        with self._gate:
            self.paused, self._permitted = paused, permitted
            self._gate.notify_all()

    def drain(self) -> list[msg.Report]:
        return [self._reports.popleft() for _ in range(len(self._reports))]

    def close(self) -> None:
        """Ask the thread to end: loading, an answer, a race and measuring stop where they can."""
        self._closing.set()
        self._cancelled.set()
        self._open_gate(paused=self.paused)
        self._requests.put(None)  # ends the thread

    def shutdown(self, timeout: float) -> bool:
        """End the thread; whether it ended within so many seconds.

        If not, it is in a step or a part of loading and, being a daemon, dies with the process.
        """
        self.close()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        return not self._thread.is_alive()

    # In the thread

    def _run(self) -> None:
        try:
            self._engine = self._factory(self._report_loading)
        except msg.LoadAbortedError:
            return
        except Exception as error:
            self._reports.append(msg.LoadFailed(error_line(error)))
            return
        self._reports.append(msg.Ready(self._engine.description))
        with suppress(msg.LoadAbortedError):
            self._serve()

    def _serve(self) -> None:
        tuning_failed = ""
        while not self._closing.is_set():
            if self._engine is not None and not tuning_failed:
                tuning_failed = _failure_of(self._tune, self._engine)
                if tuning_failed:
                    self._reports.append(msg.Refused(tuning_failed))  # it is not tried again
            match self._requests.get():
                case None:
                    return
                case msg.Switch() as request, _:
                    self._switch(request)
                    tuning_failed = ""
                case request, on_event:
                    self._take(request, on_event)

    def _take(self, request: msg.Request, on_event: OnEvent) -> None:
        engine = self._engine
        match request:
            case msg.Ask() | msg.ContinueAnswer() if engine is None:
                self._reports.append(msg.Answering(Failed(NO_MODEL)))
            case Race() if engine is None:
                self._reports.append(msg.RaceEnded(NO_MODEL))
            case _ if engine is None:
                pass  # the next `Switch` has all that counts
            case msg.Ask() | msg.ContinueAnswer():
                self._answer(engine, request, on_event)
            case Race():
                failure = _failure_of(self._race, engine, request)
                self._reports.append(msg.RaceEnded(failure or None))
            case _:
                self._carry_out(engine, request)

    # Other models

    def _switch(self, request: msg.Switch) -> None:
        """Load other models; if that fails, those before stay in use or are loaded again."""
        failure = ""
        try:
            if not request.check(self._engine):
                self._engine = None
            self._engine = request.load(self._engine, self._report_switching)
            self._systems = []
        except msg.LoadAbortedError:
            raise
        except Exception as error:
            failure = error_line(error)
        if failure and self._engine is None:  # the error holds no weights any more
            failure += self._load_again(request.load_again)
        engine = self._engine
        if failure:
            description = engine.description if engine is not None else None
            self._reports.append(msg.SwitchFailed(failure, description))
        elif engine is not None:
            self._reports.append(msg.Ready(engine.description))
        if engine is not None and (unreached := self._reach(engine, msg.Restore(request.turns))):
            self._reports.append(msg.Unreached(unreached))

    def _load_again(self, load: msg.EngineFactory) -> str:
        """Load the models that were in use before; what to add to a message if that fails."""
        try:
            self._engine = load(self._report_loading)
        except msg.LoadAbortedError:
            raise
        except Exception as error:
            return f"; the models before could not be loaded again: {error_line(error)}"
        return ""

    def _report_switching(self, message: str, fraction: float | None) -> None:
        self._report_loading(message, fraction)
        if self._switch_stopped.is_set():
            raise SequoiaError(STOPPED)

    def _report_loading(self, message: str, fraction: float | None) -> None:
        if self._closing.is_set():
            raise msg.LoadAbortedError
        self._reports.append(msg.Loading(message, fraction))

    def _pause_after(self, event: Event) -> None:
        if isinstance(event, Step):
            with self._gate:
                self._gate.wait_for(
                    lambda: not self.paused or self._permitted or self._cancelled.is_set()
                )
                self._permitted = False

    def _answer(
        self, engine: ChatEngine, request: msg.Ask | msg.ContinueAnswer, on_event: OnEvent
    ) -> None:
        event: Event | None = None
        try:
            if self._unreached is not None and (failure := self._reach(engine, self._unreached)):
                raise SequoiaError(f"not answered: {failure}; ask again to try once more")
            for event in answered(engine, request, self._cancelled.is_set):
                on_event(event)
                self._reports.append(msg.Answering(event))
                self._pause_after(event)
            if not isinstance(event, Finished | Failed):
                raise SequoiaError("the engine ended the answer without a result")
        except Exception as error:
            self._reports.append(msg.Answering(Failed(error_line(error))))

    def _race(self, engine: ChatEngine, race: Race) -> None:
        for event in engine.race(race, self._cancelled.is_set, self._report_loading):
            self._reports.append(event)
            if isinstance(event, Raced):
                self._pause_after(event.event)

    def _carry_out(self, engine: ChatEngine, request: msg.ChooseTree | msg.Start) -> None:
        match request:
            case msg.ChooseTree():
                if failure := _failure_of(carry_out, engine, request):
                    self._reports.append(msg.Refused(failure))
            case msg.Clear() | msg.Restore():
                if failure := self._reach(engine, request):
                    self._reports.append(msg.Unreached(failure))
            case msg.SetSystem(wanted, before):
                self._systems = self._systems or [before]
                self._unreached = None
                if failure := _failure_of(carry_out, engine, request):
                    self._reports.append(msg.SystemRefused(failure, wanted, self._systems[0]))
                    self._reach(engine, msg.Clear())  # the screen has begun another chat
                else:
                    self._systems = [wanted]

    def _reach(self, engine: ChatEngine, turns: msg.Clear | msg.Restore) -> str:
        """Take the engine to these turns; why not, in one line, and the next answer tries again."""
        failure = _failure_of(carry_out, engine, turns)
        self._unreached = turns if failure else None
        return failure and f"the model could not be taken to this branch: {failure}"

    def _tune(self, engine: ChatEngine) -> None:
        for event in engine.tune(lambda: not self._requests.empty()):
            self._reports.append(event)


def _failure_of(do: Callable[..., None], *given: Any) -> str:
    """The error that the call ends by, in one line; "" if it succeeds.

    Raises LoadAbortedError: the thread is to end.
    """
    try:
        do(*given)
    except msg.LoadAbortedError:
        raise
    except Exception as error:
        return error_line(error)
    return ""


def answered(
    engine: ChatEngine, request: msg.Ask | msg.ContinueAnswer, should_stop: StopCheck
) -> Iterator[Event]:
    if isinstance(request, msg.Ask):
        return engine.reply(request.prompt, request.params, should_stop)
    return engine.continue_answer(request.turn, request.params, should_stop)


def carry_out(engine: ChatEngine, request: msg.ChooseTree | msg.Start) -> None:
    match request:
        case msg.ChooseTree(choice):
            engine.choose_tree(choice)
        case msg.SetSystem(system_prompt):
            engine.set_system_prompt(system_prompt)
        case msg.Clear():
            engine.clear()
        case msg.Restore(turns):
            engine.restore(turns)


def error_line(error: Exception) -> str:
    """One line for the person; the traceback of what is no `SequoiaError` goes to the log."""
    if isinstance(error, SequoiaError):
        return str(error)
    _log.error("unexpected error in the decode thread", exc_info=error)
    text = " ".join(str(error).split())
    return f"unexpected {type(error).__name__}{': ' if text else ''}{text}"
