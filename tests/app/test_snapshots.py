"""Pictures of the screen that a person has looked at: three sizes, several themes, each state.

After a change that is meant, look at `snapshot_report.html` and run pytest with
`--snapshot-update`.
"""

import pytest

from app.app import ChatSettings, SequoiaApp
from tests.app.driving import Driver
from tests.app.picturing import Act, Compare, case_id, once_ready
from tests.fakes import replay


async def welcome(chat: Driver) -> None:
    pass


async def finished(chat: Driver) -> None:
    await chat.ask()


async def paused(chat: Driver) -> None:
    await chat.pause_at(17)


async def paused_tree(chat: Driver) -> None:
    await chat.pause_at(17)
    await chat.pilot.press("f4")


async def walking(chat: Driver) -> None:
    await chat.ask()
    await chat.pilot.press(*["left_square_bracket"] * 7)


async def tinted(chat: Driver) -> None:
    await chat.ask()
    await chat.pilot.press("f6")


async def shown_settings(chat: Driver) -> None:
    await chat.type("/show", "enter")
    await chat.type("/set temprature 1", "enter")


async def helped(chat: Driver) -> None:
    await chat.pilot.press("f1")


@pytest.mark.parametrize(
    ("act", "theme", "size"),
    [
        (finished, "sequoia", (160, 50)),
        (walking, "sequoia-light", (160, 50)),
        (paused, "sequoia", (80, 24)),
        (paused_tree, "midnight", (80, 24)),
        (tinted, "okabe-ito", (100, 30)),
        (paused, "high-contrast", (60, 20)),
        (paused_tree, "redwood", (60, 20)),
        (shown_settings, "sequoia-light", (80, 24)),
        (welcome, "sequoia", (60, 20)),
        (helped, "sequoia", (80, 24)),
    ],
    ids=case_id,
)
def test_screen(snap_compare: Compare, act: Act, theme: str, size: tuple[int, int]) -> None:
    app = SequoiaApp(lambda progress: replay(), ChatSettings(theme=theme))
    assert snap_compare(app, terminal_size=size, run_before=once_ready(app, act))
