"""The terminal app and the `sequoia` command. Installed under the name `sequoia_chat`."""

import os

# Textual reads it once. How often answers are drawn is `pace`; this is how long a key that came
# right after a picture waits to be shown.
os.environ.setdefault("TEXTUAL_FPS", "120")


def main() -> None:
    """Entry point of the `sequoia` command: Ctrl+C ends it without a word, imports included."""
    try:
        from .config.interrupts import INTERRUPTS

        INTERRUPTS.note()
        from .cli import main as run

        run()
    except KeyboardInterrupt:
        raise SystemExit(130) from None
