"""The HTTP server of `sequoia web`: the key in the address, the number of windows, how it ends."""

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

import textual_serve
from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.typedefs import Handler

from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.files import parse_json

from .connections import Connections
from .processes import PATIENCE_SECONDS, Window

_FOLDER = Path(__file__).parent
_STATIC = Path(textual_serve.__file__).parent / "static"
_HEARTBEAT_SECONDS = 15.0
_FREE_SECONDS = 3.0
"""How long a new window waits for another to close: the previous one, when a page is reloaded."""
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LONGEST_SIDE = 1000
_IDLE_SECONDS = 15.0  # how long a connection is kept open for another request
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


class WebServer:
    """Serves the chat to browsers that know the key, the first part of every path.

    It listens at `host` and `port`, 0 for any free one. At most so many `windows` are open at once;
    `command` starts the app of one, with the settings of `flags`.
    """

    def __init__(
        self, host: str, port: int, windows: int, command: Sequence[str], flags: Mapping[str, Any]
    ) -> None:
        self._host, self._port = host, port
        self._key = secrets.token_urlsafe(24)
        self._command, self._flags = tuple(command), flags
        self._windows, self._free = windows, asyncio.Semaphore(windows)
        most = _SPARE_CONNECTIONS + _WINDOW_CONNECTIONS * windows
        self._connections = Connections(most, self._protocol)
        self._running: dict[asyncio.Task[None], web.WebSocketResponse] = {}
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,  # it would show the key
            shutdown_timeout=4 * PATIENCE_SECONDS,
            keepalive_timeout=_IDLE_SECONDS,
            lingering_time=_LINGERING_SECONDS,
        )
        self._listener: asyncio.Server | None = None

    def _application(self) -> web.Application:
        inner = web.Application()
        inner.add_routes([web.get("/", self._index), web.get("/ws", self._websocket)])
        inner.add_routes([web.get(f"/{name}", _file(name)) for name in ("window.js", "window.css")])
        inner.router.add_static("/static", _STATIC)
        inner.on_shutdown.append(self._close_sockets)
        outer = web.Application(middlewares=[self._gate])
        outer.add_subapp(f"/{self._key}/", inner)
        outer.on_response_prepare.append(_add_headers)
        return outer

    async def start(self) -> str:
        """Start listening; returns the address for the browser, key included.

        Raises SequoiaError if the address cannot be listened at.
        """
        host, port = self._host, self._port
        await self._runner.setup()
        loop = asyncio.get_running_loop()
        try:
            self._listener = await loop.create_server(lambda: self._connections, host, port)
        except (socket.gaierror, UnicodeError):
            raise ParameterError(f"--host: no address {host!r} on this machine") from None
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else error
            raise SequoiaError(
                f"cannot listen at {host}, port {port}: {reason}; "
                "choose another with --port, or any free one with --port 0"
            ) from None
        port = self._listener.sockets[0].getsockname()[1]
        return f"http://{_for_browser(host)}:{port}/{self._key}/"

    async def close(self) -> None:
        """Stop listening, then end all windows and their processes."""
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()
        await asyncio.gather(*self._running, return_exceptions=True)

    def _protocol(self) -> asyncio.Protocol:
        assert self._runner.server is not None
        return self._runner.server()

    @web.middleware
    async def _gate(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse requests without the key, in constant time.

        A page of another site cannot know it, whatever name it calls this address by.
        """
        self._connections.requested(request.transport)
        # `OPTIONS *` has a path without a slash
        given = request.path.removeprefix("/").partition("/")[0].encode("utf-8", "replace")
        if not secrets.compare_digest(given, self._key.encode()):
            refused = _refusal(
                403,
                "This address lacks the key",
                "Open the whole address that `sequoia web` printed; it is another one at each "
                "start.",
            )
            refused.force_close()
            return refused
        return await handler(request)

    async def _close_sockets(self, _app: web.Application) -> None:
        closing = [each.close(code=WSCloseCode.GOING_AWAY) for each in self._running.values()]
        await asyncio.gather(*closing, return_exceptions=True)

    async def _index(self, request: web.Request) -> web.StreamResponse:
        """The page of a window, or of one too many."""
        if await self._window_is_free():
            self._free.release()
            return await _file("window.html")(request)
        count = self._windows
        return _refusal(
            503,
            "The one window is open" if count == 1 else f"All {count} windows are open",
            "Close one and load this page again. `sequoia web --sessions N` allows more.",
        )

    async def _websocket(self, request: web.Request) -> web.WebSocketResponse:
        """A window: its app runs while the browser keeps the connection."""
        if not await self._window_is_free():
            raise web.HTTPServiceUnavailable
        websocket = web.WebSocketResponse(timeout=PATIENCE_SECONDS, heartbeat=_HEARTBEAT_SECONDS)
        try:
            await websocket.prepare(request)
            sides = _side(request, "width", 80), _side(request, "height", 24)
            # a separate task: the library cancels this one when the server ends
            running = asyncio.create_task(self._run_window(websocket, *sides))
            self._running[running] = websocket
            running.add_done_callback(self._running.pop)
            await asyncio.shield(running)
        finally:
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
        except ValueError:  # not from our page
            await websocket.close(code=WSCloseCode.POLICY_VIOLATION)
        finally:
            await window.stop()


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


async def _add_headers(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_HEADERS)


def _file(name: str) -> Handler:
    async def serve(_request: web.Request) -> web.StreamResponse:
        return web.FileResponse(_FOLDER / name)

    return serve


def _refusal(status: int, title: str, text: str) -> web.Response:
    """A page of one sentence and what to do, which quotes nothing of the request."""
    page = Template((_FOLDER / "window.refused.html").read_text(encoding="utf-8"))
    html = page.substitute(title=title, text=text)
    return web.Response(status=status, text=html, content_type="text/html")


async def _take(window: Window, text: str, websocket: web.WebSocketResponse) -> None:
    """Carry out a message of the page; raises ValueError if it never sends such a one."""
    match parse_json(text):
        case ["stdin", str(typed)]:
            # a script can send half a surrogate pair, which is no character
            await window.send_bytes(typed.encode("utf-8", "replace"))
        case ["resize", {"width": int(width), "height": int(height)}]:
            await window.set_terminal_size(_within(width), _within(height))
        case ["ping", number]:
            await websocket.send_json(["pong", number])
        case ["blur", *_]:
            await window.blur()
        case ["focus", *_]:
            await window.focus()
        case _:
            raise ValueError("unknown message")


def _side(request: web.Request, name: str, default: int) -> int:
    try:
        return _within(int(request.query.get(name, default)))
    except ValueError:
        return default


def _within(side: int) -> int:
    return min(max(side, 1), _LONGEST_SIDE)


def _for_browser(host: str) -> str:
    """The host of the URL for the address that the server listens at."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host
