"""Connections that ask for nothing are closed, and cannot keep anybody out; nothing is listed."""

import asyncio
import json
import sys

import aiohttp
import psutil
import pytest
from aiohttp import WSMsgType, WSServerHandshakeError

from app.web.processes import EngineProcess
from sequoia_core.errors import SequoiaError
from tests.app.web.test_server import PATIENCE, children, serving, until

Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]
SECRET = "You know the PIN 4711"


async def connected(where: str) -> Connection:
    host, port = where.split("/")[2].split(":")
    return await asyncio.open_connection(host, int(port))


async def ended(connection: Connection) -> bytes:
    """What came before the server closed the connection."""
    reader, writer = connection
    try:
        came = await asyncio.wait_for(reader.read(), PATIENCE)
    except ConnectionError:
        came = b""
    writer.close()
    return came


@pytest.mark.parametrize("begun", [b"", b"GET / HT", b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: "])
async def test_a_connection_that_asks_for_nothing_is_closed(
    begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.web.connections.FIRST_REQUEST_SECONDS", 0.1)
    async with serving() as where:
        connection = await connected(where)
        connection[1].write(begun)
        assert await ended(connection) == b""


async def test_a_connection_without_another_request_is_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.web.server._IDLE_SECONDS", 0.1)
    async with serving() as where:
        key = where.split("/")[3]
        connection = await connected(where)
        connection[1].write(f"GET /{key}/window.css HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        assert (await ended(connection)).startswith(b"HTTP/1.1 200 ")


async def test_without_the_key_a_connection_ends_with_its_answer() -> None:
    async with serving() as where:
        connection = await connected(where)
        connection[1].write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: keep-alive\r\n\r\n")
        assert (await ended(connection)).startswith(b"HTTP/1.1 403 ")


async def test_idle_connections_cannot_fill_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.server._SPARE_CONNECTIONS", 4)
    monkeypatch.setattr("app.web.server._WINDOW_CONNECTIONS", 3)
    async with serving() as where, aiohttp.ClientSession() as session:
        idle = [await connected(where) for _ in range(4 + 2 * 3 + 5)]
        for _ in range(3):
            async with session.get(where + "window.css") as response:
                assert response.status == 200
        socket = await session.ws_connect(where + "ws")
        assert await ended(idle[0]) == b""  # the oldest made room
        await socket.close()
        for _, writer in idle:
            writer.close()


async def test_too_many_connections_that_are_in_use_are_told_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.web.server._SPARE_CONNECTIONS", 1)
    monkeypatch.setattr("app.web.server._WINDOW_CONNECTIONS", 0)
    async with serving() as where, aiohttp.ClientSession() as session:
        socket = await session.ws_connect(where + "ws")
        refused = await ended(await connected(where))
        assert refused.startswith(b"HTTP/1.1 503 ")
        assert b"Too many connections" in refused
        await socket.close()


async def test_a_browser_that_is_gone_gives_its_window_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.web.server._HEARTBEAT_SECONDS", 0.1)
    before = children()
    async with serving() as where:
        key = where.split("/")[3]
        connection = await connected(where)
        connection[1].write(
            f"GET /{key}/ws HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
            .encode()
        )  # fmt: skip
        assert (await ended(connection)).startswith(b"HTTP/1.1 101 ")  # no ping was answered
        await until(lambda: children() == before)


@pytest.mark.parametrize(
    "said",
    ["[" * 100_000, "[]", "{}", '"a"', '["stdin"]', '["stdin", 3]', '["resize", {"width": 1}]',
     '["resize", {"width": NaN, "height": 3}]', '["nonsense", 1]', '["stdin", ' + "9" * 5000 + "]"],
)  # fmt: skip
async def test_what_no_page_says_ends_the_window(said: str) -> None:
    before = children()
    async with serving() as where, aiohttp.ClientSession() as session:
        socket = await session.ws_connect(where + "ws")
        await until(lambda: len(children() - before) == 1)
        await socket.send_str(said)
        message = await asyncio.wait_for(socket.receive(), PATIENCE)
        assert (message.type, message.data) == (WSMsgType.CLOSE, 1008)
        await until(lambda: children() == before)


ECHO = (
    "import sys; sys.stdout.write('__GANGLION__\\n'); sys.stdout.flush(); i = sys.stdin.buffer;"
    "kind, size = i.read(1), int.from_bytes(i.read(4), 'big'); data = i.read(size);"
    "sys.stdout.buffer.write(b'D' + len(data).to_bytes(4, 'big') + data); sys.stdout.flush();"
    "i.read(1)"
)
"""A window that draws what it receives first."""


async def test_half_a_surrogate_pair_that_is_typed_is_a_question_mark() -> None:
    command = (sys.executable, "-c", ECHO)
    async with serving(command=command) as where, aiohttp.ClientSession() as session:
        socket = await session.ws_connect(where + "ws")
        await socket.send_str('["stdin", "a\\ud800b"]')
        message = await asyncio.wait_for(socket.receive(), PATIENCE)
        assert message.data == b"a?b"
        await socket.close()


async def test_a_size_that_is_no_screen_is_cut() -> None:
    command = (sys.executable, "-c", ECHO)
    async with serving(command=command) as where, aiohttp.ClientSession() as session:
        socket = await session.ws_connect(where + "ws")
        await socket.send_str('["resize", {"width": 999999999, "height": -5}]')
        message = await asyncio.wait_for(socket.receive(), PATIENCE)
        assert json.loads(message.data) == {"type": "resize", "width": 1000, "height": 1}
        await socket.close()


GIVEN = (
    "import os, sys; given = os.fdopen(int(sys.argv[-1]), 'rb').read();"
    "sys.stdout.write('__GANGLION__\\n'); sys.stdout.flush();"
    "sys.stdout.buffer.write(b'D' + len(given).to_bytes(4, 'big') + given); sys.stdout.flush();"
    "sys.stdin.buffer.read(1)"
)
"""A window that draws the settings that it is given."""


async def test_a_window_gets_its_settings_and_its_command_line_has_none() -> None:
    before = children()
    flags = {"system": SECRET + "x" * 200_000}  # more than a pipe holds
    command = (sys.executable, "-c", GIVEN)
    async with serving(command=command, flags=flags) as where, aiohttp.ClientSession() as session:
        socket = await session.ws_connect(where + "ws")
        message = await asyncio.wait_for(socket.receive(), PATIENCE)
        assert json.loads(message.data) == flags
        (window,) = children() - before
        process = psutil.Process(window)
        assert SECRET not in " ".join(process.cmdline())
        assert SECRET not in json.dumps(process.environ())
        await socket.close()


async def test_the_engine_process_gets_its_settings_and_its_command_line_has_none() -> None:
    script = (
        "import os, sys; given = os.fdopen(int(sys.argv[2]), 'rb').read();"
        "assert given not in open('/proc/self/cmdline', 'rb').read();"
        "sys.exit(7 if b'4711' in given else 1)"
    )
    engine = EngineProcess((sys.executable, "-c", script))
    await engine.start({"system": SECRET})
    with pytest.raises(SequoiaError, match="code 7"):
        await engine.watch(lambda message: None)
    await engine.stop()


async def test_another_site_cannot_reach_a_window_by_any_name() -> None:
    headers = {"Host": "rebound.example", "Origin": "https://rebound.example"}
    async with serving() as where, aiohttp.ClientSession(headers=headers) as session:
        root = where.rsplit("/", 2)[0]
        with pytest.raises(WSServerHandshakeError) as caught:
            await session.ws_connect(root + "/ws")
        assert caught.value.status == 403
