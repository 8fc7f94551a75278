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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp.web import WebSocketResponse
from textual_serve.app_service import AppService
from textual_serve.download_manager import DownloadManager

from sequoia_core.errors import SequoiaError

from ..engine_server import Report
from ..messages import LoadFailed, Loading
from ..wire import Done, from_line

PATIENCE_SECONDS = 5.0
"""How long a process may take to end by itself."""
_SERVERS_OWN = frozenset({"TMUX", "TMUX_PANE", "STY", "DISPLAY", "WAYLAND_DISPLAY"})
"""A browser's clipboard is the browser's: nothing goes through tmux or to another desktop."""
_PACKAGE = __package__.rpartition(".")[0]


class EngineProcess:
    """The process that holds the models, and the socket at which windows reach it.

    Args:
        command: what to run; the listening socket's descriptor and the flags are added to it.
    """

    def __init__(
        self, command: Sequence[str] = (sys.executable, "-m", f"{_PACKAGE}.engine_server")
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
            descriptor = listener.fileno()
            order = (str(descriptor), json.dumps(flags, default=str))
            # a session of its own: Ctrl+C is for the server, which then ends the others in order
            self._process = await asyncio.create_subprocess_exec(
                *self._command, *order,
                stdin=PIPE, stdout=PIPE, pass_fds=(descriptor,), start_new_session=True,
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
        command: what to run.
        websocket: the connection to the browser.
    """

    def __init__(self, command: Sequence[str], websocket: WebSocketResponse) -> None:
        super().__init__(
            shlex.join(command),
            write_bytes=websocket.send_bytes,
            write_str=websocket.send_str,
            close=websocket.close,  # type: ignore[arg-type]  # its result is of no use
            download_manager=DownloadManager(),
        )
        self._argv = tuple(command)

    def _build_environment(self, width: int = 80, height: int = 24) -> dict[str, str]:
        """As the base class, without what tells of the terminal and desktop of the server."""
        built = super()._build_environment(width, height)
        return {name: value for name, value in built.items() if name not in _SERVERS_OWN}

    async def _open_app_process(self, width: int = 80, height: int = 24) -> Process:
        """As the base class, but without a shell and out of reach of the terminal's Ctrl+C."""
        self._process = await asyncio.create_subprocess_exec(
            *self._argv,
            stdin=PIPE, stdout=PIPE, stderr=PIPE, start_new_session=True,
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


def window_command(engine: Path, flags: Mapping[str, Any]) -> tuple[str, ...]:
    """What a window's process runs.

    Args:
        engine: the engine process's socket.
        flags: settings as on the command line.
    """
    order = (str(engine), json.dumps(flags, default=str))
    return (sys.executable, "-m", f"{_PACKAGE}.web.window", *order)


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
