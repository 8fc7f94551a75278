"""The demo plays its scenes one after the other; `/record` makes such a scene of a chat."""

import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path

import pytest
from textual.pilot import Pilot
from textual.widgets import Static
from typer.testing import CliRunner

from app import cli
from app.config.actions import ACTIONS
from app.config.settings import Settings
from app.present.words import origin
from app.screens.chat.scene_export import add_caption
from app.screens.demo import DemoScreen
from app.screens.replay import ReplayApp
from app.state import scenes
from app.state.chat_session import ChatError
from app.state.player import TraceLoader
from app.state.timeline import Timeline
from app.widgets.caption_bar import CaptionBar
from sequoia_core.events import Event, Step
from sequoia_core.recording.trace_file import Asked, Caption, SceneInfo, TraceReader
from tests.app.commands.test_start import loaded_by
from tests.app.driving import driving
from tests.app.screens.test_replay import FIRST, SHORT, captioned, written
from tests.fakes import make_answer, replay
from tests.replay_engine import read_trace

LINE_CELLS, LINES = 57, 2
"""Of a caption at 60 columns."""


# What is bundled


def test_the_scenes_are_small_and_say_where_they_come_from() -> None:
    assert len(scenes.FILES) == 5
    assert len(set(scenes.NAMES)) == 5
    assert sum(path.stat().st_size for path in scenes.FILES) < 1_000_000
    for at in range(5):
        reader = TraceReader(scenes.FILES[at])
        assert reader.scene is not None
        assert reader.scene.title == scenes.scene_title(at)
        assert reader.scene.machine
        assert f"on {reader.scene.machine}" in origin(reader.scene)
        reader.close()


@pytest.mark.parametrize("path", scenes.FILES, ids=scenes.NAMES)
def test_a_scene_takes_about_half_a_minute_and_its_captions_fit(path: Path) -> None:
    line = Timeline()
    for entry in TraceReader(path):
        line.add(entry)
    said = [each.caption for each in line.moments if each.captioned and each.caption]
    assert 20 < line.seconds < 60
    assert 3 <= len(said) <= 8
    assert line.moments[-1].captioned, "a scene ends with what it showed"
    for each in said:
        assert len(rows_of(each.text)) <= LINES, each.text
        assert each.seconds > len(each.text) / 25
    nodes = [each for each in line.moments if each.node is not None]
    for moment in nodes:
        step = line.recorded[moment.answer].exchange.answer.steps[moment.steps - 1]
        assert step.insight is not None, "the explanation would lack the distributions"
    assert bool(nodes) == ("rejection" in path.name)


def rows_of(text: str) -> list[str]:
    from textwrap import wrap

    return wrap(text, LINE_CELLS)


def test_the_demo_is_opened_without_what_decodes() -> None:
    loaded = loaded_by(
        "import app.commands.chat, app.screens.demo, app.screens.replay, app.config.load\n"
        "from app.state import scenes; scenes.open_scene(0).close()"
    )
    heavy = {"torch", "transformers", "numpy", "tokenizers", "jinja2", "huggingface_hub"}
    assert not heavy & loaded
    assert "app.screens.demo" in loaded


def test_the_command_lists_scenes_and_refuses_others_in_one_line() -> None:
    done = CliRunner().invoke(cli.app, ["demo", "--list"])
    assert done.exit_code == 0
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        [str(at + 1), name] for at, name in enumerate(scenes.NAMES)
    ]
    for given in ("6", "0", "nonsense", "²"):
        done = CliRunner().invoke(cli.app, ["demo", "--scene", given])
        assert done.exit_code == 2
        assert done.stderr.count("\n") == 1
        assert CliRunner().invoke(cli.app, ["demo", given]).stderr == done.stderr
    assert scenes.find_scene("rejection") == scenes.find_scene("2") == 1
    done = CliRunner().invoke(cli.app, ["demo", "mine.jsonl.gz"])
    assert "`sequoia replay mine.jsonl.gz`" in done.stderr


# Playing


@pytest.fixture
def own_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two scenes of the fakes in the place of those that are bundled."""
    files = []
    for number, entries in enumerate(
        (captioned(), [FIRST, *make_answer(SHORT), Caption("The last.", 9.0)]), 1
    ):
        text = written(entries, SceneInfo(f"Scene {number}", "a processor", 1_700_000_000.0))
        files.append(tmp_path / f"{number}-name.jsonl.gz")
        files[-1].write_text(text, encoding="utf-8")
    monkeypatch.setattr(scenes, "FILES", tuple(files))


@asynccontextmanager
async def demo(size: tuple[int, int] = (120, 44)) -> AsyncIterator[tuple[DemoScreen, Pilot[None]]]:
    """The demo, stopped at its beginning."""
    screen = DemoScreen(0, scenes.open_scene(0))
    app = ReplayApp(screen, Settings())
    async with app.run_test(size=size) as pilot:
        await pilot.press("space")
        await pilot.pause()
        assert not screen.player.playing
        yield screen, pilot


def title_of(screen: DemoScreen) -> str:
    return screen.query_one(CaptionBar).shown.title


def said_by(screen: DemoScreen) -> str:
    return screen.query_one(CaptionBar).shown.text


async def settled(screen: DemoScreen, pilot: Pilot[None]) -> None:
    await screen.workers.wait_for_complete()
    await pilot.pause(0.1)


@pytest.mark.usefixtures("own_scenes")
async def test_scenes_follow_each_other_and_the_end_says_how_to_go_on() -> None:
    async with demo() as (screen, pilot):
        day = datetime.fromtimestamp(1_700_000_000).day
        assert title_of(screen) == "1 of 2 · Scene 1"
        assert (
            screen.query_one(CaptionBar).shown.origin == f"recorded {day} Nov 2023 on a processor"
        )
        await pilot.press("end", "enter")
        await settled(screen, pilot)
        assert title_of(screen) == "2 of 2 · Scene 2"
        assert screen.player.playing
        await pilot.press("end", "enter")
        await settled(screen, pilot)
        assert not screen.player.playing
        assert "`sequoia` starts the chat" in said_by(screen)
        await pilot.press("left")
        assert "That was the tour" not in said_by(screen)
        await pilot.press("p", "p")
        await settled(screen, pilot)
        assert title_of(screen) == "1 of 2 · Scene 1"
        await pilot.press("2")
        await settled(screen, pilot)
        assert title_of(screen) == "2 of 2 · Scene 2"
        assert screen.player.at == 0 or screen.player.playing


@pytest.mark.usefixtures("own_scenes")
async def test_a_scene_plays_to_its_end_by_itself_and_goes_on_in_the_next() -> None:
    async with demo() as (screen, pilot):
        screen.player.seek(screen.player.timeline.seconds - 0.05)
        await pilot.press("space")
        for _ in range(100):
            if title_of(screen).startswith("2"):
                break
            await pilot.pause(0.02)
        assert title_of(screen) == "2 of 2 · Scene 2"
        assert screen.player.playing


@pytest.mark.usefixtures("own_scenes")
@pytest.mark.parametrize("size", [(20, 5), (60, 20), (80, 24), (100, 30)])
async def test_where_room_is_short_the_tree_and_the_caption_have_it(size: tuple[int, int]) -> None:
    async with demo(size) as (screen, pilot):
        await pilot.press("right", "right")
        await pilot.pause()
        assert screen.token_tree.size.height > 0
        assert screen.transcript.display == (size[0] >= 100)
        assert screen.query_one(CaptionBar).size.height > 0


async def test_who_looks_at_a_scene_did_not_choose_its_tree() -> None:
    async with demo((160, 50)) as (screen, pilot):
        await pilot.press("end")
        await pilot.press("left")
        shown = "\n".join(strip.text for strip in screen._compositor.render_strips())
        assert "chosen when this was recorded" in shown
        assert "by you" not in shown


@pytest.mark.usefixtures("own_scenes")
async def test_tab_leads_to_the_nodes_and_every_key_is_named() -> None:
    async with demo((160, 50)) as (screen, pilot):
        await pilot.press("right", "right", "tab")
        assert screen.token_tree.has_focus
        await settled(screen, pilot)  # the bar changes with the next picture
        bar = str(screen.key_bar.render())
        assert "up down node" in bar
        assert "enter why" in bar
        await pilot.press("f1")
        helped = "\n".join(str(each.render()) for each in screen.app.screen.query(Static))
        assert "1, 2, 3, 4, 5" in helped
        for text in (bar, helped):
            assert not [each.id for each in ACTIONS if each.id in text]


@pytest.mark.usefixtures("own_scenes")
async def test_the_tour_lies_over_the_chat_whose_answer_goes_on() -> None:
    release = threading.Event()

    def hold(event: Event) -> None:
        if isinstance(event, Step) and event.index == 3:
            release.wait(20)

    async with driving(replay(before=hold)) as chat:
        await chat.type("Why?", "enter")
        await chat.until(lambda: chat.steps == 2)
        await chat.type("/tour", "enter")
        await chat.until(lambda: isinstance(chat.app.screen, DemoScreen))
        release.set()
        await chat.until(lambda: not chat.session.busy)
        screen = chat.app.screen
        assert isinstance(screen, DemoScreen)
        await chat.pilot.press("n")
        await settled(screen, chat.pilot)
        await chat.pilot.press("n")
        await settled(screen, chat.pilot)
        assert "esc goes back to the chat" in said_by(screen)
        await chat.pilot.press("escape")
        await chat.until(lambda: chat.app.screen is chat.app.chat)
        assert screen.trace.done
        await chat.type("/tour 2", "enter")
        await chat.until(lambda: isinstance(chat.app.screen, DemoScreen))
        await chat.pilot.press("q")
        await chat.until(lambda: chat.app.screen is chat.app.chat)
        await chat.type("/tour 9", "enter")
        assert "no scene '9'" in chat.hint


# Recording one's own


async def test_a_chat_is_recorded_with_captions_and_replayed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with driving(replay()) as chat:
        await chat.ask("Why is the sky blue?")
        await chat.pilot.press("home", "right", "right", "right")
        await chat.type("/record caption The colon  \x1b[1m opens a list.", "enter")
        assert "caption at step 4" in chat.transcript
        await chat.type("/record own.jsonl.gz", "enter")
        await chat.until(lambda: "recorded: own.jsonl.gz" in chat.transcript)
        await chat.type("/record own.jsonl.gz", "enter")
        assert "is there already" in chat.hint
        chat.prompt.clear()
        await chat.type("/record", "enter")
        await chat.until(lambda: len(list(tmp_path.glob("*.gz"))) == 2)
        await chat.type("/record own.md", "enter")
        assert "must end in" in chat.hint
    path = tmp_path / "own.jsonl.gz"
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    assert path.stat().st_mode & 0o077 == 0
    trace = read_trace(path)
    assert trace.events == make_answer()
    said = [entry for entry in trace.entries if isinstance(entry, Caption)]
    assert any("The colon" in each.text for each in said)
    assert said[-1].text.endswith("than plain.")
    at = next(
        at for at, entry in enumerate(trace.entries) if entry in said and "colon" in entry.text
    )
    before = trace.entries[at - 1]
    assert isinstance(before, Step)
    assert before.index == 4
    loading = TraceLoader(TraceReader(path))
    assert loading.scene is not None
    assert loading.scene.title == "Why is the sky blue?"
    loading.close()


async def test_only_the_branch_on_show_is_recorded(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    async with driving(replay(make_answer("One."), make_answer("Two."))) as chat:
        await chat.ask("Which?")
        await chat.pilot.press("ctrl+r")
        await chat.finish()
        await chat.type(f"/record {path}", "enter")
        await chat.until(path.exists)
        await chat.until(lambda: "recorded" in chat.transcript)
    asked = [entry for entry in read_trace(path).entries if isinstance(entry, Asked)]
    assert len(asked) == 1


async def test_what_cannot_be_recorded_is_said_at_the_prompt() -> None:
    async with driving(replay()) as chat:
        await chat.type("/record", "enter")
        assert "nothing to record yet" in chat.hint
        chat.prompt.clear()
        await chat.type("/record caption Hello", "enter")
        assert "no step is on show" in chat.hint
        with pytest.raises(ChatError, match="text is missing"):
            add_caption("", chat.session, chat.app.chat.inspector.cursor)


async def test_a_chat_without_steps_is_not_recorded(tmp_path: Path) -> None:
    chat_file = tmp_path / "chat.json"
    chat_file.write_text(
        '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello."}]'
    )
    async with driving(replay()) as chat:
        await chat.type(f"/import {chat_file}", "enter")
        await chat.until(lambda: "imported" in chat.hint)
        await chat.type("/record", "enter")
        assert "no answer here has steps" in chat.hint
