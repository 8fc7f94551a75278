"""Pictures of the race that a person has looked at, in each state."""

import pytest

from app.config.settings import Settings
from app.state.race_state import RaceState
from tests.app.driving import Driver
from tests.app.picturing import Stage
from tests.fakes import ANSWER, RacingEngine

GREEDY = Settings(temperature=0.0)


async def begin(chat: Driver) -> RaceState:
    await chat.type("Why is the sky blue?", "f3")
    run = chat.session.race
    assert run is not None
    return run


async def underway(chat: Driver) -> None:
    run = await begin(chat)
    await chat.until(lambda: sum(len(each.answer.steps) for each in run.lanes.values()) == 24)
    await chat.until(lambda: "so far" in chat.screen_text())


async def end(chat: Driver) -> None:
    run = await begin(chat)
    await chat.until(lambda: run.ended and "race again" in chat.screen_text())


async def test_racing(stage: Stage) -> None:
    async with stage.chat(RacingEngine(before=stage.hold(24)), GREEDY) as chat:
        await underway(chat)


async def test_paused(stage: Stage) -> None:
    async with stage.chat(RacingEngine(before=stage.hold(24)), GREEDY) as chat:
        await underway(chat)
        await chat.pilot.press("f2")


@pytest.mark.parametrize(
    "plain", [ANSWER, ANSWER.replace("Sunlight", "Daylight")], ids=["equal", "parted"]
)
async def test_over(stage: Stage, plain: str) -> None:
    async with stage.chat(RacingEngine(plain, exact=plain == ANSWER), GREEDY) as chat:
        await end(chat)


async def test_drawn_at_a_temperature(stage: Stage) -> None:
    async with stage.chat(RacingEngine(), Settings(temperature=0.7)) as chat:
        await end(chat)


async def test_back_in_the_chat(stage: Stage) -> None:
    async with stage.chat(RacingEngine(), GREEDY) as chat:
        await end(chat)
        await chat.pilot.press("escape")


async def test_two_trees(stage: Stage) -> None:
    async with stage.chat(RacingEngine(before=stage.hold(24)), GREEDY) as chat:
        await chat.type("/race smollm2-135m/greedy-24x4 vs specinfer: Why is it blue?", "enter")
        run = chat.session.race
        assert run is not None
        await chat.until(lambda: sum(len(each.answer.steps) for each in run.lanes.values()) == 24)
        await chat.until(lambda: "so far" in chat.screen_text())


@pytest.mark.parametrize("key", ["question_mark", "f1"], ids=["explained", "help"])
async def test_what_a_race_says_of_itself(stage: Stage, key: str) -> None:
    async with stage.chat(RacingEngine(), GREEDY) as chat:
        await end(chat)
        await chat.pilot.press(key)
