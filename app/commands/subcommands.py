"""Which commands there are, each imported when it is asked for.

Owns their names and order. To open the chat none of them is needed, and all of them together take
as long to import as the screen does.
"""

from importlib import import_module

import typer
from typer.core import TyperGroup

_HOMES = {
    "ask": "ask:ask",
    "replay": "replay:replay",
    "models": "models:models",
    "doctor": "doctor:doctor",
    "calibrate": "calibrate:calibrate",
    "bench": "bench:bench",
    "distill": "distill:distill",
    "accept": "accept:accept",
    "search": "search:search",
    "web": "web:web",
    "growmap": "growmap:growmap_app",
    "config": "config:config_app",
    "reproduce": "reproduce:reproduce_app",
}
"""Module and function, or group of commands."""

NAMES = tuple(_HOMES)


def add_commands(group: TyperGroup, *names: str) -> None:
    """Add these commands to a group, those that it has not yet."""
    missing = [name for name in names if name not in group.commands]
    if not missing:
        return
    holder = typer.Typer(add_completion=False)
    holder.callback()(_nothing)  # with it even a single command stays one of a group
    for name in missing:
        module, _, attribute = _HOMES[name].partition(":")
        found = getattr(import_module(f".{module}", __package__), attribute)
        if isinstance(found, typer.Typer):
            holder.add_typer(found, name=name)
        else:
            holder.command(name)(found)
    built = typer.main.get_command(holder)
    assert isinstance(built, TyperGroup)
    group.commands.update(built.commands)


def _nothing() -> None:
    """What the holder would do by itself."""
