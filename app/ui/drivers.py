"""Textual's drivers, made robust against bad input and a terminal that goes away.

In Textual 8.2 a byte or a report that it cannot read ends the input thread, and the app with exit
code 0; a closed terminal ends the process at once, and typed text is lost. Here the app ends in
order, with an exit code that says so. Overrides private parts of `Driver`.
"""

import asyncio
import json
import os
import selectors
import signal
from collections.abc import Iterable
from contextlib import suppress
from functools import partial
from typing import Any, TextIO

from textual import events
from textual.driver import Driver
from textual.drivers._byte_stream import ByteStream
from textual.drivers.linux_driver import LinuxDriver
from textual.drivers.web_driver import WebDriver
from textual.geometry import Size
from textual.message import Message

from .terminal_input import TerminalInput

GONE = 128 + signal.SIGHUP
"""Exit code after the terminal or the browser's window was closed."""
_READ_BYTES = 65536
_LOOK_SECONDS = 0.1
_LONGEST_SIDE = 1000


def driver_for(driver: type[Driver]) -> type[Driver]:
    """The replacement for one of Textual's drivers."""
    ours: dict[type[Driver], type[Driver]] = {
        LinuxDriver: TerminalDriver,
        WebDriver: BrowserDriver,
    }
    return ours.get(driver, driver)


class TerminalDriver(LinuxDriver):
    """The terminal that the app was started in."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        # the writer thread must go on emptying its queue, or the app waits for it
        self._file: Any = _Output(self._file)

    def start_application_mode(self) -> None:
        """As the base class; a signal that ends the process ends the app first."""
        super().start_application_mode()  # type: ignore[no-untyped-call]
        _leave_on_signals(self._app)

    def _sigcont_application(self, *given: Any) -> None:
        """Resume after SIGSTOP too, which leaves no time to restore the terminal first."""
        if self._auto_restart and not self._must_signal_resume:
            self.suspend_application_mode()  # or a second thread would read the terminal
        super()._sigcont_application(*given)

    def _run_input_thread(self) -> None:
        try:
            self.run_input_thread()
        except Exception as error:
            _end_by(self._app, error)

    def run_input_thread(self) -> None:
        """Read until the app or the terminal ends."""
        reader = TerminalInput()
        with selectors.SelectSelector() as selector:
            selector.register(self.fileno, selectors.EVENT_READ)
            while not self.exit_event.is_set():
                if not selector.select(_LOOK_SECONDS):
                    _process(self, reader.tick())
                    continue
                data = b""
                with suppress(OSError):  # Linux: the other end is closed
                    data = os.read(self.fileno, _READ_BYTES)
                if not data:
                    _process(self, reader.close())
                    self._app.call_later(partial(self._app.exit, return_code=GONE))
                    return
                _process(self, reader.feed(data))


class BrowserDriver(WebDriver):
    """A window of a browser; see `web.window`."""

    def start_application_mode(self) -> None:
        """As the base class; a signal that ends the process ends the app first."""
        super().start_application_mode()
        _leave_on_signals(self._app)

    def run_input_thread(self) -> None:
        """Read packets until the app or the server ends."""
        try:
            self._read_packets()
        except Exception as error:
            _end_by(self._app, error)
        finally:
            self._input_reader.close()

    def _read_packets(self) -> None:
        reader, packets = TerminalInput(), ByteStream()
        for data in self._input_reader:
            for kind, payload in packets.feed(data) if data else ():
                if kind == "D":
                    _process(self, reader.feed(payload))
                elif self._asked_to_end(payload):
                    return
            if not data:
                _process(self, reader.tick())
        if not self.exit_event.is_set():
            _process(self, reader.close())
            self._app.call_later(partial(self._app.exit, return_code=GONE))

    def _asked_to_end(self, payload: bytes) -> bool:
        """Carry out a request of the server; others are ignored."""
        try:
            request = json.loads(payload)
        except ValueError:
            return False
        match request:
            case {"type": "resize", "width": int(width), "height": int(height)}:
                if 0 < width <= _LONGEST_SIDE and 0 < height <= _LONGEST_SIDE:
                    size = Size(width, height)
                    self._size = width, height
                    self._app.post_message(events.Resize(size, size))
            case {"type": "focus"}:
                self._app.post_message(events.AppFocus())
            case {"type": "blur"}:
                self._app.post_message(events.AppBlur())
            case {"type": "quit"}:
                self._app.call_later(partial(self._app.exit, return_code=GONE))
            case {"type": "exit"}:
                return True
        return False


class _Output:
    """A terminal's file that ignores writes once the terminal is gone."""

    def __init__(self, file: TextIO | None) -> None:
        assert file is not None
        self._file = file

    def write(self, text: str) -> None:
        with suppress(OSError):
            self._file.write(text)

    def flush(self) -> None:
        with suppress(OSError):
            self._file.flush()

    def fileno(self) -> int:
        return self._file.fileno()


def _process(driver: Driver, messages: Iterable[Message]) -> None:
    for message in messages:
        driver.process_message(message)


def _leave_on_signals(app: Any) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, partial(app.exit, return_code=128 + number))


def _end_by(app: Any, error: Exception) -> None:
    """End the app with an error of a thread, as with one of its own."""
    app.call_later(app._handle_exception, error)
