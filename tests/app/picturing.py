"""What the snapshot tests of the screens share: the app is ready, something is done, then drawn."""

from collections.abc import Awaitable, Callable
from typing import Any

from textual.pilot import Pilot

from app.app import SequoiaApp
from tests.app.driving import Driver

Compare = Callable[..., bool]
"""The `snap_compare` fixture."""
Act = Callable[[Driver], Awaitable[None]]
"""What is done before the picture is taken."""


def once_ready(app: SequoiaApp, act: Act) -> Callable[[Pilot[Any]], Awaitable[None]]:
    """For `run_before`: waits for the engine, acts, and waits until it is drawn."""

    async def before(pilot: Pilot[Any]) -> None:
        chat = Driver(app, pilot)
        await chat.until(lambda: app.chat.pair is not None)
        await act(chat)
        await pilot.pause()

    return before


def case_id(value: object) -> str:
    """The part of a test's name that a parameter gives: what is done, a theme, a size."""
    if isinstance(value, tuple):
        return "x".join(map(str, value))
    return str(getattr(value, "__name__", value))
