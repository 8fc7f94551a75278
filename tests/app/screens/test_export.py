"""What is exported is what was said: nothing is lost, nothing obeyed, and a trace replays."""

import asyncio
import json
from pathlib import Path
from threading import Event

import pytest
from markdown_it import MarkdownIt

from app.config.settings import Settings
from app.screens.chat import export as exports
from app.screens.chat.export import answer_events, as_json, as_markdown
from app.state.answer import Answer
from app.state.chat_session import ChatSession
from sequoia_core.events import (
    Failed,
    Finished,
    FinishReason,
    Notice,
    NoticeKind,
    PrefillProgress,
    Step,
    TextDelta,
)
from sequoia_core.recording.trace_file import Asked
from tests.app.driving import Driver, driving
from tests.app.records import answer_of
from tests.fakes import PAIR, TREE_16, make_answer, replay
from tests.replay_engine import read_trace

WHEN = 1_700_000_000.0


def chat_of(*texts: str) -> ChatSession:
    chat = ChatSession(Settings(), PAIR)
    for number, text in enumerate(texts):
        answer = answer_of(make_answer(text), f"Question {number}?")
        chat.history.begin(answer.prompt, answer, WHEN + number)
    return chat


@pytest.mark.parametrize("name", ["as_json", "as_markdown"])
async def test_the_screen_goes_on_while_a_file_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    made, chat, during = getattr(exports, name), chat_of("One.", "Two."), Event()

    def make(copy: ChatSession, when: float) -> str:
        assert during.wait(10)  # the event loop, which sets it, is not held up
        assert chat.history.exchanges.keys() > copy.history.exchanges.keys()
        text: str = made(copy, when)
        return text

    async def go_on() -> None:
        chat.history.begin("Another?", Answer("Another?"), WHEN)
        during.set()

    monkeypatch.setattr(exports, name, make)
    file = tmp_path / ("chat.json" if name == "as_json" else "chat.md")
    await asyncio.gather(exports.export_chat(file, chat, lambda _: ()), go_on())
    text = file.read_text("utf-8")
    assert "Two." in text
    assert "Another" not in text


def test_an_answer_gives_back_the_events_it_grew_from() -> None:
    plain = make_answer()
    changed = (*plain[:8], TREE_16, *plain[8:])
    failed = (*plain[:8], Failed("no memory"))
    for events in (plain, changed, failed, plain[:7], plain[:2], ()):
        answer = answer_of(events)
        assert tuple(answer_events(answer, answer.steps)) == events


def test_what_is_forgotten_on_the_screen_comes_back_from_the_record() -> None:
    events = make_answer("Tabs\tand \x1b[31mescapes\x07, lone \x85 and   blanks.")
    answer = answer_of(events)
    steps = tuple(answer.steps)
    answer.forget_steps()
    assert tuple(answer_events(answer, steps)) == events
    without = [event for event in events if not isinstance(event, Step)]
    assert list(answer_events(answer, ())) == without


def test_text_held_back_to_the_end_is_not_lost() -> None:
    *events, finished = make_answer("One two three.")
    last = events[-1]
    assert isinstance(last, Step)
    held = TextDelta(last.index, " And four.", ())
    answer = answer_of((*events, held, finished))
    again = answer_of(tuple(answer_events(answer, answer.steps)))
    assert again.text == answer.text
    assert again.steps == answer.steps


def test_progress_and_notices_are_not_part_of_an_answer() -> None:
    events = make_answer("One.")
    noisy = (PrefillProgress(0, 9), Notice(NoticeKind.PRECISION, "x"), *events)
    answer = answer_of(noisy)
    assert tuple(answer_events(answer, answer.steps)) == events


def test_json_holds_every_branch_and_text_as_the_model_wrote_it() -> None:
    chat = chat_of("One \x1b[1m.", "Two.")
    first = chat.history.branch[0]
    other = chat.history.begin("Other?", Answer("Other?"), WHEN, [first])
    document = json.loads(as_json(chat, WHEN))
    assert document["format"] == "sequoia-chat"
    assert document["branch"] == [first.id, other.id]
    exchanges = {each["id"]: each for each in document["exchanges"]}
    assert len(exchanges) == 3
    assert exchanges[first.id]["answer"] == "One \x1b[1m."
    assert exchanges[other.id]["figures"] is None
    assert exchanges[other.id]["parent"] == first.id
    figures = exchanges[first.id]["figures"]
    assert figures["tokens"] == first.answer.statistics[-1].totals.tokens
    assert "\x1b" not in as_json(chat, WHEN)


def test_markdown_shows_the_branch_its_figures_and_what_else_there_is() -> None:
    chat = chat_of("One.", "Two.")
    first = chat.history.branch[0]
    chat.history.begin("Other?", answer_of(make_answer("Three.")), WHEN, [first])
    text = as_markdown(chat, WHEN)
    head, _, others = text.partition("## Other branches")
    assert "One." in head
    assert "Three." in head
    assert "Two." not in head
    assert "Two." in others
    assert "After “Question 0?”:" in others
    assert "(2 of 2)" in head
    for exchange in chat.history.branch:
        assert exchange.answer.footer() in head
        assert f"| {exchange.answer.statistics[-1].totals.tokens} |" in head


def test_markdown_obeys_no_escape_and_no_torn_code_swallows_what_follows() -> None:
    chat = chat_of("Look:\n\n```python\nprint(1)", "After \x1b[31mit.")
    text = as_markdown(chat, WHEN)
    assert "\x1b" not in text
    tokens = MarkdownIt("commonmark").parse(text)
    headings = [tokens[at + 1].content for at, t in enumerate(tokens) if t.type == "heading_open"]
    assert headings.count("You") == 2
    assert headings[-1] == "Figures"


def test_a_name_with_markup_is_a_name() -> None:
    chat = ChatSession(Settings())
    chat.history.begin("a", answer_of((Failed("*no* `memory`"),)), WHEN)
    text = as_markdown(chat, WHEN)
    assert r"failed: \*no\* \`memory\`" in text


# In the chat


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def export(chat: Driver, path: Path) -> None:
    await chat.type(f"/export {path.name}", "enter")
    await chat.until(path.exists)
    await chat.until(lambda: path.name in chat.transcript)


async def test_the_chat_exports_each_kind(here: Path) -> None:
    async with driving(replay()) as chat:
        await chat.ask()
        for ending in ("md", "json", "jsonl", "svg"):
            await export(chat, here / f"chat.{ending}")
            assert not chat.hint
    assert "Rayleigh" in (here / "chat.md").read_text("utf-8")
    assert json.loads((here / "chat.json").read_text("utf-8"))["pair"]["target"] == PAIR.target
    trace = read_trace(here / "chat.jsonl")
    assert trace.events == make_answer()
    assert isinstance(trace.entries[0], Asked)
    assert trace.entries[0].prompt == "Why is the sky blue?"
    assert trace.entries[0].started is not None
    picture = (here / "chat.svg").read_text("utf-8")
    assert picture.startswith("<svg")
    assert "/export" not in picture
    assert not list(here.glob(".*.part"))


async def test_an_answer_under_way_is_exported_as_far_as_it_is(here: Path) -> None:
    async with driving(replay()) as chat:
        await chat.pause_at(3)
        await export(chat, here / "torn.jsonl")
        events = read_trace(here / "torn.jsonl").events
        assert sum(isinstance(event, Step) for event in events) == 3
        assert not isinstance(events[-1], Finished)
        await chat.pilot.press("escape")
        await chat.finish()
        await export(chat, here / "stopped.jsonl")
        last = read_trace(here / "stopped.jsonl").events[-1]
        assert isinstance(last, Finished)
        assert last.reason is FinishReason.CANCELLED


async def test_what_cannot_be_written_is_told_in_one_line(here: Path) -> None:
    async with driving(replay()) as chat:
        await chat.type("/export chat.md", "enter")
        assert "nothing to export" in chat.hint
        await chat.pilot.press("ctrl+u")
        await chat.ask()
        (here / "there.md").write_text("mine", encoding="utf-8")
        for line, complaint in (
            ("/export", "name a file"),
            ("/export chat.pdf", "must end in"),
            ("/export there.md", "is there already"),
            ("/export ~nobody-here/x.md", "no such home folder"),
        ):
            chat.prompt.text = ""
            await chat.type(line, "enter")
            await chat.until(lambda complaint=complaint: complaint in chat.hint)  # type: ignore[misc]
        assert (here / "there.md").read_text("utf-8") == "mine"


# The tree of a step


async def test_the_tree_on_show_is_drawn(here: Path) -> None:
    async with driving(replay()) as chat:
        await chat.ask()
        await chat.walk("home")
        await chat.type("/export tree", "enter")
        await chat.until(lambda: "(the tree of step 1)" in chat.transcript)
        await chat.walk("right_square_bracket")
        await chat.type("/export tree second.svg", "enter")
        await chat.until(lambda: "(the tree of step 2)" in chat.transcript)
        picture = (here / "tree.svg").read_text("utf-8")
        assert "Step 1: " in picture
        assert chat.app.picture_colors["accepted"] in picture
        assert "Step 2: " in (here / "second.svg").read_text("utf-8")


@pytest.mark.parametrize("theme", ["terminal", "textual-dark", "sequoia-light"])
async def test_a_picture_has_colours_in_every_theme(theme: str) -> None:
    async with driving(settings=Settings(theme=theme)) as chat:
        for color in chat.app.picture_colors.values():
            assert len(color) == 7
            assert int(color[1:], 16) >= 0
        assert chat.app.picture_colors["foreground"] != chat.app.picture_colors["background"]


async def test_a_tree_that_cannot_be_drawn_is_told_in_one_line(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(here))
    async with driving(replay()) as chat:
        await chat.type("/export tree", "enter")
        assert "no tree yet" in chat.hint
        await chat.pilot.press("ctrl+u")
        await chat.ask()
        (here / "tree.svg").write_text("mine", encoding="utf-8")
        for line, complaint in (
            ("/export tree", "is there already; /export tree OTHER.svg"),
            ("/export tree x.pdf", ".svg or .png"),
            ("/export tree x.png", "a PNG needs rsvg-convert"),
        ):
            chat.prompt.text = ""
            await chat.type(line, "enter")
            await chat.until(lambda complaint=complaint: complaint in chat.hint)  # type: ignore[misc]
            assert chat.prompt.text == line
        assert (here / "tree.svg").read_text("utf-8") == "mine"


async def test_a_png_is_made_by_the_first_program_that_can(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = here / "bin"
    programs.mkdir()
    for name, script in (
        ("rsvg-convert", "exit 1"),
        ("inkscape", 'read -r line < "$4"; [ "${line%% *}" = "<svg" ] && echo PNG > "${3#*=}"'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    async with driving(replay()) as chat:
        await chat.ask()
        await chat.type("/export tree a tree.png", "enter")
        await chat.until(lambda: "exported: a tree.png" in chat.transcript)
        assert (here / "a tree.png").read_text("utf-8") == "PNG\n"
        (programs / "inkscape").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
        await chat.type("/export tree b.png", "enter")
        await chat.until(lambda: "could not make a PNG" in chat.hint)
        assert not (here / "b.png").exists()
