"""The processes behind the browser's windows: one engine process, and an app process each."""

import asyncio
import json
import signal
import socket
import sys
import tempfile
from asyncio.subprocess import PIPE, Process
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from aiohttp.web import WebSocketResponse
from textual_serve.app_service import AppService
from textual_serve.download_manager import DownloadManager

from sequoia_core.errors import SequoiaError

from ..engine.messages import Done, LoadFailed, Loading, from_line
from ..engine.server import Report

PATIENCE_SECONDS = 5.0  # how long a process may take to end
_SERVERS_OWN = frozenset({"TMUX", "TMUX_PANE", "STY", "DISPLAY", "WAYLAND_DISPLAY"})
"""Variables that lead to the clipboard of the server's terminal or desktop, not the browser's."""
_PACKAGE = __package__.rpartition(".")[0]


class EngineProcess:
    """The process that holds the models, and `path`, the socket that windows connect to.

    Two descriptors are appended to `command`: the listening socket, and the settings for
    `read_flags`.
    """

    def __init__(
        self, command: Sequence[str] = (sys.executable, "-m", f"{_PACKAGE}.engine.server")
    ) -> None:
        self._command = tuple(command)
        # only this user may enter the folder, and so reach the socket
        self._folder = tempfile.TemporaryDirectory(prefix="sequoia-")
        self.path = Path(self._folder.name) / "engine"
        self._process: Process | None = None

    async def start(self, flags: Mapping[str, Any]) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(str(self.path))
            listener.listen()
            self._process = await _start(self._command, flags, listener.fileno())

    async def watch(self, report: Report) -> None:
        """Pass on its reports until it ends; then raises SequoiaError."""
        assert self._process is not None
        assert self._process.stdout is not None
        failure = ""
        async for line in self._process.stdout:
            message = from_line(line)
            assert isinstance(message, Loading | LoadFailed | Done)
            if isinstance(message, LoadFailed):
                failure = message.message
            report(message)
        code = await self._process.wait()
        how = f"with code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
        raise SequoiaError(failure or f"the engine process ended {how}")

    async def stop(self) -> None:
        """End it, by force if need be, and remove the socket."""
        if self._process is not None:
            assert self._process.stdin is not None
            self._process.stdin.close()  # asks it to end
            await _end(self._process)
        self._folder.cleanup()


class Window(AppService):
    """The app's process behind one window of the browser.

    The descriptor of the settings for `read_flags` is appended to `command`.
    """

    def __init__(
        self, command: Sequence[str], flags: Mapping[str, Any], websocket: WebSocketResponse
    ) -> None:
        super().__init__(
            "",  # a shell's command; `_open_app_process` runs none
            write_bytes=websocket.send_bytes,
            write_str=websocket.send_str,
            close=websocket.close,  # type: ignore[arg-type]  # the result is unused
            download_manager=DownloadManager(),
        )
        self._argv = tuple(command)
        self._flags = flags

    def _build_environment(self, width: int = 80, height: int = 24) -> dict[str, str]:
        built = super()._build_environment(width, height)
        return {name: value for name, value in built.items() if name not in _SERVERS_OWN}

    async def _open_app_process(self, width: int = 80, height: int = 24) -> Process:
        environment = self._build_environment(width, height)
        self._process = await _start(self._argv, self._flags, stderr=PIPE, env=environment)
        self._stdin = self._process.stdin
        return self._process

    async def stop(self) -> None:
        """Ask the app to quit; end it if it does not."""
        if self._process is None:
            return
        try:
            with suppress(TimeoutError):
                async with asyncio.timeout(PATIENCE_SECONDS):
                    await super().stop()
        finally:
            await _end(self._process)


def window_command(engine: Path) -> tuple[str, ...]:
    """The command of a window's process; `engine` is the engine process's socket."""
    return (sys.executable, "-m", f"{_PACKAGE}.web.window", str(engine))


async def _start(
    command: Sequence[str], flags: Mapping[str, Any], *descriptors: int, **more: Any
) -> Process:
    """Start a process; `descriptors` and that of its settings are appended to the command.

    Everybody can read a command line, so the settings are in a file without a name: a pipe that
    nobody reads yet would block when full. In a session of its own, Ctrl+C does not reach it: the
    server ends it in order.
    """
    with tempfile.TemporaryFile() as file:
        file.write(json.dumps(dict(flags), default=str).encode())
        file.seek(0)
        given = (*descriptors, file.fileno())
        return await asyncio.create_subprocess_exec(
            *command, *map(str, given),
            stdin=PIPE, stdout=PIPE, pass_fds=given, start_new_session=True, **more,
        )  # fmt: skip


async def _end(process: Process) -> None:
    """Wait for the end of a process that was asked to end; force it if it does not."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                await process.wait()
                return
        except TimeoutError:
            process.send_signal(number)
    await process.wait()
