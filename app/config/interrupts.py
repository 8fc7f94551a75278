"""Ctrl+C that a library loses while it is imported or loads a model.

PyTorch imports NumPy in C and drops every error of that, a KeyboardInterrupt too. Other libraries
make another error of it. In `__del__` or a callback of a weak reference it is only printed.
"""

import os
import signal
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sys import UnraisableHookArgs


class Interrupts:
    """Notes every SIGINT, next to the KeyboardInterrupt that it raises."""

    def __init__(self) -> None:
        self._noted: int | None = None  # read end of a pipe

    def note(self) -> None:
        """Begin; in the main thread. SIGINT keeps Python's handler, which asyncio replaces."""
        self._noted, written = os.pipe()
        for end in (self._noted, written):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(written, warn_on_full_buffer=False)
        sys.unraisablehook = _without_interrupts

    def check(self) -> None:
        """Raise the KeyboardInterrupt of a SIGINT that came before; of the main thread only.

        To be called where no such interrupt can have been handled already.
        """
        if self._noted is None or threading.current_thread() is not threading.main_thread():
            return
        with suppress(BlockingIOError):
            if signal.SIGINT in os.read(self._noted, 4096):
                raise KeyboardInterrupt

    def forget(self) -> None:
        """A command has handled those that came before, and goes on."""
        with suppress(KeyboardInterrupt):
            self.check()


def _without_interrupts(unraisable: "UnraisableHookArgs") -> None:
    if not isinstance(unraisable.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(unraisable)


INTERRUPTS = Interrupts()  # of this process
