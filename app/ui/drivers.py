"""Textual's drivers, but bad input does not end the app, and a lost terminal ends it in order."""

import asyncio
import fcntl
import os
import select
import signal
import struct
import termios
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from typing import Any, TextIO

from textual.driver import Driver
from textual.drivers._byte_stream import ByteStream
from textual.drivers.linux_driver import LinuxDriver
from textual.drivers.web_driver import WebDriver, _ExitInput
from textual.message import Message
from typing_extensions import override

from .terminal_input import TerminalInput

GONE = 128 + signal.SIGHUP  # exit code after the terminal or the browser's window was closed
_READ_BYTES = 65536
_LOOK_SECONDS = 0.1


def driver_for(driver: type[Driver]) -> type[Driver]:
    """The replacement for one of Textual's drivers, or that driver itself."""
    if driver is LinuxDriver:
        return TerminalDriver
    return BrowserDriver if driver is WebDriver else driver


class TerminalDriver(LinuxDriver):
    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        # the writer thread must go on emptying its queue, or the app waits for it
        self._file: Any = _Output(self._file)

    @override
    def start_application_mode(self) -> None:
        super().start_application_mode()  # type: ignore[no-untyped-call]
        _leave_on_signals(self._app)
        # a bare handler would also interrupt itself, and leave two threads that read the terminal
        asyncio.get_running_loop().add_signal_handler(signal.SIGCONT, self._sigcont_application)

    @override
    def _sigcont_application(self, *given: Any) -> None:
        """Resume after SIGSTOP too, which leaves no time to restore the terminal first."""
        if self._auto_restart and not self._must_signal_resume:
            self.suspend_application_mode()  # or a second thread would read the terminal
        super()._sigcont_application(*given)

    @override
    def run_input_thread(self) -> None:
        reader = TerminalInput()
        with _errors_end(self._app):
            if early := _waiting(self.fileno):
                # typed before the app had the terminal, which made a newline of each Enter
                data = os.read(self.fileno, early)
                _process(self, reader.feed(data.replace(b"\n", b"\r")))
            while not self.exit_event.is_set():
                if not select.select([self.fileno], [], [], _LOOK_SECONDS)[0]:
                    _process(self, reader.tick())
                    continue
                data = b""
                with suppress(OSError):  # Linux: the other end is closed
                    data = os.read(self.fileno, _READ_BYTES)
                if not data:
                    _process(self, reader.close())
                    _exit_gone(self._app)
                    return
                _process(self, reader.feed(data))


class BrowserDriver(WebDriver):
    """A window of a browser; see `web.window`."""

    @override
    def start_application_mode(self) -> None:
        super().start_application_mode()
        _leave_on_signals(self._app)

    @override
    def run_input_thread(self) -> None:
        reader, packets = TerminalInput(), ByteStream()
        with closing(self._input_reader), _errors_end(self._app), suppress(_ExitInput):
            for data in self._input_reader:
                for kind, payload in packets.feed(data) if data else ():
                    if kind == "D":
                        _process(self, reader.feed(payload))
                    else:
                        self._on_meta(kind, payload)
                if not data:
                    _process(self, reader.tick())
            if not self.exit_event.is_set():
                _process(self, reader.close())
                _exit_gone(self._app)

    @override
    def on_meta(self, packet_type: str, payload: dict[str, object]) -> None:
        if packet_type == "quit":
            _exit_gone(self._app)
        else:
            super().on_meta(packet_type, payload)


class _Output:
    """A terminal's file that ignores writes once the terminal is gone."""

    def __init__(self, file: TextIO | None) -> None:
        assert file is not None
        self._file = file
        self.fileno = file.fileno

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()


def _process(driver: Driver, messages: Iterable[Message]) -> None:
    for message in messages:
        driver.process_message(message)


def _waiting(terminal: int) -> int:
    """How many bytes can be read at once."""
    with suppress(OSError):
        (count,) = struct.unpack("i", fcntl.ioctl(terminal, termios.FIONREAD, bytes(4)))
        return int(count)
    return 0


def _leave_on_signals(app: Any) -> None:
    """Let a signal that ends the process end the app first."""
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, app.exit, None, 128 + number)


def _exit_gone(app: Any) -> None:
    app.call_later(app.exit, None, GONE)


@contextmanager
def _errors_end(app: Any) -> Iterator[None]:
    """End the app with an error of a thread, as with one of its own."""
    try:
        yield
    except Exception as error:
        app.call_later(app._handle_exception, error)
