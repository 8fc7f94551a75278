"""`sequoia web`: the chat in a browser."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..config import model_choice
from ..config.settings import Settings
from ..engine.messages import Done, LoadFailed, Loading
from .console import progress_line
from .options import ALL_SETTINGS, flag, with_settings

if TYPE_CHECKING:
    from ..web.processes import EngineProcess

_PORT = 8000
_WINDOWS = 4
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@with_settings(*ALL_SETTINGS)
def web(
    settings: Settings,
    flags: dict[str, Any],
    port: Annotated[
        int, flag("--port", "Where to listen; 0 is any free port.", min=0, max=65535)
    ] = _PORT,
    host: Annotated[
        str, flag("--host", "Address to listen at; others than loopback are open to others.")
    ] = _LOOPBACK[0],
    sessions: Annotated[int, flag("--sessions", "Windows open at once.", min=1)] = _WINDOWS,
) -> None:
    """Chat in a browser: several windows, and one engine process for all of them.

    The address is the key: whoever knows it may chat, and write files as you.
    """
    import asyncio

    model_choice.tree_choice(settings)
    if remark := model_choice.chosen_models(settings).remark:
        typer.echo(remark, err=True)
    if host not in _LOOPBACK:
        typer.echo(
            f"listening at {host}: neither the chat nor the key is encrypted on the network",
            err=True,
        )
    asyncio.run(serve(host, port, sessions, flags))


async def serve(host: str, port: int, sessions: int, flags: Mapping[str, Any]) -> None:
    """Serve until Ctrl+C, or raise SequoiaError when the engine process has ended."""
    import asyncio

    from ..web.processes import EngineProcess, window_command
    from ..web.server import WebServer, until_asked_to_end

    engine = EngineProcess()
    server = WebServer(host, port, sessions, window_command(engine.path), flags)
    try:
        where = await server.start()
        await engine.start(flags)
        typer.echo(f"Sequoia in the browser: {where}")
        most = "one window" if sessions == 1 else f"at most {sessions} windows"
        typer.echo(f"{most} at once; Ctrl+C ends everything", err=True)
        asked = asyncio.create_task(until_asked_to_end())
        watching = asyncio.create_task(_watch(engine))
        await asyncio.wait((asked, watching), return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if watching.done():
            watching.result()
        watching.cancel()
        typer.echo("ending the windows and the engine process", err=True)
    finally:
        await server.close()
        await engine.stop()


async def _watch(engine: "EngineProcess") -> None:
    """Show the progress of loading, then wait for the engine process to end."""
    with ExitStack() as line:
        progress = line.enter_context(progress_line())

        def report(message: Loading | LoadFailed | Done) -> None:
            if isinstance(message, Loading):
                progress(message.message, message.fraction)
            else:
                line.close()
            if isinstance(message, Done):
                typer.echo("the models are loaded", err=True)

        await engine.watch(report)
