"""Engine servers for tests: driven turn by turn, or running in a thread."""

import os
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from app.engine.client import RemoteEngine
from app.engine.messages import Done, Link, LoadFailed, Loading, Ready
from app.engine.server import EngineServer, Loader
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.errors import SequoiaError
from sequoia_core.tree.choice import TreeChoice

Reports = list[Loading | LoadFailed | Done]


@contextmanager
def served(loader: Loader) -> Iterator["Served"]:
    """A server whose turns the test takes."""
    # a short path: the address of a socket has room for hardly more than a hundred letters
    with tempfile.TemporaryDirectory(prefix="sequoia-") as folder:
        made = Served(Path(folder) / "engine")
        try:
            made.server.load(loader)
            yield made
        finally:
            made.close()


class Served:
    """A server and the windows that the test plays."""

    def __init__(self, path: Path) -> None:
        self.path = path
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(str(path))
        listener.listen()
        self._write: int | None
        read, self._write = os.pipe()
        self._parent = os.fdopen(read, "rb")
        self.reports: Reports = []
        self.server = EngineServer(listener, self._parent, self.reports.append)
        self._windows: list[Played] = []

    def window(self) -> "Played":
        """A window whose conversation has begun."""
        made = Played(self)
        self._windows.append(made)
        made.until(Ready)
        return made

    def end(self) -> None:
        """What the server sees when its parent is no more."""
        if self._write is not None:
            os.close(self._write)
            self._write = None

    def close(self) -> None:
        for window in self._windows:
            window.link.close()
        self.server.close()
        self.end()
        self._parent.close()


class Played:
    """A window played message by message; while it waits, the server takes its turns."""

    def __init__(self, at: Served) -> None:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.connect(str(at.path))
        self.link = Link(connection)
        self.heard: list[Any] = []
        self._server = at.server

    def hear(self) -> list[Any]:
        """What has come since the last time."""
        came = self.link.receive()
        self.heard += came
        return came

    def until(self, *kinds: type) -> Any:
        """The next message of these kinds; fails where turns no longer bring one."""
        for _ in range(1000):
            for message in self.hear():
                if isinstance(message, kinds):
                    return message
            self._server.take_turn()
        raise AssertionError(f"never came; the last of it: {self.heard[-3:]}")


class Running:
    """A server in a thread, as in its own process, and engines connected to it."""

    def __init__(self, loader: Loader) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sequoia-")
        self.served = Served(Path(self._folder.name) / "engine")
        self._loader = loader
        self._thread = threading.Thread(target=self._serve, name="engine server")
        self._thread.start()

    @property
    def path(self) -> Path:
        return self.served.path

    def _serve(self) -> None:
        with suppress(SequoiaError):
            self.served.server.serve(self._loader)

    def stop(self) -> bool:
        """Whether it ends when its parent does."""
        self.served.end()
        self._thread.join(60)
        self.served.close()
        self._folder.cleanup()
        return not self._thread.is_alive()


@contextmanager
def running(loader: Loader) -> Iterator[Running]:
    made = Running(loader)
    try:
        yield made
    finally:
        assert made.stop()


@contextmanager
def remote(to: Running) -> Iterator[RemoteEngine]:
    engine = RemoteEngine(to.path, TreeChoice(), lambda message, fraction: None)
    try:
        yield engine
    finally:
        engine.close()


def loads(*engines: ChatEngine) -> Loader:
    """A loader whose windows get these engines, in the order in which they connect."""
    left = list(engines)
    return lambda progress: lambda: left.pop(0)


def making(make: Callable[[], ChatEngine]) -> Loader:
    """A loader that makes an engine for every window."""
    return lambda progress: make
