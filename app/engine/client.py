"""The `ChatEngine` of a window whose models are in the engine process; see `server`."""

import select
import socket
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import Race, RaceEvent
from sequoia_core.config import SamplingParams
from sequoia_core.errors import ModelLoadError, SequoiaError
from sequoia_core.events import Event, PairDescription, Progress, StopCheck
from sequoia_core.text.chat_template import Turn
from sequoia_core.tree.choice import TreeChoice

from . import messages as msg

POLL_SECONDS = 0.05  # how often `should_stop` is called while nothing comes
LOADING_SECONDS = 0.25
"""How often progress is repeated while models load, so that quitting is noticed."""
_GONE = "the engine process has ended; start `sequoia web` again"


class RemoteEngine(ChatEngine):
    """A conversation that the engine process holds.

    Nothing is decoded ahead of the reader: the next step is asked for when the caller takes the
    next event, so a pause here is a pause there. Each method raises SequoiaError as the engine did
    there, or because it has gone; ModelLoadError if there is no engine process at the socket
    `path`, or it could not load.
    """

    def __init__(self, path: Path, choice: TreeChoice, progress: Progress) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            raise ModelLoadError(f"no engine process: {error.strerror}") from None
        self._link = msg.Link(connection)
        self._received: deque[Any] = deque()
        self.tree_choice = choice
        try:
            self.description = self._wait_until_loaded(progress)
        except msg.WireError:
            self.close()
            raise ModelLoadError(_GONE) from None
        except BaseException:
            self.close()
            raise

    def _wait_until_loaded(self, progress: Progress) -> PairDescription:
        latest: tuple[str, float | None] = ("loading the models", None)
        while True:
            progress(*latest)
            match self._receive(LOADING_SECONDS):
                case msg.Ready(description):
                    return description
                case msg.LoadFailed(message):
                    raise ModelLoadError(message)
                case msg.Loading(message, fraction):
                    latest = message, fraction

    @override
    def choose_tree(self, choice: TreeChoice) -> None:
        self._carry_out(msg.ChooseTree(choice))
        self.tree_choice = choice

    @override
    def clear(self) -> None:
        self._carry_out(msg.Clear())

    @override
    def set_system_prompt(self, system_prompt: str | None) -> None:
        self._carry_out(msg.SetSystem(system_prompt))

    @override
    def restore(self, turns: Sequence[Turn]) -> None:
        self._carry_out(msg.Restore(tuple(turns)))

    @override
    def reply(self, prompt: str, params: SamplingParams, should_stop: StopCheck) -> Iterator[Event]:
        return self._stream(msg.Ask(prompt, params), should_stop)

    @override
    def continue_answer(
        self, turn: Turn, params: SamplingParams, should_stop: StopCheck
    ) -> Iterator[Event]:
        return self._stream(msg.ContinueAnswer(turn, params), should_stop)

    @override
    def race(self, race: Race, should_stop: StopCheck, progress: Progress) -> Iterator[RaceEvent]:
        del progress  # nothing is loaded for a race there
        return self._stream(race, should_stop)

    @override
    def tune(self, should_stop: StopCheck) -> Iterator[Event]:
        return self._stream(msg.Tune(), should_stop)

    def close(self) -> None:
        self._link.close()

    def _carry_out(self, request: msg.RemoteRequest) -> None:
        list(self._stream(request, lambda: False))

    def _stream(self, request: msg.RemoteRequest, should_stop: StopCheck) -> Iterator[Any]:
        try:
            self._link.send(request)
            stopping, ended = False, False
            try:
                while not ended:
                    if not stopping and should_stop():
                        self._link.send(msg.Stop())
                        stopping = True
                    match self._receive(POLL_SECONDS):
                        case None:
                            pass
                        case msg.Held():
                            self._link.send(*([msg.Stop()] if should_stop() else []), msg.Go())
                        case msg.Done():
                            ended = True
                        case msg.Refused(message):
                            ended = True
                            raise SequoiaError(message)
                        case event:
                            yield event
            finally:
                if not ended:  # the caller reads no more
                    self._link.send(msg.Stop(), msg.Go())
                    while not isinstance(message := self._receive(None), msg.Done | msg.Refused):
                        if isinstance(message, msg.Held):
                            self._link.send(msg.Go())
        except msg.WireError:
            raise SequoiaError(_GONE) from None

    def _receive(self, timeout: float | None) -> Any:
        """The next message, or None if there is none in time."""
        if not self._received:
            writable = [self._link] if self._link.unsent else []
            ready, _, _ = select.select([self._link], writable, [], timeout)
            self._link.flush()
            if ready:
                self._received += self._link.receive()
        return self._received.popleft() if self._received else None
