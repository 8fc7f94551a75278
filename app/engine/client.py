"""The `ChatEngine` of a window whose models are in the engine process; see `server`."""

import select
import socket
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from typing_extensions import override

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import RaceEvent
from sequoia_core.config import SamplingParams
from sequoia_core.errors import ModelLoadError, SequoiaError
from sequoia_core.events import Event, PairDescription, Progress
from sequoia_core.text.chat_template import Turn
from sequoia_core.tree.choice import TreeChoice

from .messages import Ask, ChooseTree, Clear, LoadFailed, Loading, Race, Restore, SetSystem
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
    Tune,
    WireError,
)

POLL_SECONDS = 0.05
"""How often `should_stop` is called while nothing comes."""
LOADING_SECONDS = 0.25
"""How often progress is repeated while models load, so that quitting is noticed."""
_GONE = "the engine process has ended; start `sequoia web` again"


class RemoteEngine(ChatEngine):
    """A conversation that the engine process holds.

    Nothing is decoded ahead of the reader: the next step is asked for when the caller takes the
    next event, so a pause here is a pause there.

    Args:
        path: the engine process's socket.
        choice: the tree that it begins with.
        progress: called with what is being loaded.

    Raises:
        ModelLoadError: the engine process is not there or could not load.
        SequoiaError: by each method, what the engine raised there, or that it has gone.
    """

    def __init__(self, path: Path, choice: TreeChoice, progress: Progress) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            raise ModelLoadError(f"no engine process: {error.strerror}") from None
        self._link = Link(connection)
        self._received: deque[Any] = deque()
        self._choice = choice
        self._description = self._wait_until_loaded(progress)

    @property
    @override
    def description(self) -> PairDescription:
        return self._description

    @property
    @override
    def tree_choice(self) -> TreeChoice:
        return self._choice

    @override
    def choose_tree(self, choice: TreeChoice) -> None:
        self._carry_out(ChooseTree(choice))
        self._choice = choice

    @override
    def clear(self) -> None:
        self._carry_out(Clear())

    @override
    def set_system_prompt(self, system_prompt: str | None) -> None:
        self._carry_out(SetSystem(system_prompt))

    @override
    def restore(self, turns: Sequence[Turn]) -> None:
        self._carry_out(Restore(tuple(turns)))

    @override
    def reply(
        self, prompt: str, params: SamplingParams, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        return self._stream(Ask(prompt, params), should_stop)

    @override
    def race(
        self,
        turns: Sequence[Turn],
        prompt: str,
        params: SamplingParams,
        should_stop: Callable[[], bool],
    ) -> Iterator[RaceEvent]:
        return self._stream(Race(tuple(turns), prompt, params), should_stop)

    @override
    def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        return self._stream(Tune(), should_stop)

    def close(self) -> None:
        """End the conversation."""
        self._link.close()

    def _carry_out(self, request: Request) -> None:
        for _ in self._stream(request, lambda: False):
            pass

    def _stream(self, request: Request, should_stop: Callable[[], bool]) -> Iterator[Any]:
        """The events that a request brings.

        Raises:
            SequoiaError: the engine raised one, or has gone.
        """
        try:
            self._link.send(request)
            stopping, ended = False, False
            try:
                while not ended:
                    if not stopping and should_stop():
                        self._link.send(Stop())
                        stopping = True
                    match self._receive(POLL_SECONDS):
                        case None:
                            pass
                        case Held():
                            self._link.send(*([Stop()] if should_stop() else []), Go())
                        case Done():
                            ended = True
                        case Rejected(message):
                            ended = True
                            raise SequoiaError(message)
                        case event:
                            yield event
            finally:
                if not ended:  # the caller reads no more
                    self._link.send(Leave())
                    while not isinstance(self._receive(None), Done | Rejected):
                        pass
        except WireError:
            raise SequoiaError(_GONE) from None

    def _wait_until_loaded(self, progress: Progress) -> PairDescription:
        latest: tuple[str, float | None] = ("loading the models", None)
        try:
            while True:
                progress(*latest)
                match self._receive(LOADING_SECONDS):
                    case Opened(description):
                        return description
                    case LoadFailed(message):
                        raise ModelLoadError(message)
                    case Loading(message, fraction):
                        latest = message, fraction
        except WireError:
            self._link.close()
            raise ModelLoadError(_GONE) from None
        except BaseException:
            self._link.close()
            raise

    def _receive(self, timeout: float | None) -> Any:
        """The next message, or None if there is none in time.

        Raises:
            WireError: the engine process has gone.
        """
        if not self._received:
            writable = [self._link] if self._link.unsent else []
            ready, _, _ = select.select([self._link], writable, [], timeout)
            self._link.flush()
            if ready:
                self._received += self._link.receive()
        return self._received.popleft() if self._received else None
