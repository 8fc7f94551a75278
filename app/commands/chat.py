"""`sequoia` alone: the chat screen."""

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import typer

from sequoia_core.errors import ParameterError

from ..config import resolve
from ..config.paths import record_file
from ..engine import build


@contextmanager
def quick_imports() -> Iterator[None]:
    """Imports in this block take a sixth less time.

    Modules create tens of thousands of objects that stay, and the garbage collector would search
    them after every few hundred. It is off during the block, and ignores them afterwards.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def open_chat(flags: Mapping[str, Any]) -> None:
    """Check the settings, then run the screen.

    Raises:
        SequoiaError: a setting cannot be used, or there is no terminal.
        typer.Exit: the screen ended with an error.
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
    from ..store.recorder import open_record
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
    """End the process at once; everything is saved already.

    With the libraries that decode, the interpreter takes a second to unwind, and it aborts if a
    forward still runs.
    """
    with suppress(OSError):  # a terminal that was closed
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)
