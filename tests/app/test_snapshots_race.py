"""Pictures of the race that a person has looked at: three sizes, three themes, each state."""

import pytest

from app.app import ChatSettings, SequoiaApp
from tests.app.driving import Driver
from tests.app.picturing import Act, Compare, once_ready
from tests.fakes import ANSWER, RacingEngine


async def over(chat: Driver) -> None:
    await chat.type("Why is the sky blue?", "f3")
    run = chat.app.chat.race
    assert run is not None
    await chat.until(lambda: run.ended and "race again" in chat.screen_text())


async def paused(chat: Driver) -> None:
    await chat.pilot.press("f2")
    await chat.type("Why is the sky blue?", "f3")
    run = chat.app.chat.race
    assert run is not None

    def steps() -> int:
        return sum(len(each.answer.steps) for each in run.lanes.values())

    for count in range(1, 25):
        await chat.until(lambda count=count: steps() == count)  # type: ignore[misc]
        await chat.pilot.press(*["space"] * (count < 24))


@pytest.mark.parametrize(
    ("act", "plain", "theme", "size"),
    [
        (over, ANSWER, "sequoia", (160, 50)),
        (over, ANSWER.replace("Sunlight", "Daylight"), "sequoia-light", (80, 24)),
        (paused, ANSWER, "okabe-ito", (60, 20)),
    ],
    ids=["equal", "parted", "paused"],
)
def test_screen(
    snap_compare: Compare,
    act: Act,
    plain: str,
    theme: str,
    size: tuple[int, int],
) -> None:
    settings = ChatSettings(theme=theme, temperature=0.0)
    app = SequoiaApp(lambda progress: RacingEngine(plain, exact=plain == ANSWER), settings)
    assert snap_compare(app, terminal_size=size, run_before=once_ready(app, act))
