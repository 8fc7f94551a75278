"""Pictures of what looks into the steps, that a person has looked at; see `test_snapshots`."""

from typing import Any

import pytest
from textual.pilot import Pilot

from app.app import ChatSettings, SequoiaApp
from tests.app.driving import Driver
from tests.app.insights import told
from tests.app.picturing import Compare
from tests.fakes import replay

REJECTED = ("up", "up", "up", "up", "up", "up", "up", "enter")


@pytest.mark.parametrize(
    ("keys", "theme", "size"),
    [
        (("tree", "enter"), "sequoia", (160, 50)),
        (("tree", *REJECTED), "sequoia-light", (80, 24)),
        (("f4", "tree", "down", "enter"), "okabe-ito", (60, 20)),
        (("f4",), "midnight", (160, 50)),
        (("f4", "f4"), "high-contrast", (80, 24)),
        (("f6",), "sequoia-light", (160, 50)),
    ],
    ids=["accepted", "rejected", "bonus", "map", "narrow-map", "tints"],
)
def test_screen(
    snap_compare: Compare, keys: tuple[str, ...], theme: str, size: tuple[int, int]
) -> None:
    app = SequoiaApp(lambda progress: replay(told()), ChatSettings(theme=theme))

    async def before(pilot: Pilot[Any]) -> None:
        chat = Driver(app, pilot)
        await chat.until(lambda: app.chat.pair is not None)
        await chat.ask()
        for key in keys:
            if key == "tree":
                chat.tree.focus()
            else:
                await pilot.press(key)
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=before)
