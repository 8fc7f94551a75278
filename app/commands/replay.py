"""`sequoia replay FILE`: a recorded chat on the screen, without any model."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from sequoia_core.errors import ParameterError

from .chat import quick_imports
from .options import DEBUG_OPTION


def replay(
    file: Annotated[Path, typer.Argument(help="A trace: from /export or ask --trace.")],
    speed: Annotated[
        float,
        typer.Option("--speed", help="Times the recorded pace.", min=0.1, max=16),
    ] = 1.0,
    paused: Annotated[
        bool, typer.Option("--paused", help="Wait at the beginning instead of playing.")
    ] = False,
    debug: DEBUG_OPTION = False,  # noqa: ARG001 remembered by its callback
) -> None:
    """Play a recorded chat: text, trees and figures as they were."""
    with quick_imports():
        from sequoia_core.recording.trace_file import TraceReader

        from ..config.load import load_settings
        from ..state.player import Player, TraceLoader

    settings = load_settings({})
    reader = TraceReader(file)
    loading = TraceLoader(reader)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        loading.close()
        raise ParameterError("the replay needs a terminal")
    player = Player(loading.timeline, speed)
    player.playing = not paused
    with quick_imports():
        from .replay_app import ReplayApp

    app = ReplayApp(loading, reader.description, player, settings)
    app.run()
    if app.failure is not None:
        raise app.failure
    if app.return_code:
        raise typer.Exit(app.return_code)
