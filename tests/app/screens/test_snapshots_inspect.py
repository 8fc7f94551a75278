"""Pictures of why a node of the tree came out so, that a person has looked at."""

import pytest

from tests.app.insights import explained_answer
from tests.app.picturing import Stage
from tests.fakes import replay


@pytest.mark.parametrize(
    "keys", [(), ("up",) * 7, ("down",)], ids=["accepted", "rejected", "bonus"]
)
async def test_why(stage: Stage, keys: tuple[str, ...]) -> None:
    async with stage.chat(replay(explained_answer())) as chat:
        await chat.ask()
        await chat.walk("left")  # to a step with a rejection
        chat.app.chat.action_why()
        await chat.pilot.press(*keys)
