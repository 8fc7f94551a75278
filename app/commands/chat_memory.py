"""Memory of the whole chat: the real command on a terminal, after it has measured the machine.

Its folders are isolated by XDG variables, which platformdirs must follow.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil

from .terminal import RARE, Terminal, TerminalError

SIZE = 160, 50
QUESTION = "Why is the sky blue?"
ANSWER_TOKENS = 128
LONGEST_SECONDS = 180.0
QUIET_SECONDS = 2.0
"""Without output, after which an answer is complete."""
_POLL_SECONDS = 0.2


def measure_chat_memory(flags: Mapping[str, Any]) -> int:
    """Bytes that the chat's processes hold after the machine was measured and a question answered.

    Raises:
        TerminalError: the chat ended, or did not get so far in time.
    """
    with tempfile.TemporaryDirectory() as folder:
        settings = {f"SEQUOIA_{name.upper()}": str(value) for name, value in flags.items()}
        folders = {"XDG_CACHE_HOME": f"{folder}/cache", "XDG_DATA_HOME": f"{folder}/data"}
        length = {"SEQUOIA_MAX_NEW_TOKENS": str(ANSWER_TOKENS)}
        package = __package__.rpartition(".")[0]
        command = [sys.executable, "-c", f"from {package}.cli import main; main()"]
        with Terminal(command, SIZE, settings | folders | length) as terminal:
            terminal.echo(RARE[0], RARE[0], LONGEST_SECONDS)
            terminal.type("\x7f")
            figures = Path(folder)
            _wait(terminal, lambda: any(figures.glob("cache/sequoia/calibration/*.json")))
            terminal.type(f"{QUESTION}\r")
            _wait_for_quiet(terminal)
            return _held(terminal.pid)


def _held(pid: int) -> int:
    process = psutil.Process(pid)
    return sum(int(each.memory_info().rss) for each in (process, *process.children(True)))


def _wait(terminal: Terminal, there: Callable[[], bool]) -> None:
    until = time.monotonic() + LONGEST_SECONDS
    while not there():
        if not terminal.running:
            raise TerminalError("the chat ended before its memory was measured")
        if time.monotonic() > until:
            raise TerminalError(f"the chat had not measured the machine in {LONGEST_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def _wait_for_quiet(terminal: Terminal) -> None:
    written, since = terminal.written, time.monotonic()
    until = since + LONGEST_SECONDS

    def quiet() -> bool:
        nonlocal written, since
        if terminal.written != written:
            written, since = terminal.written, time.monotonic()
        return time.monotonic() > min(since + QUIET_SECONDS, until)

    _wait(terminal, quiet)
