"""`sequoia` alone: the chat screen."""

import os
import sys
from collections.abc import Mapping
from typing import Any

import typer

from sequoia_core.errors import ParameterError

from .. import launch


def open_chat(flags: Mapping[str, Any]) -> None:
    """Check what can be checked at once, then hand over to the screen.

    Raises:
        SequoiaError: a setting cannot be used, or there is no terminal.
        typer.Exit: the screen ended by an error.
    """
    from ..settings import load_settings

    settings = load_settings(flags)
    chat_settings = settings.chat()
    launch.tree_choice(settings)
    remark = launch.chosen_models(settings).remark
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ParameterError("the chat needs a terminal; `sequoia ask` works with pipes")
    if remark:
        sys.stderr.write(remark + "\n")
    from ..app import SequoiaApp

    screen = SequoiaApp(lambda progress: launch.build_chat(settings, progress), chat_settings)
    screen.run()
    if screen.decoder.alive:
        # it is deep in a forward that outlasted the join; unwinding the interpreter under it aborts
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(screen.return_code or 0)
    if screen.return_code:
        raise typer.Exit(screen.return_code)
