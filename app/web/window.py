"""A window's process: the chat, drawn for a browser; the models are in the engine process.

The server runs it as a module. It ends with the browser's window or with the server.
"""

import os
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

from ..app import SequoiaApp
from ..config.load import load_settings, read_flags
from ..config.model_choice import tree_choice
from ..config.paths import record_file
from ..config.preferences import Preferences
from ..engine.client import RemoteEngine
from ..store.recorder import open_record
from ..store.unsent import keep_unsent, take_unsent
from ..ui.drivers import GONE

_LOOK_SECONDS = 1.0
_QUIT_SECONDS = 10.0


def main(engine: str, flags: str) -> None:
    """Open the chat with the engine at this socket and the settings of this descriptor."""
    given = read_flags(flags)
    settings = load_settings(given)
    choice = tree_choice(settings)
    recorder = open_record(record_file(), record=settings.record)
    app = SequoiaApp(
        lambda progress: RemoteEngine(Path(engine), choice, progress), settings, recorder,
        Preferences(given), take_unsent() if settings.record else "",
    )  # fmt: skip
    watch = threading.Thread(target=_end_with_parent, args=(app, os.getppid()), daemon=True)
    watch.start()
    try:
        with suppress(BrokenPipeError):  # the server was killed
            app.run()
    finally:
        recorder.close()
    with suppress(BrokenPipeError):
        if app.return_code and settings.record:
            keep_unsent(app.unsent, record=True)
        if recorder.unsaved:
            sys.stderr.write(f"sequoia: {recorder.unsaved}\n")
        if app.failure is not None:
            sys.stderr.write(f"sequoia: unexpected {app.failure!r}\n")
        sys.stderr.flush()
    # the decode thread may be waiting for the engine process
    os._exit(app.return_code or 0)


def _end_with_parent(app: SequoiaApp, parent: int) -> None:
    """End the app once the server is gone; one that was killed sends no request."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    app.call_later(partial(app.exit, return_code=GONE))
    time.sleep(_QUIT_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
