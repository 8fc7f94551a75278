"""A window's process: the chat, drawn for a browser; the models are in the engine process.

The server runs it as a module. It ends with the browser's window or with the server.
"""

import os
import sys
from contextlib import suppress
from pathlib import Path

from ..app import run_chat
from ..config.load import load_settings, read_flags
from ..config.model_choice import tree_choice
from ..engine.client import RemoteEngine
from ..store.unsent import keep_unsent


def main(engine: str, flags: str) -> None:
    """Open the chat with the engine at this socket and the settings of this descriptor."""
    given = read_flags(flags)
    settings = load_settings(given)
    choice = tree_choice(settings)
    app = run_chat(lambda progress: RemoteEngine(Path(engine), choice, progress), settings, given)
    if app.return_code and settings.record:  # what is printed is seen by others, at the server
        keep_unsent(app.unsent, record=True)
    if app.failure is not None:
        with suppress(OSError):  # the server was killed
            sys.stderr.write(f"sequoia: unexpected {app.failure!r}\n")
    # the decode thread may be waiting for the engine process
    os._exit(app.return_code or 0)


if __name__ == "__main__":
    main(*sys.argv[1:])
