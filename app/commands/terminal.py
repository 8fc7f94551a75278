"""A program on a pseudo-terminal, and the time from a key to its echo."""

import fcntl
import os
import pty
import random
import signal
import struct
import subprocess
import termios
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Self

from sequoia_core.errors import SequoiaError

RARE = [chr(code) for code in range(0x13A0, 0x13F0)]
"""Characters of one cell that occur in no answer, so that their echo can be recognised."""
_BACKSPACE = "\x7f"
_PAUSES = 0.05, 0.3
"""Seconds between an echo and the next key, at least and at most."""


class TerminalError(SequoiaError):
    """The program did not do in time what was waited for."""


class Terminal:
    """A running program whose output is searched for an awaited text and dropped.

    Args:
        command: the program and its arguments.
        size: columns and lines.
        environment: added to this process's own.

    Attributes:
        written: bytes of output so far.
    """

    def __init__(
        self,
        command: Sequence[str],
        size: tuple[int, int],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._ours, theirs = pty.openpty()
        self._changed = threading.Condition()
        self._awaited = b""
        self._carried = b""
        self._seen_at: float | None = None
        self._ended = False
        self.written = 0
        self._set_size(size)
        known = {"TERM": "xterm-256color", "COLORTERM": "truecolor"}
        self._child = subprocess.Popen(
            command, stdin=theirs, stdout=theirs, stderr=theirs,
            env=os.environ | known | dict(environment or {}),
        )  # fmt: skip
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, name="terminal-reader", daemon=True)
        self._reader.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Of the program."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Whether the program has not ended."""
        return self._child.poll() is None

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def resize(self, size: tuple[int, int]) -> None:
        """Give the terminal another size and signal the program."""
        self._set_size(size)
        if self.running:
            self._child.send_signal(signal.SIGWINCH)

    def echo(self, keys: str, awaited: str, timeout: float) -> float:
        """Seconds from pressing keys to the first output that holds a text.

        Raises:
            TerminalError: it did not come in time.
        """
        with self._changed:
            self._awaited, self._carried, self._seen_at = awaited.encode(), b"", None
            begun = time.perf_counter()
            os.write(self._ours, keys.encode())
            self._changed.wait_for(lambda: self._seen_at is not None or self._ended, timeout)
            self._awaited = b""
            if self._seen_at is None:
                raise TerminalError(f"{keys!r} was pressed, {awaited!r} never shown")
            return self._seen_at - begun

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the program's exit code, without a timeout as long as it takes.

        Raises:
            TerminalError: it did not end in time.
        """
        try:
            return self._child.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TerminalError(f"the program did not end within {timeout} s") from None

    def close(self) -> None:
        """End the program if it still runs, and close the terminal."""
        if self.running:
            self._child.kill()
            self._child.wait()
        self._reader.join(timeout=5)

    def _set_size(self, size: tuple[int, int]) -> None:
        columns, lines = size
        fcntl.ioctl(self._ours, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def _read(self) -> None:
        try:
            while data := os.read(self._ours, 65536):
                self._look_at(data, time.perf_counter())
        except OSError:  # on Linux the other end is closed
            pass
        finally:
            os.close(self._ours)
            with self._changed:
                self._ended = True
                self._changed.notify_all()

    def _look_at(self, data: bytes, now: float) -> None:
        with self._changed:
            self.written += len(data)
            if not self._awaited or self._seen_at is not None:
                return
            text = self._carried + data
            if self._awaited in text:
                self._seen_at = now
                self._changed.notify_all()
            self._carried = text[-len(self._awaited) :]


def typing_latencies(terminal: Terminal, keys: int, chance: random.Random) -> list[float]:
    """Seconds from single keys to their echo, at irregular times; each key is deleted again.

    Args:
        terminal: its program has a prompt.
        keys: number of keys.
        chance: for the pauses.

    Raises:
        TerminalError: a key was not echoed.
    """
    latencies: list[float] = []
    for at in range(keys):
        key = RARE[at % len(RARE)]
        latencies.append(terminal.echo(key, key, timeout=10))
        terminal.type(_BACKSPACE)
        time.sleep(chance.uniform(*_PAUSES))
    return latencies


def percentile(values: Sequence[float], share: float) -> float:
    """The value at or below which a share of all lies."""
    ranked = sorted(values)
    return ranked[min(len(ranked) - 1, int(share * len(ranked)))]
