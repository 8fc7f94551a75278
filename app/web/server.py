"""The HTTP server of `sequoia web`: the key in the address, the number of windows, how it ends."""

import asyncio
import errno
import os
import secrets
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.typedefs import Handler
from textual_serve.server import Server, to_int

from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.files import parse_json

from .connections import Connections
from .pages import forbidden, full
from .processes import PATIENCE_SECONDS, Window

_FOLDER = Path(__file__).parent
_HEARTBEAT_SECONDS = 15.0
_FREE_SECONDS = 3.0
"""How long a new window waits for another to close: the previous one, when a page is reloaded."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LONGEST_SIDE = 1000
_IDLE_SECONDS = 15.0
"""How long a connection is kept open for another request."""
_LINGERING_SECONDS = 2.0
"""How long the rest of an answered request is read, so that the answer arrives."""
_SPARE_CONNECTIONS, _WINDOW_CONNECTIONS = 16, 8
"""A browser loads a page through up to six connections."""
_HEADERS = {
    # the address holds the key: no linked page may learn it
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Content-Security-Policy": (
        "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "font-src 'self' data:; connect-src 'self' ws: wss:; frame-ancestors 'none'; "
        "base-uri 'none'; form-action 'none'"
    ),
}


@dataclass(frozen=True, slots=True)
class Address:
    """Where the server listens; port 0 is any free one."""

    host: str
    port: int


class WebServer(Server):
    """Serves the chat to browsers that know the key.

    Args:
        address: where to listen.
        windows: how many may be open at once.
        command: starts a window's app.
        flags: settings for it, as on the command line.

    Attributes:
        key: first part of every path that is answered.
    """

    def __init__(
        self,
        address: Address,
        windows: int,
        command: Sequence[str],
        flags: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        super().__init__("sequoia", host=address.host, port=address.port, title="Sequoia")
        self.key = secrets.token_urlsafe(24)
        self._command, self._flags = tuple(command), flags
        self._windows, self._free = windows, asyncio.Semaphore(windows)
        self._connections = Connections(_SPARE_CONNECTIONS + _WINDOW_CONNECTIONS * windows)
        self._sockets: set[web.WebSocketResponse] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None
        self._listener: asyncio.Server | None = None

    async def start(self) -> str:
        """Start listening; returns the address for the browser, key included.

        Raises:
            SequoiaError: the address cannot be listened at.
        """
        self._runner = web.AppRunner(
            await self.outer_app(),
            access_log=None,  # it would show the key
            shutdown_timeout=4 * PATIENCE_SECONDS,
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=_LINGERING_SECONDS,
        )
        await self._runner.setup()
        try:
            self._listener = await asyncio.get_running_loop().create_server(
                self._connect, self.host, self.port
            )
        except (socket.gaierror, UnicodeError):
            await self.close()
            raise ParameterError(f"--host: no address {self.host!r} on this machine") from None
        except OSError as error:
            await self.close()
            raise SequoiaError(
                f"cannot listen at {self.host}, port {self.port}: {_reason(error)}; "
                "choose another with --port, or any free one with --port 0"
            ) from None
        port = self._listener.sockets[0].getsockname()[1]
        return f"http://{_for_browser(self.host)}:{port}/{self.key}/"

    async def close(self) -> None:
        """Stop listening, then end all windows and their processes."""
        if self._listener is not None:
            self._listener.close()
        if self._runner is not None:
            await self._runner.cleanup()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _connect(self) -> asyncio.Protocol:
        assert self._runner is not None
        assert self._runner.server is not None
        return self._connections.guard(self._runner.server())

    async def outer_app(self) -> web.Application:
        """The application of `textual_serve` behind the key."""
        outer = web.Application(middlewares=[self._gate])
        inner = await self._make_app()
        for name in ("window.js", "window.css"):
            inner.router.add_get(f"/{name}", _file(name))
        outer.add_subapp(f"/{self.key}/", inner)
        outer.on_response_prepare.append(_add_headers)
        return outer

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests without the key, in constant time.

        A page of another site cannot know it, whatever name it calls this address by.
        """
        self._connections.requested(request.transport)
        # `OPTIONS *` has a path without a slash
        given = request.path.removeprefix("/").partition("/")[0].encode("utf-8", "replace")
        if not secrets.compare_digest(given, self.key.encode()):
            refused = forbidden()
            refused.force_close()
            return refused
        return await handler(request)

    async def on_startup(self, app: web.Application) -> None:
        """Print nothing: the command does."""

    async def on_shutdown(self, app: web.Application) -> None:
        """Close the windows; their handlers then end the processes."""
        del app
        closing = [each.close(code=WSCloseCode.GOING_AWAY) for each in self._sockets]
        await asyncio.gather(*closing, return_exceptions=True)

    async def handle_index(self, request: web.Request) -> web.StreamResponse:
        """The page of a window, or of one too many."""
        if not await self._window_is_free():
            return full(self._windows)
        self._free.release()
        return await _file("window.html")(request)

    async def handle_websocket(self, request: web.Request) -> web.WebSocketResponse:
        """A window: its app runs while the browser keeps the connection."""
        if not await self._window_is_free():
            raise web.HTTPServiceUnavailable
        websocket = web.WebSocketResponse(timeout=PATIENCE_SECONDS, heartbeat=_HEARTBEAT_SECONDS)
        try:
            await websocket.prepare(request)
            self._sockets.add(websocket)
            sides = _side(request, "width", 80), _side(request, "height", 24)
            # a separate task: the library cancels this one when the server ends
            running = asyncio.create_task(self._run_window(websocket, *sides))
            self._running.add(running)
            running.add_done_callback(self._running.discard)
            await asyncio.shield(running)
        finally:
            self._sockets.discard(websocket)
            self._free.release()
        return websocket

    async def _window_is_free(self) -> bool:
        """Whether another window may open; then the caller releases `_free` at its end."""
        try:
            async with asyncio.timeout(_FREE_SECONDS):
                return await self._free.acquire()
        except TimeoutError:
            return False

    async def _run_window(self, websocket: web.WebSocketResponse, width: int, height: int) -> None:
        window = Window(self._command, self._flags, websocket)
        try:
            await window.start(width, height)
            async for message in websocket:
                if message.type is WSMsgType.TEXT:
                    await _take(window, message.data, websocket)
        except (LookupError, TypeError, ValueError):
            # not from our page
            await websocket.close(code=WSCloseCode.POLICY_VIOLATION)
        finally:
            await window.stop()

    async def handle_download(self, request: web.Request) -> web.StreamResponse:
        """The app delivers no files."""
        del request
        raise web.HTTPNotFound


async def until_asked_to_end() -> None:
    """Wait for Ctrl+C, a closed terminal, or a request to terminate."""
    asked = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in _SIGNALS:
        loop.add_signal_handler(number, asked.set)
    try:
        await asked.wait()
    finally:
        for number in _SIGNALS:
            loop.remove_signal_handler(number)


async def _add_headers(request: web.Request, response: web.StreamResponse) -> None:
    del request
    response.headers.update(_HEADERS)


def _file(name: str) -> Handler:
    async def serve(request: web.Request) -> web.StreamResponse:
        del request
        return web.FileResponse(_FOLDER / name)

    return serve


async def _take(window: Window, text: str, websocket: web.WebSocketResponse) -> None:
    """Carry out a message of the page.

    Raises:
        LookupError, TypeError, ValueError: the page never sends such a message.
    """
    kind, *rest = parse_json(text)
    match kind, *rest:
        case "stdin", str(typed):
            # a script can send half a surrogate pair, which is no character
            await window.send_bytes(typed.encode("utf-8", "replace"))
        case "resize", {"width": int(width), "height": int(height)}:
            await window.set_terminal_size(_within(width), _within(height))
        case "ping", number:
            await websocket.send_json(["pong", number])
        case "blur", *_:
            await window.blur()
        case "focus", *_:
            await window.focus()
        case _:
            raise ValueError(f"unknown message {kind!r:.40}")


def _side(request: web.Request, name: str, default: int) -> int:
    return _within(to_int(request.query.get(name, ""), default))


def _within(side: int) -> int:
    return min(max(side, 1), _LONGEST_SIDE)


def _for_browser(host: str) -> str:
    """The host of the URL for the address that the server listens at."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def _reason(error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return "it is in use"
    return os.strerror(error.errno) if error.errno else str(error)
