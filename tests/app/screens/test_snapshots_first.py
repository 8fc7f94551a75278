"""Pictures of the first five minutes that a person has looked at."""

import pytest

from app.config.settings import Settings
from tests.app.picturing import Stage
from tests.app.screens.test_first_minutes import shown_answer
from tests.fakes import replay


@pytest.mark.parametrize("accessible", [False, True], ids=["drawn", "in-words"])
async def test_example(stage: Stage, accessible: bool) -> None:
    async with stage.chat(settings=Settings(accessible=accessible)) as chat:
        if stage.size[0] < 100 or accessible:
            await chat.pilot.press("f4")


@pytest.mark.parametrize("accessible", [False, True], ids=["drawn", "in-words"])
async def test_explained(stage: Stage, accessible: bool) -> None:
    async with stage.chat(settings=Settings(accessible=accessible)) as chat:
        await chat.ask()
        await chat.pilot.press("question_mark")


async def test_shown_tree(stage: Stage) -> None:
    async with stage.chat(replay(shown_answer()), Settings(show_tree=True)) as chat:
        await chat.ask()
        assert chat.session.tree is not None
