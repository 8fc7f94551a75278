"""Pictures of the settings that a person has looked at."""

from pathlib import Path

import pytest

from app.config.preferences import Preferences
from tests.app.picturing import Stage

PREFERENCES = Preferences(path=Path("/home/you/.config/sequoia/config.toml"))


@pytest.mark.parametrize(
    "keys",
    [(), ("down", "down", "enter"), ("enter",), ("end",), ("end", "enter")],
    ids=["list", "typing", "choosing", "keys", "asking_for_a_key"],
)
async def test_settings(stage: Stage, keys: tuple[str, ...]) -> None:
    async with stage.chat(preferences=PREFERENCES) as chat:
        await chat.pilot.press("f5")
        for key in keys:
            await chat.pilot.press(key)
            await chat.pilot.pause()
