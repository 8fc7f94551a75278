"""The processes behind the browser's windows: one engine for all, and a window's own app.

Owns how they are started and that none of them outlives its use. Knows nothing of HTTP.
"""

import asyncio
import json
import shlex
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from aiohttp.web import WebSocketResponse
from textual_serve.app_service import AppService
from textual_serve.download_manager import DownloadManager

from sequoia_core.errors import SequoiaError

from ..engine.messages import LoadFailed, Loading
from ..engine.protocol import Done, from_line
from ..engine.server import Report

PATIENCE_SECONDS = 5.0
"""How long a process may take to end by itself."""
_SERVERS_OWN = frozenset({"TMUX", "TMUX_PANE", "STY", "DISPLAY", "WAYLAND_DISPLAY"})
"""A browser's clipboard is the browser's: nothing goes through tmux or to another desktop."""
_PACKAGE = __package__.rpartition(".")[0]


class EngineProcess:
    """The process that holds the models, and the socket at which windows reach it.

    Args:
        command: what to run; two descriptors are added to it, of the listening socket and of what
            `read_flags` reads.
    """

    def __init__(
        self, command: Sequence[str] = (sys.executable, "-m", f"{_PACKAGE}.engine.server")
    ) -> None:
        self._command = tuple(command)
        # only this user may enter the folder, so only this user's processes reach the socket
        self._folder = tempfile.TemporaryDirectory(prefix="sequoia-")
        self.path = Path(self._folder.name) / "engine"
        self._process: Process | None = None
        self._failure = ""

    async def start(self, flags: Mapping[str, Any]) -> None:
        """Begin to load; windows may connect at once."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(self.path))
            listener.listen()
            with handed_over(flags) as given:
                descriptors = (listener.fileno(), given)
                # a session of its own: Ctrl+C is for the server, which then ends the others in
                # order
                self._process = await asyncio.create_subprocess_exec(
                    *self._command, *map(str, descriptors),
                    stdin=PIPE, stdout=PIPE, pass_fds=descriptors, start_new_session=True,
                )  # fmt: skip

    async def watch(self, report: Report) -> None:
        """Pass on what it says until it ends, which it does not do by itself.

        Raises:
            SequoiaError: it has ended.
        """
        assert self._process is not None
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            message = from_line(line)
            assert isinstance(message, Loading | LoadFailed | Done)
            if isinstance(message, LoadFailed):
                self._failure = message.message
            report(message)
        code = await self._process.wait()
        raise SequoiaError(self._failure or f"the engine process ended {_how(code)}")

    async def stop(self) -> None:
        """End it, by force if it does not; the socket is gone afterwards."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()  # which it takes as the end
            await end(self._process)
        self._folder.cleanup()


class Window(AppService):
    """The app's process behind one window of the browser.

    Args:
        command: what to run; the descriptor of what `read_flags` reads is added to it.
        flags: settings as on the command line.
        websocket: the connection to the browser.
    """

    def __init__(
        self, command: Sequence[str], flags: Mapping[str, Any], websocket: WebSocketResponse
    ) -> None:
        super().__init__(
            shlex.join(command),
            write_bytes=websocket.send_bytes,
            write_str=websocket.send_str,
            close=websocket.close,  # type: ignore[arg-type]  # its result is of no use
            download_manager=DownloadManager(),
        )
        self._argv = tuple(command)
        self._flags = flags

    def _build_environment(self, width: int = 80, height: int = 24) -> dict[str, str]:
        """As the base class, without what tells of the terminal and desktop of the server."""
        built = super()._build_environment(width, height)
        return {name: value for name, value in built.items() if name not in _SERVERS_OWN}

    async def _open_app_process(self, width: int = 80, height: int = 24) -> Process:
        """As the base class, but without a shell and out of reach of the terminal's Ctrl+C."""
        with handed_over(self._flags) as given:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv, str(given),
                stdin=PIPE, stdout=PIPE, stderr=PIPE, pass_fds=(given,), start_new_session=True,
                env=self._build_environment(width, height),
            )  # fmt: skip
        self._stdin = self._process.stdin
        return self._process

    async def stop(self) -> None:
        """Ask the app to quit; end it if it does not."""
        if self._process is None:
            return
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await super().stop()
        except TimeoutError:
            pass
        finally:
            await end(self._process)


def window_command(engine: Path) -> tuple[str, ...]:
    """What a window's process runs.

    Args:
        engine: the engine process's socket.
    """
    return (sys.executable, "-m", f"{_PACKAGE}.web.window", str(engine))


@contextmanager
def handed_over(flags: Mapping[str, Any]) -> Iterator[int]:
    """A descriptor from which a child reads settings: a command line is there for all to read.

    It is of a file without a name, since a pipe that nobody reads yet has room for little.
    """
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(dict(flags), default=str).encode())
        file.seek(0)
        yield file.fileno()


async def end(process: Process) -> None:
    """Wait for the end of a process that was told to end; make it end if it does not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await process.wait()
                return
        except TimeoutError:
            process.send_signal(number)
    await process.wait()


def _how(code: int) -> str:
    if code >= 0:
        return f"with code {code}"
    return f"by {signal.Signals(-code).name}"
