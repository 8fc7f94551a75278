"""Commands that open a screen: `sequoia` alone, the chat, `sequoia replay` and `demo`."""

import gc
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer

from sequoia_core.errors import ParameterError

from ..config import model_choice
from .options import flag, with_settings


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


def open_chat(flags: Mapping[str, Any], *, go_on: bool = False) -> None:
    """Open the chat, the last one with `go_on`."""
    with quick_imports():
        from ..config.load import load_settings

    settings = load_settings(flags)
    model_choice.tree_choice(settings)
    remark = model_choice.chosen_models(settings).remark
    if not _on_terminal():
        raise ParameterError("the chat needs a terminal; `sequoia ask` works with pipes")
    if go_on and not settings.record:
        raise ParameterError("--continue needs the record of the chats; leave out --no-record")
    if remark:
        sys.stderr.write(remark + "\n")
    with quick_imports():
        from ..app import run_chat
        from ..config.model_list import ModelLoader
        from ..store.unsent import keep_unsent

    models = ModelLoader()
    app = run_chat(
        lambda progress: models.load(settings, progress),
        settings, flags, go_on=go_on, models=models,
    )  # fmt: skip
    if app.return_code:
        keep_unsent(app.unsent, record=settings.record)
    if app.decoder.alive:
        if app.failure is not None:
            sys.stderr.write(f"sequoia: unexpected {app.failure!r}\n")
        leave(app.return_code or 0)
    _end_as(app)


@with_settings()
def replay(
    flags: dict[str, Any],
    file: Annotated[Path, typer.Argument(help="A trace: from /record, /export or ask --trace.")],
    speed: Annotated[float, flag("--speed", "Times the recorded pace.", min=0.1, max=16)] = 1.0,
    paused: Annotated[bool, flag("--paused", "Wait at the beginning instead of playing.")] = False,
) -> None:
    """Play a recorded chat: text, trees and figures as they were."""
    with quick_imports():
        from sequoia_core.recording.trace_file import TraceReader

        from ..config.load import load_settings
        from ..state.player import Player, TraceLoader

    settings = load_settings(flags)
    reader = TraceReader(file)
    loading = TraceLoader(reader)
    if not _on_terminal():
        loading.close()
        raise ParameterError("the replay needs a terminal")
    player = Player(loading.timeline, speed)
    player.playing = not paused
    with quick_imports():
        from ..screens.replay import ReplayApp, ReplayScreen

    app = ReplayApp(ReplayScreen(loading, player), settings)
    app.run()
    _end_as(app)


@with_settings()
def demo(
    flags: dict[str, Any],
    first: Annotated[str, typer.Argument(metavar="N|NAME", help="As --scene.")] = "1",
    scene: Annotated[str, flag("--scene", "Begin with this scene.", metavar="N|NAME")] = "",
    listed: Annotated[bool, flag("--list", "List the scenes instead.")] = False,
) -> None:
    """Play captioned recordings that show what a tree does; needs no model."""
    with quick_imports():
        from ..config.load import load_settings
        from ..state import scenes

    if listed:
        for at, name in enumerate(scenes.NAMES):
            typer.echo(f"{at + 1}  {name:<12}  {scenes.scene_title(at)}")
        return
    if first.endswith((".jsonl", ".gz")):
        raise ParameterError(f"`sequoia replay {first}` plays a recording of your own")
    settings, at = load_settings(flags), scenes.find_scene(scene or first)
    if not _on_terminal():
        raise ParameterError("the demo needs a terminal; --list works without one")
    with quick_imports():
        from ..screens.demo import DemoScreen
        from ..screens.replay import ReplayApp

    app = ReplayApp(DemoScreen(at, scenes.open_scene(at)), settings)
    app.run()
    _end_as(app)


def _on_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _end_as(app: Any) -> None:
    """Raise the app's error, or end with its exit code."""
    if app.failure is not None:
        raise app.failure
    if app.return_code:
        raise typer.Exit(app.return_code)


def leave(code: int) -> None:
    """End the process at once; everything is saved already.

    With the libraries that decode, the interpreter takes a second to unwind, and it aborts if a
    forward still runs.
    """
    end_ranks()
    with suppress(OSError):  # a terminal that was closed
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def end_ranks() -> None:
    """End the processes that compute with this one, which without a word count as failed."""
    name = "sequoia_core.model.parallel.ranks"
    if name in sys.modules or "TORCHELASTIC_RUN_ID" in os.environ:
        import_module(name).end_ranks()
