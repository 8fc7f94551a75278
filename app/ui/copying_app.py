"""An app that copies by every way there is, and says by which."""

import asyncio
import os

from textual.app import App

from .clipboard import copy_message, copy_with, local_programs, terminal_sequence

_NOTIFICATION_SECONDS = 4.0


class CopyingApp(App[None]):
    """Replaces Textual's copying, which knows neither tmux nor programs."""

    def copy_to_clipboard(self, text: str) -> None:
        """Copy a selection."""
        self.copy_text(text, "")

    def copy_text(self, text: str, what: str) -> None:
        """Copy a text: by the terminal at once, by programs in the background.

        Args:
            text: control characters already made visible.
            what: such as "the answer"; "" for a selection.
        """
        self._clipboard = text  # for pasting within the app
        sequence = terminal_sequence(text, os.environ)
        if sequence is not None and self._driver is not None:
            self._driver.write(sequence)
        self.run_worker(self._copy_locally(text, what, sent=sequence is not None))

    async def _copy_locally(self, text: str, what: str, *, sent: bool) -> None:
        programs = []
        for program in local_programs(os.environ):
            if await asyncio.to_thread(copy_with, program, text):
                programs.append(program.name)
        self.tell_copied(copy_message(text, what, sent=sent, programs=programs))

    def tell_copied(self, line: str) -> None:
        """Show where a text was copied."""
        self.notify(line, markup=False, timeout=_NOTIFICATION_SECONDS)
