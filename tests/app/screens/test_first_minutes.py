"""The first five minutes: an empty chat, sentences over the screen, words, and trees to look at."""

import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.cells import cell_len
from textual import events
from textual.color import Color
from textual.widgets import Static

from app.app import SequoiaApp, Settings
from app.config.model_choice import TreeRoom, tree_choice
from app.config.themes import least_contrast
from app.screens.chat.screen import ChatScreen
from app.screens.explain import _TABLES, GLOSSARY, ExplainScreen, parts_on_show, placed
from app.screens.race import RaceScreen
from app.ui.terminal_input import TerminalInput
from app.widgets.tree_strip import TreeStrip
from app.widgets.welcome import STARTERS, ExampleTree
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.config import Mode
from sequoia_core.events import Event, Progress, Step
from sequoia_core.tree.choice import ADAPTIVE, SHOWN
from tests.app.color_vision import contrast
from tests.app.driving import Driver, driving
from tests.app.screens.test_replay import replaying
from tests.fakes import (
    ANSWER,
    PAIR,
    TREE_16,
    RacingEngine,
    make_answer,
    replay,
    with_baseline,
    with_lookups,
)

SIZES = [(160, 50), (100, 30), (80, 24), (60, 20)]


# An empty chat


@pytest.mark.parametrize("size", SIZES)
async def test_an_empty_chat_offers_four_prompts_and_says_what_it_is(size: tuple[int, int]) -> None:
    async with driving(size=size) as chat:
        shown = chat.screen_text()
        assert all(prompt in shown for prompt in STARTERS.values())
        assert all(f"alt+{number}" in shown for number in (1, 2, 3, 4))
        assert "guesses" in shown


async def test_to_select_over_a_starter_does_not_send_it() -> None:
    async with driving(size=(100, 30)) as chat:
        rows = chat.screen_text().splitlines()
        first = next(at for at, row in enumerate(rows) if "alt+1" in row)
        third = first + 2
        drag = f"\x1b[<0;12;{first + 1}M\x1b[<32;20;{third + 1}M\x1b[<0;20;{third + 1}m"
        for message in TerminalInput().feed(drag.encode()):
            chat.app.post_message(message)
            await chat.pilot.pause()
        assert chat.app.chat.get_selected_text()
        assert not chat.session.history.branch
        await chat.pilot.click(offset=(12, first))
        await chat.finish()
        assert chat.session.history.branch[0].prompt == STARTERS["code"]


async def test_the_header_names_no_device_without_the_models() -> None:
    async with driving(size=(60, 20)) as chat:
        await chat.ask()
        for width in range(48, 100, 2):
            await chat.pilot.resize_terminal(width, 20)
            header = chat.screen_text().splitlines()[0]
            assert "cpu" not in header or PAIR.target[:5] in header


@asynccontextmanager
async def loading() -> AsyncIterator[tuple[Driver, threading.Event]]:
    """The chat while its models load, until the event is set."""
    loaded = threading.Event()

    def load(progress: Progress) -> ChatEngine:
        loaded.wait(60)
        return replay()

    app = SequoiaApp(load, Settings())
    async with app.run_test(size=(120, 44)) as pilot:
        yield Driver(app, pilot), loaded
        loaded.set()


async def test_a_starter_is_sent_as_a_typed_message_is_and_what_is_typed_stays() -> None:
    async with loading() as (chat, loaded):
        await chat.type("half a thought")
        await chat.pilot.press("alt+2")
        assert chat.session.last is not None
        assert chat.session.last.prompt == STARTERS["list"]
        assert chat.prompt.text == "half a thought"
        loaded.set()
        await chat.finish()
        assert "Rayleigh scattering" in chat.transcript


async def test_starters_and_the_example_go_with_the_first_message_and_come_back() -> None:
    async with driving() as chat:
        example = chat.app.chat.query_one(ExampleTree)
        assert example.region
        assert not chat.tree.region
        await chat.ask()
        assert STARTERS["code"] not in chat.transcript
        assert chat.tree.region
        assert not example.region
        await chat.pilot.press("alt+1")
        assert "empty chat" in chat.hint
        assert len(chat.session.history.branch) == 1
        await chat.type("/clear", "enter")
        await chat.until(lambda: STARTERS["code"] in chat.screen_text())
        assert example.region


async def test_a_click_sends_a_starter() -> None:
    async with driving() as chat:
        lines = chat.screen_text().split("\n")
        y = next(row for row, line in enumerate(lines) if STARTERS["story"] in line)
        x = lines[y].index(STARTERS["story"]) + 3
        await chat.pilot.click(offset=(x, y))
        await chat.finish()
        assert chat.session.last is not None
        assert chat.session.last.prompt == STARTERS["story"]


async def test_notes_leave_the_starters_where_they_are() -> None:
    async with driving(size=(80, 24)) as chat:
        chat.app.chat.pages.note("a theme could not be read")
        await chat.until(lambda: "a theme could not" in chat.screen_text())
        assert all(prompt in chat.screen_text() for prompt in STARTERS.values())


@pytest.mark.parametrize("width", [48, 71])
async def test_each_row_of_the_example_is_explained(width: int) -> None:
    size = (160, 50) if width == 71 else (100, 30)
    async with driving(size=size) as chat:
        shown = chat.screen_text()
        example = chat.app.chat.query_one(ExampleTree)
        assert example.size.width in range(width - 2, width + 3)
        for sign in ("● ", "✔ ", "✘ ", "· ", "➜ "):
            assert sign in shown
        for says in ("accepted: the target agrees", "not reached", "target's own", "rejected"):
            assert says in shown
        assert "gave 3 tokens" in shown


async def test_the_example_is_read_aloud_in_words() -> None:
    async with driving(settings=Settings(accessible=True)) as chat:
        await chat.pilot.press("f4")
        shown = chat.screen_text()
        assert 'depth 1, accepted: "·of", draft 0.61, target 0.72.' in shown
        assert not re.search("[✔✘➜┡]", shown)


# Explanations over the screen


@asynccontextmanager
async def explained(chat: Driver) -> AsyncIterator[str]:
    """The texts over the screen, which is open then."""
    await chat.pilot.press("question_mark")
    await chat.until(lambda: isinstance(chat.app.screen, ExplainScreen))
    await chat.pilot.pause()
    yield str(chat.app.screen.query_one(Static).content)


@pytest.mark.parametrize("size", SIZES)
async def test_figures_on_show_are_explained_as_they_stand_there(size: tuple[int, int]) -> None:
    async with driving(size=size) as chat:
        await chat.ask()
        if size[0] < 100:
            await chat.pilot.press("f4")
        await chat.pilot.press("left")
        shown = chat.screen_text()
        async with explained(chat) as text:
            flat = " ".join(text.split())
            for sign, term in (("✔", "accepted"), ("✘", "rejected"), ("➜", "target's own")):
                assert (f"{sign} {GLOSSARY[term]}" in flat) == (sign in shown)
            assert GLOSSARY["prompt lookup"] not in flat
            assert "Keys that work now. The help lists all." in flat


async def test_sentences_stand_in_the_rows_of_what_they_explain() -> None:
    async with driving(size=(160, 50)) as chat:
        await chat.ask()
        async with explained(chat):
            lines = [line.split("▶") for line in chat.screen_text().split("\n") if "▶" in line]
            assert len(lines) >= 5
            for sentence, explained_row in lines:
                sign, _, _ = sentence.strip("│ ").partition("  ")
                assert sign in explained_row


async def test_every_part_of_the_table_is_found_on_some_screen() -> None:
    """Words of the screen may change: then so does the table."""
    found: set[str] = set()

    async def look(chat: Driver) -> None:
        await chat.pilot.pause()
        screen = chat.app.screen
        assert isinstance(screen, ChatScreen | RaceScreen)
        found.update(part.text for part in parts_on_show(screen))

    async def race(engine: RacingEngine, temperature: float = 0.0, words: str = "why?") -> None:
        settings = Settings(temperature=temperature)
        async with driving(engine, settings, size=(160, 50)) as chat:
            await chat.pilot.press("f2")
            await chat.type(f"/race {words}", "enter")
            await chat.until(lambda: "paused" in chat.screen_text())
            await look(chat)
            await chat.pilot.press("f2")
            await chat.until(lambda: "race again" in chat.screen_text())
            await look(chat)

    looked_up = with_lookups(make_answer())
    async with driving(replay(looked_up, make_answer()), size=(200, 60)) as chat:
        await look(chat)
        await chat.ask()
        await look(chat)
        await chat.pilot.press("f6", "ctrl+r")
        await chat.finish()
        await look(chat)
        await chat.walk("home")
        await look(chat)
        await chat.pilot.press("end", "f2")
        await look(chat)
        await chat.pilot.press("f2", "ctrl+e")
        await look(chat)
    async with loading() as (chat, _):
        await look(chat)
    plain = with_baseline(make_answer(), at=3)
    ended = [
        replace(each, bonus_text="<|im_end|>") if isinstance(each, Step) else each for each in plain
    ]
    async with driving(replay(ended), size=(200, 60)) as chat:
        await chat.ask()
        await look(chat)
        await chat.pilot.press("home", "right", "right")
        await look(chat)
    async with driving(replay(shown_answer()), size=(200, 30)) as chat:
        await chat.ask()
        await look(chat)
    async with driving(size=(80, 24)) as chat:
        await chat.ask()
        await look(chat)
    await race(RacingEngine())
    await race(RacingEngine(ANSWER.replace("Sun", "Day")))
    await race(RacingEngine(), 0.7)
    await race(RacingEngine(), words="greedy vs topk: why?")
    wanted = {GLOSSARY.get(text, text) for place in _TABLES["places"] for _, text in place["parts"]}
    assert wanted - found == set()


async def test_any_key_closes_and_is_typed_so_two_write_a_question_mark() -> None:
    async with driving() as chat:
        for key, typed in (("question_mark", "?"), ("a", "a"), ("escape", ""), ("f4", "")):
            async with explained(chat):
                await chat.pilot.press(key)
            await chat.until(lambda: chat.app.screen is chat.app.chat)
            assert chat.prompt.text == typed
            chat.prompt.put("")
        await chat.type("why")
        await chat.pilot.press("question_mark")
        assert chat.prompt.text == "why?"
        assert chat.app.screen is chat.app.chat


async def test_another_key_explains_and_the_texts_name_it() -> None:
    async with driving(settings=Settings(keys={"chat.explain": ("f8",)})) as chat:
        assert "or f8 to see what is on the screen" in chat.screen_text()
        assert "f8 explains what is on" in " ".join(chat.screen_text().split())
        await chat.pilot.press("f8")
        await chat.until(lambda: isinstance(chat.app.screen, ExplainScreen))
        await chat.pilot.pause()
        assert "any key closes this" in chat.screen_text()
        assert "is typed" not in chat.screen_text()


async def test_a_text_in_one_burst_keeps_its_question_mark() -> None:
    async with driving() as chat:
        for letter in "?why not":
            key = {"?": "question_mark", " ": "space"}.get(letter, letter)
            chat.app.post_message(events.Key(key, letter))
        await chat.until(lambda: len(chat.prompt.text) == len("?why not"))
        assert chat.app.screen is chat.app.chat
        assert chat.prompt.text == "?why not"


async def test_text_pasted_over_the_explanations_is_pasted() -> None:
    async with driving() as chat:
        async with explained(chat):
            chat.app.post_message(events.Paste("two\nlines"))
        await chat.until(lambda: chat.prompt.text == "two\nlines")
        assert chat.app.screen is chat.app.chat


async def test_a_replay_is_explained_too_without_the_keys_of_the_chat(tmp_path: Path) -> None:
    async with replaying(tmp_path) as played:
        await played.pilot.press("end", "question_mark")
        screen = played.app.screen
        assert isinstance(screen, ExplainScreen)
        await played.pilot.pause()
        text = str(screen.query_one(Static).content)
        assert GLOSSARY["accepted"] in " ".join(text.split())
        assert "chat." not in text
        await played.pilot.press("a")
        assert played.app.screen is not screen


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 4)), max_size=12), st.integers(0, 60))
def test_labels_keep_their_order_and_their_room(labels: list[tuple[int, int]], room: int) -> None:
    labels.sort()
    wanted, heights = [row for row, _ in labels], [height for _, height in labels]
    rows = placed([[row] for row in wanted], heights, room)
    if rows is None:
        assert sum(heights) > room
        return
    ends = [row + height for row, height in zip(rows, heights, strict=True)]
    assert all(end <= row for end, row in zip(ends, [*rows[1:], room], strict=False))
    assert all(row >= 0 for row in rows)
    apart = all(a + h <= b for a, h, b in zip(wanted, heights, [*wanted[1:], room], strict=False))
    assert rows == wanted or not apart


# Words


async def test_the_help_has_a_glossary() -> None:
    async with driving(size=(160, 50)) as chat:
        await chat.pilot.press("f1", "end")
        shown = " ".join(chat.screen_text().replace("│", " ").split())
        assert "temperature How freely tokens are drawn:" in shown


def test_a_word_of_the_glossary_is_one_sentence_or_two() -> None:
    for text in GLOSSARY.values():
        assert text.endswith(".")
        assert text.count(". ") <= 1


# Trees to look at

ROOM = TreeRoom(26, 12)


@pytest.mark.parametrize(
    ("nodes", "size"), [(100, 32), (32, 32), (26, 24), (13, 12), (5, 8), (-3, 8)]
)
@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_a_shown_tree_fits_the_panel(nodes: int, size: int, temperature: float) -> None:
    settings = Settings(show_tree=True, temperature=temperature)
    choice = tree_choice(settings, TreeRoom(nodes, 12))
    assert choice.shown
    assert choice.growmap is not None
    assert choice.growmap.size == size
    kind = "greedy" if temperature == 0.0 else "stochastic"
    assert choice.growmap.name.startswith(f"smollm2-135m/{kind}-")


def test_a_shown_tree_is_no_deeper_than_the_panel_is_wide() -> None:
    choice = tree_choice(Settings(show_tree=True), TreeRoom(100, 3))
    assert choice.growmap is not None
    assert choice.growmap.depth == 3


@pytest.mark.parametrize(
    "settings",
    [
        Settings(show_tree=True, growmap="smollm2-135m/greedy-8x3"),
        Settings(show_tree=True, mode=Mode.AR),
        Settings(),
    ],
)
def test_what_a_person_chose_by_name_stays(settings: Settings) -> None:
    assert tree_choice(settings, ROOM) == tree_choice(settings)


def test_a_shown_chain_is_a_path() -> None:
    choice = tree_choice(Settings(show_tree=True, mode=Mode.CHAIN), ROOM)
    assert choice.growmap is not None
    assert choice.growmap.branching == 1
    assert choice.growmap.depth == 12


async def test_show_mode_goes_on_and_off_and_brings_back_what_was_there() -> None:
    engine = replay()
    async with driving(engine, Settings(growmap=ADAPTIVE), size=(160, 50)) as chat:
        before = tree_choice(Settings(growmap=ADAPTIVE))
        await chat.type("/show-tree on", "enter")
        await chat.until(lambda: engine.tree_choice.shown)
        growmap = engine.tree_choice.growmap
        assert growmap is not None
        assert 24 <= growmap.size <= 32
        await chat.type("/set growmap auto", "enter")
        assert "growmap is now auto, used once show_tree is off" in chat.hint
        await chat.type("/set growmap adaptive", "enter")
        assert engine.tree_choice.growmap == growmap
        await chat.pilot.press("f7")
        await chat.until(lambda: engine.tree_choice == before)
        assert not chat.session.settings.show_tree
        chat.app.chat.add_class("-tree-hidden")
        chat.prompt.hint("cut at max_new_tokens")
        await chat.pilot.press("f7")
        await chat.until(lambda: chat.session.settings.show_tree)
        assert not chat.app.chat.has_class("-tree-hidden")
        assert "show_tree is now on" in chat.hint


async def test_ctrl_c_says_at_the_prompt_what_quits() -> None:
    async with driving(replay()) as chat:
        await chat.type("a question", "ctrl+c")
        assert "^q quits" in chat.hint
        assert chat.prompt.text == "a question"


async def test_a_shown_tree_follows_the_temperature_and_the_panel() -> None:
    engine = replay()
    settings = Settings(show_tree=True, temperature=0.6)
    async with driving(engine, settings, size=(160, 50)) as chat:
        await chat.ask()
        large = engine.tree_choice.growmap
        assert large is not None
        assert "stochastic" in large.name
        await chat.type("/set temperature 0", "enter")
        await chat.pilot.resize_terminal(100, 30)
        await chat.ask()
        small = engine.tree_choice.growmap
        assert small is not None
        assert "greedy" in small.name
        assert small.size < large.size
        rows = chat.tree.size.height - 1
        assert small.size + 1 <= rows


def shown_answer() -> tuple[Event, ...]:
    tree = replace(TREE_16, growmap="smollm2-135m/greedy-24x4", reason=f"{SHOWN[0]}, to look at it")
    return (tree, *make_answer()[1:])


async def test_a_shown_tree_is_called_so_wherever_it_is_named() -> None:
    settings = Settings(show_tree=True)
    async with driving(replay(shown_answer()), settings, size=(160, 50)) as chat:
        assert "tree to look at" in chat.screen_text()
        await chat.ask()
        assert "the best of 54: shown larger than pays here" in chat.screen_text()
        await chat.pilot.resize_terminal(100, 30)
        await chat.until(lambda: "the best of 54: larger than pays ─" in chat.screen_text())
        await chat.pilot.resize_terminal(160, 50)
        assert "shown larger than pays here, to look at it" in chat.screen_text()
        assert chat.app.chat.header.chosen_tree is not None
        assert all("larger than pays" in form for form in chat.app.chat.header._tree_forms())
        await chat.type("/show", "enter")
        assert "shown larger than pays here" in chat.transcript
    async with driving(replay(shown_answer()), settings, size=(80, 24)) as chat:
        await chat.ask()
        assert ", larger than pays" in chat.screen_text()


@pytest.mark.parametrize("theme", ["sequoia", "sequoia-light", "high-contrast", "tol-light"])
async def test_every_word_on_the_screen_can_be_read(theme: str) -> None:
    async with driving(settings=Settings(theme=theme), size=(160, 50)) as chat:
        least = least_contrast(chat.app.current_theme) - 0.1  # colours are rounded
        for _ in range(2):
            for strip in chat.app.screen._compositor.render_strips():
                for text, style, _ in strip:
                    if style is not None and style.color and any(map(str.isalpha, text)):
                        ink, ground = (
                            Color.from_rich_color(each) for each in (style.color, style.bgcolor)
                        )
                        assert contrast(ink, ground) >= least, text
            await chat.ask()


async def test_at_60x20_the_strip_names_a_tree_to_look_at_beside_its_first_row() -> None:
    async with driving(replay(shown_answer()), Settings(show_tree=True), size=(60, 20)) as chat:
        await chat.ask()
        strip = chat.app.chat.query_one(TreeStrip)
        first, *others = strip.render().plain.splitlines()
        assert first.startswith(" ●")
        assert first.rstrip().endswith("larger than pays")
        assert cell_len(first) <= strip.size.width
        assert len(others) == strip.size.height - 1
