"""Slash commands: each setting can be set, and nonsense is one helpful line."""

import contextlib
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from app.config.settings import SETTINGS, Settings
from app.state.slash_commands import (
    USAGE,
    Command,
    SlashError,
    is_command,
    parse_again,
    parse_command,
    parse_race,
    parse_set,
    race_words,
)
from sequoia_core.chat.race import PLAIN, PLAIN_AND_CHOSEN, RaceSide
from sequoia_core.config import Lookup, Mode
from sequoia_core.errors import ParameterError
from sequoia_core.tree.choice import TreeChoice

CHAT = Settings(seed=3, system="be kind")


def read(line: str) -> object:
    """The command, or what `/set` changes."""
    command = parse_command(line)
    return parse_set(command.words, CHAT) if command.name == "set" else command


@pytest.mark.parametrize(
    ("line", "changed"),
    [
        ("/set temperature 0", {"temperature": 0.0}),
        ("/set temperature  1.5 ", {"temperature": 1.5}),
        ("/set top_p 0.9", {"top_p": 0.9}),
        ("/set top_k 40", {"top_k": 40}),
        ("/set seed 7", {"seed": 7}),
        ("/set seed random", {"seed": None}),
        ("/set max_new_tokens 64", {"max_new_tokens": 64}),
        ("/set system You are a pirate.", {"system": "You are a pirate."}),
        ('/set system "You are a pirate."', {"system": "You are a pirate."}),
        ("/set system default", {"system": None}),
        ("/set mode greedy", {"mode": Mode.GREEDY}),
        ("/set growmap my trees/a b.json", {"growmap": "my trees/a b.json"}),
        ("/set growmap adaptive", {"growmap": "adaptive"}),
        ("/set lookup off", {"lookup": Lookup.OFF}),
        ("/set theme midnight", {"theme": "midnight"}),
    ],
)
def test_set_changes_one_value(line: str, changed: dict[str, Any]) -> None:
    assert read(line) == (next(iter(changed)), replace(CHAT, **changed))


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("/show", Command("show")), ("/bye", Command("bye")), ("/quit", Command("bye")),
        ("/?", Command("?")), ("/help", Command("?")), ("  /show  ", Command("show")),
        ("/search  blue sky ", Command("search", "blue sky")), ("/load x", Command("load", "x")),
        ("/search", Command("search")), ("/models", Command("model")),
        ("/model a/b", Command("model", "a/b")), ("/draft none", Command("draft", "none")),
    ],
)  # fmt: skip
def test_plain_commands(line: str, command: Command) -> None:
    assert parse_command(line) == command


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("/shwo", "Did you mean /show?"),
        ("/xyzzy", "/? lists all"),
        ("/serach sky", "Did you mean /search?"),
        ("/theme light", "Did you mean /set theme?"),
        ("/temp 0", "Did you mean /set temperature?"),
        ("/set temp", "Did you mean temperature?"),
        ("/set temp 0", "Did you mean temperature?"),
        ("/set t 0", "There is temperature, top_p, top_k,"),
        ("/tree", "chat.tree shows and hides it; /set growmap changes its shape"),
        ("/history", "Did you mean /sessions?"),
        ("/CLEAR", "Did you mean /clear?"),
        ("/sessions all", "takes nothing after it"),
        ("/set", "temperature"),
        ("/set temprature 1", "Did you mean temperature?"),
        ("/set temperature", "/set temperature NUMBER"),
        ("/set temperature warm", "'warm' is no value for temperature"),
        ("/set temperature -1", "temperature is -1"),
        ("/set temperature nan", "temperature is nan"),
        ("/set top_p 0", "top_p is 0"),
        ("/set top_k 1.5", "no value for top_k"),
        ("/set max_new_tokens 0", "give at least 1"),
        ("/set mode quick", "sequoia|greedy|specinfer|topk|traverse|chain|ar"),
        ("/show me", "nothing after it"),
    ],
)
def test_nonsense_is_one_helpful_line(line: str, complaint: str) -> None:
    with pytest.raises(SlashError) as caught:
        read(line)
    assert complaint in str(caught.value)
    assert "\n" not in str(caught.value)


@given(rest=st.text(max_size=30))
@example(rest="a" * 300)
@example(rest="a" * 300 + ".json")
def test_no_line_makes_a_traceback(rest: str) -> None:
    for line in ("/" + rest, "/set " + rest, "/set temperature " + rest, "/set seed " + rest):
        with contextlib.suppress(SlashError):
            read(line)
    for words in (
        rest,
        f"{rest} vs plain",
        f"tree {rest} vs {rest}",
        f"mode {rest} vs {rest}",
        f"draft {rest} vs current",
    ):
        with contextlib.suppress(SlashError):
            parse_race(words, CHAT)


def test_again_changes_settings_for_one_answer_and_names_those_that_differ() -> None:
    words = "temperature=0.9 mode=specinfer seed=3 growmap='my trees/a b.json'"
    changed, settings = parse_again(words, CHAT)
    wanted: dict[str, Any] = {
        "mode": Mode.SPECINFER,
        "growmap": "my trees/a b.json",
        "temperature": 0.9,
    }
    assert settings == replace(CHAT, **wanted)
    assert changed == {
        "temperature": "0.9", "mode": "specinfer", "growmap": "my trees/a b.json"
    }  # fmt: skip
    assert parse_again("", CHAT) == ({}, CHAT)
    shown = replace(CHAT, show_tree=True)
    assert parse_again("growmap=auto", shown) == ({"show_tree": "off"}, CHAT)
    assert parse_again("temperature=0", shown)[1].show_tree
    assert parse_again("seed=random", CHAT)[0] == {"seed": "random"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("hotter", "'hotter' is no NAME=VALUE"),
        ("temprature=1", "Did you mean temperature?"),
        ("temperature=warm", "'warm' is no value"),
        ("temperature=", "a value is missing"),
        ("theme=midnight", "/set theme changes it"),
        ("system=x", "/set system changes it"),
        ("growmap='a", "quotation mark"),
        ("temperature=-1", "temperature is -1"),
    ],
)
def test_again_with_nonsense_is_one_helpful_line(words: str, complaint: str) -> None:
    with pytest.raises(SlashError, match=complaint):
        parse_again(words, CHAT)


def test_every_setting_is_in_the_help() -> None:
    listed = {usage.split()[1] for usage, _ in USAGE if usage.startswith("/set ")}
    live = {name for name, each in SETTINGS.items() if each.group.live}
    assert listed == live - {"stop"}


def test_what_is_a_command() -> None:
    assert is_command("/show")
    assert not is_command("what is /show?")
    assert not is_command("// a comment in C")
    assert not is_command("/usr/bin\nis a folder")


def test_chat_settings_are_checked_like_sampling_params() -> None:
    with pytest.raises(ParameterError):
        Settings(temperature=-1.0)


# Races

SHAPE = "smollm2-135m/greedy-24x4"
TOO_DEEP = "paths/1x128"  # a growmap that no step can decode with
PLAIN_SIDE = ("plain", Mode.AR, None, None)


def sides(words: str, settings: Settings | None = None) -> tuple[list[Any], str]:
    """Both sides in plain values, and the prompt."""
    read, prompt = parse_race(words, settings or Settings())
    return [
        (side.label, choice.mode, choice.growmap and choice.growmap.name, choice.adaptive)
        for side in read
        if (choice := side.choice or TreeChoice())
    ], prompt


@pytest.mark.parametrize(
    ("words", "first", "second"),
    [
        ("specinfer vs sequoia", ("specinfer", Mode.SPECINFER, None, None),
         ("sequoia", Mode.SEQUOIA, None, None)),
        ("mode topk against chain", ("topk", Mode.TOPK, None, None),
         ("chain", Mode.CHAIN, None, None)),
        ("mode topk VERSUS mode ar", ("topk", Mode.TOPK, None, None), PLAIN_SIDE),
        (f"{SHAPE} vs. adaptive", ("greedy-24x4", Mode.SEQUOIA, SHAPE, None),
         ("adaptive", Mode.SEQUOIA, None, True)),
        ("topk dynamic:30x4x5 vs greedy dynamic", ("topk dynamic:30x4x5", Mode.TOPK, None, None),
         ("greedy dynamic", Mode.GREEDY, None, None)),
        (f"tree {SHAPE} against plain", ("greedy-24x4", Mode.SEQUOIA, SHAPE, None), PLAIN_SIDE),
        (f"growmap measured vs specinfer {SHAPE}", ("measured", Mode.SEQUOIA, None, False),
         ("specinfer greedy-24x4", Mode.SPECINFER, SHAPE, None)),
        ("a100/68m-7b/c4-greedy vs a100/68m-13b/c4-greedy",
         ("a100/68m-7b/c4-greedy", Mode.SEQUOIA, "a100/68m-7b/c4-greedy", None),
         ("a100/68m-13b/c4-greedy", Mode.SEQUOIA, "a100/68m-13b/c4-greedy", None)),
    ],
)  # fmt: skip
@pytest.mark.parametrize("prompt", ["", "why? cats: vs dogs\nor"])
def test_the_sides_of_a_race_are_named(words: str, first: Any, second: Any, prompt: str) -> None:
    assert sides(f"{words}: {prompt}" if prompt else words) == ([first, second], prompt)


@pytest.mark.parametrize(
    "words",
    ["", "why?", "cats vs dogs", "cats vs dogs: which?", "greedy algorithms vs lazy ones", "vs",
     "greedy vs", "vs greedy", "a vs b vs c", "the tree house against the cabin",
     "sequoia: which tree is that?"],
)  # fmt: skip
def test_what_names_no_sides_is_a_prompt(words: str) -> None:
    assert parse_race(words, Settings()) == (PLAIN_AND_CHOSEN, words)
    assert parse_race(f": {words}", Settings()) == (PLAIN_AND_CHOSEN, words)


def test_what_looks_like_sides_is_a_prompt_after_a_colon() -> None:
    assert parse_race(": greedy vs topk", Settings()) == (PLAIN_AND_CHOSEN, "greedy vs topk")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("adaptive vs adaptve", "adaptive"), ("mode greedi vs topk", "greedi"),
        (f"tree {SHAPE}x vs auto", "did you mean"), ("specinfer adaptive vs topk", "adaptive"),
        ("dynamic vs topk", "topk and greedy"), ("topk dynamic:3 vs topk", "as in dynamic:60x6x10"),
        ("tree ~no-user/a.json vs auto", "no-user"),
    ],
)  # fmt: skip
def test_a_side_that_cannot_be_is_refused_with_a_way_out(words: str, told: str) -> None:
    with pytest.raises(SlashError, match=told) as caught:
        parse_race(words, Settings())
    assert "/race : PROMPT" in str(caught.value)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("foo vs sequoiaa: hello", "'sequoiaa' is no mode or growmap; did you mean sequoia?"),
        ("chain greedy-24x vs plain: hello", "did you mean smollm2-135m/greedy-24x4?"),
        ("sequoia lokup vs sequoia: hello", "did you mean lookup?"),
        ("adaptve vs plain: hello", "did you mean adaptive?"),
    ],
)
def test_a_misspelt_side_before_a_colon_is_no_prompt(words: str, told: str) -> None:
    with pytest.raises(SlashError) as caught:
        parse_race(words, Settings())
    assert told in str(caught.value)
    assert str(caught.value).endswith("? If this is a prompt: /race : PROMPT")
    assert parse_race(f": {words}", Settings()) == (PLAIN_AND_CHOSEN, words)


@given(st.lists(st.sampled_from(["", "draft"]), max_size=1), st.randoms(use_true_random=False))
def test_whatever_is_completed_in_turn_names_the_sides_of_a_race(
    first: list[str], random: Random
) -> None:
    words = list(filter(None, first))
    while ":" not in words:
        words.append(random.choice([each for each in race_words(words) if each != TOO_DEEP]))
    line = " ".join(words).replace(" :", ":")
    read, prompt = parse_race(f"{line} why?", Settings())
    assert prompt == "why?"
    assert all(side.label for side in read)


def test_nothing_is_completed_in_what_names_no_sides() -> None:
    assert all(not race_words(words.split()) for words in ("why", "plain vs why", "a vs b vs c"))
    assert race_words(["plain"]) == ["vs"]
    assert race_words(["draft"]) == ["current", "none"]
    assert {*race_words(["dynamic"])} & {*Mode} == {Mode.TOPK, Mode.GREEDY}
    assert not {"ar", "auto"} & {*race_words(["greedy", "vs", "topk", "adaptive"])}


def test_two_drafts_are_named_by_folder_file_or_hub_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    for words in ("draft current vs owner/name", "draft current vs draft owner/name: why?"):
        drafts, _ = parse_race(words, Settings())
        assert drafts == (RaceSide("current"), RaceSide("name", draft="owner/name"))
    drafts, _ = parse_race("draft mine vs plain", Settings())
    assert drafts == (RaceSide("mine", draft="mine"), PLAIN)
    for chat in (Settings(target="it", draft="./mine"), Settings(target="it", draft="owner/name")):
        drafts, _ = parse_race("draft mine vs owner/name", chat)
        loaded = [side.draft for side in drafts]
        assert loaded == [None, "owner/name"] if chat.draft == "./mine" else ["mine", None]
    assert parse_race("draft current vs none", Settings())[0] == (RaceSide("current"), PLAIN)
    with pytest.raises(SlashError, match=r"draft horses: no such file .* /race : PROMPT"):
        parse_race("draft horses vs current", Settings())


def test_a_side_has_the_chats_other_settings() -> None:
    chat = Settings(mode=Mode.CHAIN, lookup=Lookup.ON)
    (adaptive, auto), _ = parse_race("adaptive no-lookup vs auto lookup", chat)
    assert adaptive.choice == TreeChoice(Mode.CHAIN, adaptive=True, lookup=Lookup.OFF)
    assert auto.choice == TreeChoice(Mode.CHAIN, lookup=Lookup.ON)
    assert sides("auto vs plain", Settings(mode=Mode.AR))[0][0][1] is Mode.SEQUOIA
