"""Pictures of accessible mode that a person has looked at: no frames, verdicts in words."""

from pathlib import Path

import pytest

from app.config.settings import Settings
from app.store.recorder import DatabaseRecorder
from tests.app.insights import explained_answer
from tests.app.picturing import Stage
from tests.app.records import record_chats
from tests.app.screens.test_snapshots_race import end
from tests.app.screens.test_snapshots_replay import STEPS, replaying
from tests.app.screens.test_snapshots_settings import PREFERENCES
from tests.fakes import RacingEngine, replay

ACCESSIBLE = Settings(accessible=True, temperature=0.0)


@pytest.mark.parametrize(
    "keys",
    [(), ("f4",), ("f4", "f4"), ("f1",)],
    ids=["finished", "tree", "heat", "help"],
)
async def test_accessible(stage: Stage, keys: tuple[str, ...]) -> None:
    async with stage.chat(replay(explained_answer()), ACCESSIBLE) as chat:
        await chat.ask()
        await chat.pilot.press(*keys)


async def test_settings(stage: Stage) -> None:
    async with stage.chat(replay(), ACCESSIBLE, preferences=PREFERENCES) as chat:
        await chat.pilot.press("f5")


async def test_why(stage: Stage) -> None:
    async with stage.chat(replay(explained_answer()), ACCESSIBLE) as chat:
        await chat.ask()
        await chat.walk("left")
        chat.app.chat.action_why()


async def test_race(stage: Stage) -> None:
    async with stage.chat(RacingEngine(), ACCESSIBLE) as chat:
        await end(chat)


async def test_sessions(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.screens.sessions.when", lambda then, now: "yesterday 14:03")
    path = tmp_path / "sessions.db"
    record_chats(path, ("Why is the sky blue?", "Because."), ("And at dusk?", "Red."))
    async with stage.chat(replay(), ACCESSIBLE, DatabaseRecorder(path)) as chat:
        await chat.pilot.press("ctrl+o")
        await chat.until(lambda: "at dusk" in chat.screen_text())


async def test_replay(stage: Stage, tmp_path: Path) -> None:
    async with replaying(stage, tmp_path, ACCESSIBLE) as pilot:
        await pilot.press(*STEPS)
