"""Pictures of the replay that a person has looked at."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from app.config.settings import Settings
from app.screens.replay import ReplayApp, ReplayScreen
from app.state.player import Player, TraceLoader
from sequoia_core.events import Step
from sequoia_core.recording.trace_file import TraceReader
from tests.app.insights import with_insight
from tests.app.picturing import Stage
from tests.app.screens.test_replay import chat, recording

STEPS = ("right_square_bracket",) * 12


@asynccontextmanager
async def replaying(
    stage: Stage, folder: Path, settings: Settings | None = None
) -> AsyncIterator[Pilot[Any]]:
    """The replay of a chat with two answers and a branch, whose steps say why."""
    entries = [with_insight(each) if isinstance(each, Step) else each for each in chat()]
    reader = TraceReader(recording(folder, entries))
    loading = TraceLoader(reader)
    app = ReplayApp(ReplayScreen(loading, Player(loading.timeline)), settings or Settings())
    async with stage.shown(app) as pilot:
        while not loading.done:
            await pilot.pause(0.01)
        yield pilot


@pytest.mark.parametrize(
    "keys",
    [
        STEPS,
        (*STEPS, "tab", "down", "enter"),
        (*STEPS, "f4"),
        (*STEPS, "f4", "f4"),
        ("end",),
        ("end", "f6"),
        ("f1",),
        ("f1", "end"),
    ],
    ids=[
        "paused",
        "explained",
        "second_view",
        "third_view",
        "branch",
        "tinted",
        "help",
        "end_of_help",
    ],
)
async def test_replay(stage: Stage, tmp_path: Path, keys: tuple[str, ...]) -> None:
    if "tab" in keys and stage.size[0] < 100:
        keys = (*STEPS, "f4", *keys[len(STEPS) :])  # the tree takes the chat's place
    async with replaying(stage, tmp_path) as pilot:
        await pilot.press(*keys)


async def test_playing(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.screens.replay.monotonic", lambda: 0.0)
    async with replaying(stage, tmp_path) as pilot:
        await pilot.press("n", "shift+right", "plus")


async def test_palette(stage: Stage, tmp_path: Path) -> None:
    async with replaying(stage, tmp_path) as pilot:
        await pilot.press(*STEPS, "ctrl+p")
        await pilot.pause(0.5)
