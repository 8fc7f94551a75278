"""Letters that move, for hands that are used to them."""

import pytest
from textual.widgets import OptionList

from app.app import Settings
from tests.app.driving import driving


@pytest.mark.parametrize("on", [False, True])
async def test_letters_move_in_the_tree_and_are_typed_without_the_setting(on: bool) -> None:
    async with driving(settings=Settings(vim_keys=on)) as chat:
        await chat.ask()
        await chat.pilot.press("tab")
        before = chat.tree.node
        await chat.pilot.press("k", "k")
        moved, typed = chat.tree.node != before, chat.prompt.text == "kk"
        assert (moved, typed) == (on, not on)


async def test_letters_are_typed_in_the_prompt_and_move_in_lists() -> None:
    async with driving(settings=Settings(vim_keys=True)) as chat:
        await chat.type("jk g G")
        assert chat.prompt.text == "jk g G"
        await chat.pilot.press("f5")
        screen = chat.app.screen
        await chat.until(lambda: screen.query_one(OptionList).highlighted is not None)
        options = screen.query_one(OptionList)
        first = options.highlighted or 0
        await chat.pilot.press("j", "j")
        below = options.highlighted or 0
        await chat.pilot.press("G")
        assert first < below < (options.highlighted or 0) == options.option_count - 1


async def test_the_setting_acts_at_once() -> None:
    async with driving() as chat:
        await chat.ask()
        await chat.type("/set vim_keys on", "enter")
        await chat.pilot.press("tab", "k")
        assert chat.prompt.text == ""
