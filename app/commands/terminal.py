"""A program on a pseudo-terminal, and the memory of the chat in one."""

import os
import pty
import signal
import subprocess
import sys
import tempfile
import termios
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import psutil

from sequoia_core.errors import SequoiaError

RARE = [chr(code) for code in range(0x13A0, 0x13F0)]
"""Characters of one cell that occur in no answer, so that their echo can be recognised."""
_BACKSPACE = "\x7f"
_POLL_SECONDS = 0.2

SIZE = 160, 50
QUESTION = "Why is the sky blue?"
ANSWER_TOKENS = 128
LONGEST_SECONDS = 180.0
QUIET_SECONDS = 2.0  # without output, after which an answer is complete


class TerminalError(SequoiaError):
    """The program did not do in time what was waited for."""


class Terminal:
    """A running program whose output is searched for an awaited text and dropped."""

    def __init__(
        self,
        command: Sequence[str],
        size: tuple[int, int],
        environment: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._ours, theirs = pty.openpty()
        self._changed = threading.Condition()
        self._awaited = self._carried = b""
        self._seen_at: float | None = None
        self._ended = False
        self.output_at = 0.0  # the last, in seconds of the performance counter
        termios.tcsetwinsize(self._ours, size[::-1])
        known = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self._child = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs,
            env={**os.environ, **known, **environment},
        )  # fmt: skip
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, name="terminal-reader", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """End the program if it still runs."""
        if self.running:
            self._child.kill()
            self._child.wait()
        self._reader.join(timeout=5)

    @property
    def pid(self) -> int:
        return self._child.pid

    @property
    def running(self) -> bool:
        return self._child.poll() is None

    def type(self, text: str) -> None:
        os.write(self._ours, text.encode())

    def resize(self, size: tuple[int, int]) -> None:
        termios.tcsetwinsize(self._ours, size[::-1])
        if self.running:
            self._child.send_signal(signal.SIGWINCH)

    def echo(self, keys: str, awaited: str, timeout: float) -> float:
        """Seconds from pressing keys to the first output that holds a text."""
        with self._changed:
            self._awaited, self._carried, self._seen_at = awaited.encode(), b"", None
            begun = time.perf_counter()
            self.type(keys)
            self._changed.wait_for(lambda: self._seen_at is not None or self._ended, timeout)
            self._awaited = b""
            if self._seen_at is None:
                raise TerminalError(f"{keys!r} was pressed, {awaited!r} never shown")
            return self._seen_at - begun

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the program's exit code, without a timeout as long as it takes."""
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TerminalError(f"the program did not end within {timeout} s") from None

    def _read(self) -> None:
        with suppress(OSError):  # on Linux the other end is closed
            while data := os.read(self._ours, 65536):
                self.output_at = now = time.perf_counter()
                with self._changed:
                    if self._awaited and self._seen_at is None:
                        text = self._carried + data
                        self._carried = text[-len(self._awaited) :]
                        if self._awaited in text:
                            self._seen_at = now
                            self._changed.notify_all()
        os.close(self._ours)
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def measure_chat_memory(flags: Mapping[str, Any]) -> int:
    """Bytes that the chat's processes hold after the machine was measured and a question answered.

    Its folders are isolated by XDG variables, which platformdirs must follow.
    """
    with tempfile.TemporaryDirectory() as folder:
        environment = {f"SEQUOIA_{name.upper()}": str(value) for name, value in flags.items()}
        environment |= {
            "XDG_CACHE_HOME": f"{folder}/cache",
            "XDG_DATA_HOME": f"{folder}/data",
            "SEQUOIA_MAX_NEW_TOKENS": str(ANSWER_TOKENS),
        }
        package = __package__.rpartition(".")[0]
        command = [sys.executable, "-c", f"from {package}.cli import main; main()"]
        with Terminal(command, SIZE, environment) as terminal:
            terminal.echo(RARE[0], RARE[0], LONGEST_SECONDS)
            terminal.type(_BACKSPACE)
            _wait(terminal, lambda: any(Path(folder).glob("cache/sequoia/calibration/*.json")))
            terminal.type(f"{QUESTION}\r")
            asked = time.perf_counter()

            def answered() -> bool:
                """Also after the longest time: a slow answer holds its memory already."""
                quiet_since = max(asked, terminal.output_at)
                done_at = min(quiet_since + QUIET_SECONDS, asked + LONGEST_SECONDS)
                return time.perf_counter() > done_at

            _wait(terminal, answered)
            chat = psutil.Process(terminal.pid)
            return sum(int(each.memory_info().rss) for each in (chat, *chat.children(True)))


def _wait(terminal: Terminal, done: Callable[[], bool]) -> None:
    until = time.monotonic() + LONGEST_SECONDS
    while not done():
        if not terminal.running:
            raise TerminalError("the chat ended before its memory was measured")
        if time.monotonic() > until:
            raise TerminalError(f"the chat had not measured the machine in {LONGEST_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)
