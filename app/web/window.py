"""One window's process: the chat, drawn for a browser, its models in the engine process.

Run by the server as a module. It ends when the browser's window does, or the server.
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
from ..config.paths import record_file
from ..config.preferences import Preferences
from ..config.resolve import tree_choice
from ..engine.client import RemoteEngine
from ..store.database_recorder import open_record
from ..store.unsent import keep_unsent, take_unsent
from ..ui.drivers import GONE

_LOOK_SECONDS = 1.0
_QUIT_SECONDS = 10.0


def main(engine: str, flags: str) -> None:
    """Open the chat.

    Args:
        engine: path of the engine process's socket.
        flags: descriptor of the settings, as on the command line.
    """
    given = read_flags(flags)
    settings = load_settings(given)
    choice = tree_choice(settings)
    path = Path(engine)
    recorder = open_record(record_file(), record=settings.record)
    app = SequoiaApp(
        lambda progress: RemoteEngine(path, choice, progress), settings, recorder,
        Preferences(given), take_unsent() if settings.record else "",
    )  # fmt: skip
    watch = threading.Thread(target=_end_with_parent, args=(app, os.getppid()), daemon=True)
    watch.start()
    try:
        with suppress(BrokenPipeError):  # a server that was killed reads nothing
            app.run()
    finally:
        recorder.close()
    if recorder.unsaved:
        with suppress(BrokenPipeError):
            sys.stderr.write(f"sequoia: {recorder.unsaved}\n")
            sys.stderr.flush()
    with suppress(BrokenPipeError):
        if app.failure is not None:
            sys.stderr.write(f"sequoia: unexpected {app.failure!r}\n")
        if app.return_code and settings.record:
            keep_unsent(app.unsent, record=True)
        sys.stderr.flush()
    # the decode thread may be waiting for the engine process
    os._exit(app.return_code or 0)


def _end_with_parent(app: SequoiaApp, parent: int) -> None:
    """A server that was killed says nothing, and its pipes are read by nobody any more."""
    while os.getppid() == parent:
        time.sleep(_LOOK_SECONDS)
    app.call_later(partial(app.exit, return_code=GONE))
    time.sleep(_QUIT_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
