"""Pictures of the settings and of accessible mode that a person has looked at."""

from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from app.app import ChatSettings, SequoiaApp
from app.preferences import Preferences
from tests.app.driving import Driver
from tests.app.picturing import Compare
from tests.fakes import replay


@pytest.mark.parametrize(
    ("theme", "size", "keys"),
    [
        ("sequoia", (160, 50), ["f5"]),
        ("tol-light", (80, 24), ["f5", "down", "down", "enter"]),
        ("terminal", (60, 20), ["f5", "enter"]),
    ],
    ids=["list-160x50", "typing-80x24", "choosing-60x20"],
)
def test_settings(
    snap_compare: Compare, theme: str, size: tuple[int, int], keys: list[str]
) -> None:
    preferences = Preferences(path=Path("/home/you/.config/sequoia/config.toml"))
    app = SequoiaApp(lambda progress: replay(), ChatSettings(theme=theme), preferences=preferences)

    async def before(pilot: Pilot[Any]) -> None:
        driver = Driver(app, pilot)
        await driver.until(lambda: app.chat.pair is not None)
        for key in keys:
            await pilot.press(key)
            await pilot.pause()

    assert snap_compare(app, run_before=before, terminal_size=size)


@pytest.mark.parametrize("size", [(60, 20), (80, 24), (160, 50)], ids=lambda s: f"{s[0]}x{s[1]}")
def test_accessible(snap_compare: Compare, size: tuple[int, int]) -> None:
    app = SequoiaApp(lambda progress: replay(), ChatSettings(accessible=True))

    async def before(pilot: Pilot[Any]) -> None:
        driver = Driver(app, pilot)
        await driver.until(lambda: app.chat.pair is not None)
        await driver.ask()
        if size != (160, 50):
            await pilot.press("f4")
        app.chat.query_one("#prompt").blur()

    assert snap_compare(app, run_before=before, terminal_size=size)
