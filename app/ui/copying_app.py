"""An app whose copies reach the person's clipboard by every way there is, and says by which.

Owns the order: the terminal at once, programs behind the screen, since one that cannot reach its
display takes its time. What is copied is others' choice, also a selection that Textual copies.
"""

import asyncio
import os

from textual.app import App

from .clipboard import copy_with, local_programs, terminal_sequence, told

_TOLD_SECONDS = 4.0


class CopyingApp(App[None]):
    """Takes the place of Textual's own copying, which knows neither tmux nor programs."""

    def copy_to_clipboard(self, text: str) -> None:
        """Copy a selection."""
        self.copy_text(text, "")

    def copy_text(self, text: str, what: str) -> None:
        """Copy a text and tell what became of it.

        Args:
            text: control characters made visible already.
            what: it is, such as "the answer"; "" for a selection.
        """
        self._clipboard = text  # for pasting within the app
        sequence = terminal_sequence(text, os.environ)
        if sequence is not None and self._driver is not None:
            self._driver.write(sequence)
        self.run_worker(self._copy_locally(text, what, sent=sequence is not None))

    async def _copy_locally(self, text: str, what: str, *, sent: bool) -> None:
        took = []
        for program in local_programs(os.environ):
            if await asyncio.to_thread(copy_with, program, text):
                took.append(program.name)
        self.tell_copied(told(text, what, sent=sent, took=tuple(took)))

    def tell_copied(self, line: str) -> None:
        """Say what became of a copy."""
        self.notify(line, markup=False, timeout=_TOLD_SECONDS)
