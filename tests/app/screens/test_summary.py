"""The panels rest on the summary of a finished answer, and go on when there are steps again."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from textual.content import Content

from app.config.settings import Settings
from app.screens.demo import DemoScreen
from app.screens.replay import ReplayApp
from app.state import scenes
from app.state.summary import summary_of
from app.widgets.statistics_panel import StatisticsPanel
from sequoia_core.recording.trace_file import SceneInfo
from tests.app.driving import Driver, driving
from tests.app.screens.test_replay import FIRST, captioned, replaying, written
from tests.fakes import TREE_16, make_answer, replay


def panel_text(chat: Driver) -> str:
    panel = chat.app.chat.query_one(StatisticsPanel)
    shown = panel.render()
    assert isinstance(shown, Content)
    return f"{panel.border_title}\n{shown.plain}"


async def test_the_panel_rests_on_the_summary_until_there_are_steps_to_look_at() -> None:
    async with driving(size=(160, 50)) as chat:
        await chat.ask()
        summary = summary_of(chat.session.answer)
        assert summary is not None
        rests = panel_text(chat)
        assert "This answer" in rests
        assert f"{summary.totals.tokens_per_step:.2f} tokens per pass" in rests
        assert f"{summary.drafted} draft + " in rests
        assert f"{summary.best_step}: {max(summary.tokens)} tokens" in rests
        assert "accepted in a pass" in rests
        assert "accepted at position" in rests
        await chat.pilot.press("alt+up")
        assert chat.app.chat.inspector.cursor.at == summary.best
        assert f"Step {summary.best_step} of " in chat.screen_text()
        assert chat.entry.walked_step == summary.best_step
        assert "by guess" in panel_text(chat)
        assert "This answer" not in panel_text(chat)
        await chat.pilot.press("end")
        assert panel_text(chat) == rests
        await chat.pilot.press("f2")
        await chat.type("And why red?", "enter")
        await chat.until(lambda: chat.steps == 1)
        await chat.until(lambda: "by guess" in panel_text(chat))


@pytest.mark.parametrize("size", [(160, 50), (100, 30), (80, 24), (60, 20)])
async def test_the_best_step_is_named_at_every_size_and_a_click_goes_to_it(
    size: tuple[int, int],
) -> None:
    async with driving(size=size) as chat:
        await chat.ask()
        summary = summary_of(chat.session.answer)
        assert summary is not None
        named = f"{summary.best_step}: {max(summary.tokens)} tokens"
        rows = chat.screen_text().splitlines()
        y = next(at for at, row in enumerate(rows) if named in row)
        x = rows[y].index(named) + 1
        await chat.pilot.click(offset=(x, y))
        await chat.until(lambda: chat.app.chat.inspector.cursor.at == summary.best)


async def test_the_summary_is_in_one_place_when_there_comes_to_be_room_for_the_panel() -> None:
    async with driving(size=(80, 24)) as chat:
        await chat.ask()
        await chat.pilot.press("f4")
        assert chat.screen_text().count("best step") == 1
        await chat.pilot.resize_terminal(100, 44)
        await chat.until(lambda: chat.screen_text().count("best step") == 1)
        assert "accepted + 1 target's own" in chat.screen_text()


async def test_there_is_no_best_step_before_an_answer_is_finished() -> None:
    async with driving() as chat:
        await chat.pilot.press("alt+up")
        assert "no best step yet" in chat.hint
        await chat.pause_at(2)
        await chat.pilot.press("alt+up")
        assert "no best step yet" in chat.hint
        assert chat.app.chat.inspector.cursor.at is None


async def test_accessible_mode_says_the_summary_in_sentences() -> None:
    engine = replay([TREE_16, *make_answer()[1:]])
    async with driving(engine, Settings(accessible=True)) as chat:
        await chat.ask()
        await chat.pilot.press("f4")
        await chat.until(lambda: "accepted guesses: 0 in " in chat.screen_text())
        summary = summary_of(chat.session.answer)
        assert summary is not None
        told = " ".join(chat.screen_text().split())
        assert f"the draft wrote {summary.drafted}, the target " in told
        assert f"best step {summary.best_step}: {max(summary.tokens)} tokens" in told


@pytest.mark.parametrize("size", [(160, 50), (100, 30), (80, 24), (60, 20)])
async def test_a_replayed_answer_that_has_ended_is_summed_up_until_one_steps_back(
    size: tuple[int, int], tmp_path: Path
) -> None:
    async with replaying(tmp_path, size=size) as replay:
        player, screen = replay.player, replay.app.replay
        summary = summary_of(player.timeline.recorded[0].exchange.answer)
        assert summary is not None
        named = f"{summary.best_step}: {max(summary.tokens)} tokens"
        ends = player.timeline.recorded[1].first - 1  # the last moment of the first answer
        player.at = ends - 1
        screen._draw()
        assert "best step" not in replay.screen_text()
        await replay.press("right")
        assert player.at == ends
        assert "best step" in replay.screen_text()
        assert named in replay.screen_text()
        await replay.press("left")
        assert "best step" not in replay.screen_text()
        await replay.press("right", "alt+up")
        assert replay.step is not None
        assert replay.step.index == summary.best_step
        assert player.timeline.moments[player.at].answer == 0
        assert not player.playing
        assert "best step" not in replay.screen_text()
        await replay.press("end")
        assert "best step" in replay.screen_text()
        assert "replay.best_step" not in replay.screen_text()


@pytest.mark.parametrize("size", [(160, 50), (100, 30), (80, 24), (60, 20)])
async def test_a_scene_of_the_demo_ends_with_the_summary_beside_its_last_caption(
    size: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "1-name.jsonl"
    path.write_text(written(captioned(), SceneInfo("A scene")), encoding="utf-8")
    monkeypatch.setattr(scenes, "FILES", (path,))
    screen = DemoScreen(0, scenes.open_scene(0))
    app = ReplayApp(screen, Settings())
    async with app.run_test(size=size) as pilot:
        await pilot.press("space", "end", "enter")
        await pilot.pause()
        shown = "\n".join(strip.text for strip in app.screen._compositor.render_strips())
        assert "best step" in shown
        assert "That was the tour" in shown
        await pilot.press("left", "left")
        await pilot.pause()
        shown = "\n".join(strip.text for strip in app.screen._compositor.render_strips())
        assert "best step" not in shown


async def test_a_recording_says_why_its_tree_was_there_as_is_true_later(tmp_path: Path) -> None:
    reasons = {
        "chosen by you": "chosen when this was recorded",
        "fitted to this machine (264 steps)": "fitted to the recording's machine (264 steps)",
    }
    for told, shown in reasons.items():
        answer = make_answer(tree=replace(TREE_16, reason=told))
        async with replaying(tmp_path, [FIRST, *answer], size=(160, 50)) as replay:
            await replay.press("right")
            assert shown in replay.screen_text()
            assert told not in replay.screen_text()
