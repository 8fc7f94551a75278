"""The browser's side: who may come in, how many, that a window works, and that all of it ends."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
from aiohttp import WSMsgType, WSServerHandshakeError
from typer.testing import CliRunner

from app.cli import app
from app.commands.web import serve
from app.engine.messages import Done, LoadFailed, Loading
from app.web.processes import EngineProcess, window_command
from app.web.server import WebServer
from sequoia_core.errors import ParameterError, SequoiaError
from tests.app.serving import making, running
from tests.fakes import replay
from tests.test_architecture import HEAVY, loaded_by

LOOPBACK = ("127.0.0.1", 0)
PATHS = ("", "ws", "window.js", "static/js/textual.js", "static/", "download/key", "../etc", "?a=b")
QUIET_WINDOW = (sys.executable, "-c", "import sys; sys.stdin.buffer.read(1)")
"""A process that says nothing and ends at the first thing it is told."""
PATIENCE = 60.0
"""Seconds for what should happen at once: the machine may be busy."""


@asynccontextmanager
async def serving(
    windows: int = 2, command: tuple[str, ...] = QUIET_WINDOW, flags: Mapping[str, Any] = {}
) -> AsyncIterator[str]:
    """A server; yields the address it would print."""
    server = WebServer(*LOOPBACK, windows, command, flags)
    where = await server.start()
    try:
        yield where
    finally:
        await server.close()


async def status(session: aiohttp.ClientSession, url: str) -> int:
    async with session.get(url) as response:
        await response.read()
        return response.status


# The key


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["", "x", "{wrong}", "{cut}", "{longer}", "%ff%00", "static"])
async def test_without_the_key_nothing_is_answered(path: str, key: str) -> None:
    async with serving() as where, aiohttp.ClientSession() as session:
        root, own, _ = where.rsplit("/", 2)
        given = key.format(wrong=own[::-1], cut=own[:-1], longer=own + "x")
        assert given != own
        assert await status(session, f"{root}/{given}/{path}") == 403
        assert await status(session, f"{root}/{path}") == 403


async def test_a_request_for_no_path_needs_the_key_too() -> None:
    async with serving() as where:
        host, port = where.split("/")[2].split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert b" 403 " in await reader.readline()
        writer.close()
        await writer.wait_closed()


async def test_the_websocket_needs_the_key_too() -> None:
    async with serving() as where, aiohttp.ClientSession() as session:
        root, own, _ = where.rsplit("/", 2)
        for path in ("ws", f"{own[:-1]}/ws", f"{own}x/ws", f"static/{own}/ws"):
            with pytest.raises(WSServerHandshakeError) as caught:
                await session.ws_connect(f"{root}/{path}")
            assert caught.value.status == 403


async def test_with_the_key_page_and_parts_are_there_and_leak_nothing() -> None:
    async with serving() as where, aiohttp.ClientSession() as session:
        for path in ("", "window.js", "window.css", "static/js/textual.js", "static/css/xterm.css"):
            async with session.get(where + path) as response:
                text = await response.text()
                assert response.status == 200
                assert response.headers["Referrer-Policy"] == "no-referrer"
                assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
            if not path.startswith("static"):
                assert "http://" not in text  # nothing is fetched from elsewhere
                assert "https://" not in text


async def test_every_start_has_another_key() -> None:
    keys = set()
    for _ in range(3):
        async with serving() as where:
            keys.add(where.rsplit("/", 2)[1])
    assert len(keys) == 3
    assert all(len(key) >= 32 for key in keys)


# Addresses


async def test_a_port_in_use_is_one_clear_line() -> None:
    async with serving() as where:
        port = int(where.split(":")[2].split("/")[0])
        other = WebServer("127.0.0.1", port, 1, QUIET_WINDOW, {})
        with pytest.raises(SequoiaError, match=rf"port {port}: Address already in use; .*--port 0"):
            await other.start()


async def test_a_host_that_is_none_is_one_clear_line() -> None:
    server = WebServer("no.such.host.invalid", 0, 1, QUIET_WINDOW, {})
    with pytest.raises(ParameterError, match="--host: no address"):
        await server.start()


# How many


async def test_the_limit_holds_and_a_closed_window_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.web.server._FREE_SECONDS", 0.05)
    async with serving(windows=2) as where, aiohttp.ClientSession() as session:
        first = await session.ws_connect(where + "ws")
        second = await session.ws_connect(where + "ws")
        with pytest.raises(WSServerHandshakeError) as caught:
            await session.ws_connect(where + "ws")
        assert caught.value.status == 503
        async with session.get(where) as response:
            assert response.status == 503
            assert "All 2 windows are open" in await response.text()
        monkeypatch.setattr("app.web.server._FREE_SECONDS", 10.0)
        await second.close()
        third = await session.ws_connect(where + "ws")
        await third.close()
        await first.close()


async def test_a_window_that_is_refused_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.server._FREE_SECONDS", 10.0)
    async with serving(windows=1) as where, aiohttp.ClientSession() as session:
        for _ in range(3):
            socket = await session.ws_connect(where + "ws")
            await socket.send_str("no JSON")
            assert (await socket.receive()).type is WSMsgType.CLOSE
            await socket.close()


# Processes


def children() -> set[int]:
    return {process.pid for process in psutil.Process().children(recursive=True)}


async def until(done: Callable[[], bool]) -> None:
    for _ in range(round(PATIENCE * 100)):
        if done():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("never happened")


async def test_windows_end_with_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.web.processes.PATIENCE_SECONDS", 0.2)
    deaf = (sys.executable, "-c", "import signal, time\nsignal.signal(15, lambda *_: 0)\n"
            "while True: time.sleep(9)")  # fmt: skip
    before = children()
    async with serving(command=deaf) as where, aiohttp.ClientSession() as session:
        opened = [await session.ws_connect(where + "ws") for _ in range(2)]
        await until(lambda: len(children() - before) == 2)
        await opened[0].send_str("no JSON")
        assert (await opened[0].receive()).type is WSMsgType.CLOSE
        await until(lambda: len(children() - before) == 1)
    assert children() == before


class Reported(list[Loading | LoadFailed | Done]):
    """What an engine process said."""


async def test_an_engine_process_that_cannot_load_says_why() -> None:
    engine, heard = EngineProcess(), Reported()
    before = children()
    await engine.start({"target": "/no/such/model", "device": "cpu"})
    with pytest.raises(SequoiaError, match="/no/such/model"):
        await engine.watch(heard.append)
    assert isinstance(heard[-1], LoadFailed)
    await engine.stop()
    assert children() == before
    assert not engine.path.parent.exists()


async def test_an_engine_process_that_is_killed_is_told() -> None:
    engine = EngineProcess((sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"))
    await engine.start({})
    with pytest.raises(SequoiaError, match="ended by SIGKILL"):
        await engine.watch(lambda message: None)
    await engine.stop()


def test_only_this_user_may_reach_the_engine() -> None:
    engine = EngineProcess()
    assert engine.path.parent.stat().st_mode & 0o077 == 0
    asyncio.run(engine.stop())


# A window


@pytest.fixture
def engine_path() -> Iterator[Path]:
    with running(making(replay)) as server:
        yield server.path


class Browser:
    """The browser's end of a window: what it was sent, and what is typed."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self.seen = ""

    async def until(self, text: str) -> None:
        """Read on until the text was drawn since the last time."""
        self.seen = ""
        while text not in self.seen:
            message = await asyncio.wait_for(self._socket.receive(), PATIENCE)
            assert message.type is WSMsgType.BINARY, (message, self.seen)
            self.seen += message.data.decode()

    async def until_closed(self) -> None:
        """Read on until the server ends the window."""
        kind = WSMsgType.BINARY
        while kind is WSMsgType.BINARY:
            kind = (await asyncio.wait_for(self._socket.receive(), PATIENCE)).type
        assert kind is WSMsgType.CLOSE

    async def close(self) -> None:
        await self._socket.close()

    async def type(self, text: str) -> None:
        await self._socket.send_json(["stdin", text])

    async def send(self, *message: Any) -> None:
        await self._socket.send_json(list(message))


async def test_a_window_chats_resizes_and_ends(engine_path: Path) -> None:
    before = children()
    command, flags = window_command(engine_path), {"temperature": 0.0}
    async with serving(command=command, flags=flags) as where, aiohttp.ClientSession() as session:
        browser = Browser(await session.ws_connect(where + "ws?width=110&height=40"))
        await browser.until("SmolLM2-135M-Instruct")
        await browser.type("Why is the sky blue?\r")
        await browser.until("Rayleigh")
        await browser.send("resize", {"width": 60, "height": 20})
        await browser.until("help")
        await browser.type("\x11")  # Ctrl+Q
        await browser.until_closed()
        await until(lambda: children() == before)


async def test_odd_sizes_and_reports_of_a_page_change_nothing(
    engine_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    before = children()
    command = window_command(engine_path)
    async with serving(command=command) as where, aiohttp.ClientSession() as session:
        browser = Browser(await session.ws_connect(where + "ws?width=110&height=40"))
        await browser.until("SmolLM2-135M-Instruct")
        for side in (-1, 0, 10**9):
            await browser.send("resize", {"width": side, "height": side})
        await browser.type("\x1b[<32;NaN;NaNM\x1b[48;9999;9999;0;0t\x1b[97;1:3u\x1b[1114112u")
        await browser.type("Why is the sky blue?\r")
        await browser.until("Rayleigh")
        await browser.type("my draft")
        await browser.until("draft")
        await browser.close()
        await until(lambda: children() == before)
        browser = Browser(await session.ws_connect(where + "ws?width=110&height=40"))
        await browser.until("my draft")


@pytest.mark.parametrize("records", [True, False])
async def test_a_window_records_unless_a_person_wants_otherwise(
    engine_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, records: bool
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    before = children()
    command, flags = window_command(engine_path), {"record": records}
    async with serving(command=command, flags=flags) as where, aiohttp.ClientSession() as session:
        browser = Browser(await session.ws_connect(where + "ws?width=110&height=40"))
        await browser.until("SmolLM2-135M-Instruct")
        await browser.type("Why is the sky blue?\r")
        await browser.until("Rayleigh")
        await browser.type("\x11")  # Ctrl+Q
        await browser.until_closed()
        await until(lambda: children() == before)
    assert (tmp_path / "data").exists() is records


async def test_a_window_ends_when_its_server_is_killed(engine_path: Path, tmp_path: Path) -> None:
    script = (
        "import asyncio, sys\n"
        "from app.web.processes import window_command\n"
        "from app.web.server import WebServer\n"
        "async def main():\n"
        "    command = window_command(sys.argv[1])\n"
        "    print(await WebServer('127.0.0.1', 0, 1, command, {}).start(), flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, str(engine_path), stdout=asyncio.subprocess.PIPE
    )
    assert server.stdout is not None
    where = (await server.stdout.readline()).decode().strip()
    async with aiohttp.ClientSession() as session:
        browser = Browser(await session.ws_connect(where + "ws"))
        await browser.until("SmolLM2")
        (window,) = psutil.Process(server.pid).children()
        server.kill()
        await server.wait()
    await until(lambda: not window.is_running() or window.status() == psutil.STATUS_ZOMBIE)


async def test_a_window_knows_nothing_of_the_terminal_of_the_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TMUX", "/tmp/tmux")
    monkeypatch.setenv("DISPLAY", ":0")
    script = "import json, os, sys; print('__GANGLION__', flush=True); data = json.dumps("
    script += "dict(os.environ)).encode(); sys.stdout.buffer.write(b'D' + len(data).to_bytes(4, "
    script += "'big') + data); sys.stdout.flush(); sys.stdin.buffer.read(1)"
    command = (sys.executable, "-c", script)
    async with serving(command=command) as where, aiohttp.ClientSession() as session:
        socket = await session.ws_connect(where + "ws?width=33&height=99999999")
        environment = json.loads(await socket.receive_bytes())
        await socket.close()
    assert environment["COLUMNS"] == "33"
    assert int(environment["ROWS"]) <= 1000
    assert not {"TMUX", "DISPLAY"} & environment.keys()


@pytest.mark.parametrize("module", ["app.web.server", "app.web.window"])
def test_neither_server_nor_windows_load_models(module: str) -> None:
    assert loaded_by(module, HEAVY) == set()


# The command


async def printed(capsys: pytest.CaptureFixture[str]) -> str:
    """The address that the command prints."""
    for _ in range(round(PATIENCE * 100)):
        for word in capsys.readouterr().out.split():
            if word.startswith("http://"):
                return word
        await asyncio.sleep(0.01)
    raise AssertionError("no address")


def with_engine(*command: str) -> Callable[[], EngineProcess]:
    return lambda: EngineProcess((sys.executable, *command))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
async def test_the_command_serves_until_it_is_told_to_end(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    engine = with_engine("-m", "tests.app.fake_engine_process")
    monkeypatch.setattr("app.web.processes.EngineProcess", engine)
    before = children()
    command = asyncio.create_task(serve(*LOOPBACK, 1, {}))
    where = await printed(capsys)
    async with aiohttp.ClientSession() as session:
        browser = Browser(await session.ws_connect(where + "ws"))
        await browser.until("SmolLM2")
        assert len(children() - before) == 2
        os.kill(os.getpid(), number)
        await browser.until_closed()
        await command
    assert children() == before


async def test_the_command_ends_with_its_engine_process(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("app.web.processes.EngineProcess", with_engine("-c", "raise SystemExit(3)"))
    with pytest.raises(SequoiaError, match="the engine process ended with code 3"):
        await serve(*LOOPBACK, 1, {})
    assert "Ctrl+C" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--growmap", "no/such/tree"], "no/such/tree"),
        (["--temperature", "-1"], "temperature"),
        (["--pair", "nonsense"], "nonsense"),
        (["--sessions", "0"], "--sessions"),
        (["--port", "70000"], "--port"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_started(
    arguments: list[str], complaint: str
) -> None:
    result = CliRunner().invoke(app, ["web", *arguments])
    assert result.exit_code in (1, 2)
    assert complaint in result.output
    assert "http" not in result.output
