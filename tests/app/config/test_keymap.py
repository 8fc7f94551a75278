"""Keys can be changed, never so that one does two things at once; the screen tells the new ones."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.widgets import Static

from app.app import SequoiaApp
from app.config import actions
from app.config.actions import Action
from app.config.keymap import Keys, key_name, remapped
from app.config.settings import Settings
from app.screens.replay import ReplayApp
from app.widgets.prompt import _ACTIONS
from tests.app.driving import driving

ACTIONS = {each.id: each for each in actions.actions(*SequoiaApp.CONTEXTS) if each.keys}
KEYS = ["f1", "f2", "f4", "f9", "f10", "ctrl+t", "ctrl+q", "escape", "a", "[", "space", "enter"]


def meet(one: Action, other: Action) -> bool:
    contexts = {one.context, other.context}
    return len(contexts) == 1 or "app" in contexts or contexts == {"chat", "prompt"}


def test_every_action_is_of_the_chat_or_the_replay() -> None:
    contexts = {*SequoiaApp.CONTEXTS, *ReplayApp.CONTEXTS}
    assert {each.context for each in actions.ACTIONS} == contexts
    assert len({each.id for each in actions.ACTIONS}) == len(actions.ACTIONS)


def test_the_palette_and_the_help_say_what_an_action_does() -> None:
    for each in actions.ACTIONS:
        assert each.help or not each.in_palette
        assert each.keys or each.in_palette
        assert not each.listed_with or each.listed_with in ACTIONS or "replay" in each.id


def test_by_default_no_key_does_two_things_at_once() -> None:
    for one, other in combinations(ACTIONS.values(), 2):
        if meet(one, other):
            assert not set(one.keys) & set(other.keys), (one, other)


def test_the_prompts_actions_have_keys() -> None:
    assert all(Keys(ACTIONS).of(action) for action in _ACTIONS)


@given(
    st.dictionaries(
        st.sampled_from(sorted(ACTIONS)), st.lists(st.sampled_from(KEYS), min_size=1, max_size=2)
    )
)
def test_whatever_is_wished_no_key_does_two_things(wanted: dict[str, list[str]]) -> None:
    keys, problems = remapped(ACTIONS.values(), wanted)
    assert len(problems) == len(wanted) - len(keys.changed)
    for one in map(keys.actions.__getitem__, keys.changed):
        for other in keys.actions.values():
            if other.id != one.id and meet(one, other):
                assert not set(one.keys) & set(other.keys)
    for name, action in keys.actions.items():
        if name not in keys.changed:
            assert action == ACTIONS[name]


def test_two_actions_may_swap_their_keys() -> None:
    keys, problems = remapped(ACTIONS.values(), {"chat.tree": ["f2"], "chat.pause": ["f4"]})
    assert problems == ()
    assert keys.keymap() == {"chat.pause": "f4", "chat.tree": "f2"}


@pytest.mark.parametrize(
    ("name", "key", "words"),
    [
        ("chat.tre", "f9", "no action 'chat.tre'; did you mean chat.tree?"),
        ("zzz", "f9", "F5 lists them"),
        ("chat.tree", "f2", "chat.tree cannot have f2, chat.pause has it (pause or resume); it "
                            "keeps f4"),
        ("app.quit", "d", "needed for typing"),
        ("chat.tree", "space", "needed for typing"),
        ("chat.tree", "left_square_bracket", "needed for typing"),
        ("chat.tree", "hyperspace", "no key 'hyperspace'"),
        ("chat.tree", "", "no key ''"),
        ("chat.tree", "foo+a", "no key 'foo+a'"),
        ("app.palette", "r", "needed for typing"),
    ],
)  # fmt: skip
def test_a_wish_that_cannot_be_granted_is_one_line(name: str, key: str, words: str) -> None:
    keys, problems = remapped(ACTIONS.values(), {name: [key]})
    assert keys.changed == frozenset()
    assert len(problems) == 1
    assert words in problems[0]
    assert "\n" not in problems[0]


def test_no_key_at_all_is_refused() -> None:
    assert "needs a key" in remapped(ACTIONS.values(), {"chat.tree": []})[1][0]


@pytest.mark.parametrize(
    ("given", "known", "shown"),
    [
        ("F9", "f9", "f9"),
        (",", "comma", ","),
        ("[", "left_square_bracket", "["),
        ("ctrl+T", "ctrl+t", "^t"),
        ("Esc", "escape", "esc"),
        ("alt+[", "alt+left_square_bracket", "alt+["),
        ("n", "n", "n"),
    ],
)
def test_keys_may_be_written_as_people_do(given: str, known: str, shown: str) -> None:
    keys, problems = remapped(
        [Action("race.again", "again", "Race again", ("r",))], {"race.again": [given]}
    )
    assert problems == ()
    assert keys.of("race.again") == (known,)
    assert key_name(known) == shown


def test_texts_name_the_keys_in_use() -> None:
    wanted = {"chat.step_before": ["n"], "chat.live": ["f12", "ctrl+l"]}
    keys, _ = remapped(ACTIONS.values(), wanted)
    assert keys.shown("chat.step_before chat.step_after") == "n right"
    assert keys.shown("chat.first_step, chat.live") == "home, f12"
    assert keys.shown("chat.live", most=None) == "f12, ^l"
    assert keys.shown("up down") == "up down"


async def test_changed_keys_work_and_are_told() -> None:
    wanted = {"chat.tree": ("f9",), "chat.step_before": ("n",), "prompt.send": ("ctrl+s",)}
    async with driving(settings=Settings(keys=wanted)) as driver:
        await driver.type("Why is the sky blue?", "ctrl+s")
        await driver.finish()
        last = driver.steps
        await driver.pilot.press("n")
        await driver.until(lambda: f"Step {last} of {last}" in driver.screen_text())
        assert "f9 tree" in driver.screen_text()
        assert "n right steps" in driver.screen_text()
        await driver.pilot.press("f1")
        await driver.until(lambda: "f9 " in driver.screen_text() and "^s " in driver.screen_text())


async def test_the_old_key_does_nothing_any_more() -> None:
    wanted = {"chat.settings": ("f9",), "prompt.send": ("ctrl+s",)}
    async with driving(settings=Settings(keys=wanted)) as driver:
        await driver.pilot.press("f5")
        assert driver.app.screen is driver.app.chat
        await driver.type("hello", "enter")
        assert driver.session.answer is None
        assert driver.prompt.text == "hello\n"  # where it does not send, it writes
        await driver.pilot.press("f9")
        assert driver.app.screen is not driver.app.chat


async def test_a_clash_is_told_in_one_line_and_the_rest_holds() -> None:
    wanted = {"chat.tree": ("f2",), "chat.tint": ("f9",)}
    async with driving(settings=Settings(keys=wanted)) as driver:
        await driver.until(lambda: "chat.tree cannot have f2" in driver.transcript)
        assert driver.app.keys.of("chat.tint") == ("f9",)
        assert driver.app.keys.of("chat.tree") == ("f4",)


async def test_every_text_that_names_a_key_names_the_one_in_use() -> None:
    wanted = {"chat.tree": ("f9",), "chat.pause": ("f10",)}
    async with driving(settings=Settings(keys=wanted)) as driver:
        assert "f10 pauses" in driver.transcript
        palette = [each.help for each in driver.app.get_system_commands(driver.app.screen)]
        assert any("(f9)" in each for each in palette)
        told = "\n".join([*palette, driver.transcript])
        assert not [name for name in driver.app.keys.actions if name in told]


async def test_help_and_refusals_name_the_keys_in_use() -> None:
    wanted = {"chat.settings": ("f9",), "chat.stop": ("f10",), "chat.race": ("f11",)}
    async with driving(settings=Settings(keys=wanted)) as driver:
        await driver.type("/race", "enter")
        assert "then f11" in driver.hint
        driver.prompt.text = ""
        await driver.pause_at(1)
        await driver.type("more", "enter")
        assert "Press f10 to stop the answer first" in driver.hint
        await driver.pilot.press("f1")
        told = " ".join(str(driver.app.screen.query_one("#help Static", Static).content).split())
        assert "all settings and keys (f9)" in told
        assert not [name for name in driver.app.keys.actions if name in told]
