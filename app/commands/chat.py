"""`sequoia` alone: the chat screen."""

import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import typer

from sequoia_core.errors import ParameterError

from ..config import resolve
from ..config.paths import record_file
from ..engine import build
from .imports import quick_imports


def open_chat(flags: Mapping[str, Any]) -> None:
    """Check what can be checked at once, then hand over to the screen.

    Raises:
        SequoiaError: a setting cannot be used, or there is no terminal.
        typer.Exit: the screen ended by an error.
    """
    with quick_imports():
        from ..config.load import load_settings

    settings = load_settings(flags)
    resolve.tree_choice(settings)
    remark = resolve.chosen_models(settings).remark
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ParameterError("the chat needs a terminal; `sequoia ask` works with pipes")
    if remark:
        sys.stderr.write(remark + "\n")
    with quick_imports():
        from ..app import SequoiaApp
        from ..config.preferences import Preferences
    from ..store.database_recorder import open_record
    from ..store.unsent import keep_unsent, take_unsent

    recorder = open_record(record_file(), record=settings.record)
    try:
        screen = SequoiaApp(
            lambda progress: build.build_chat(settings, progress, insight=settings.insight),
            settings, recorder, Preferences(flags), take_unsent() if settings.record else "",
        )  # fmt: skip
        screen.run()
    finally:
        recorder.close()
    if recorder.unsaved:
        sys.stderr.write(f"sequoia: {recorder.unsaved}\n")
    if screen.return_code:
        keep_unsent(screen.unsent, record=settings.record)
    if screen.decoder.alive:
        if screen.failure is not None:
            sys.stderr.write(f"sequoia: unexpected {screen.failure!r}\n")
        leave(screen.return_code or 0)
    if screen.failure is not None:
        raise screen.failure
    if screen.return_code:
        raise typer.Exit(screen.return_code)


def leave(code: int) -> None:
    """End the process at once; everything is saved by now.

    To unwind the interpreter takes a second with the libraries that decode, and aborts under a
    forward that outlasted the join.
    """
    with suppress(OSError):  # a terminal that was closed
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
