"""Pictures of the list of sessions and of the search that a person has looked at."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from textual.widgets import OptionList

from app.screens import sessions
from app.store.recorder import DatabaseRecorder
from tests.app.driving import Driver
from tests.app.picturing import Stage
from tests.app.records import PATIENCE_SECONDS, record_chats
from tests.app.screens.test_sessions import killed_window, record_of
from tests.fakes import ANSWER

CHATS = (
    ("What is [bold]markup[/bold] to a terminal?\x1b[31m", "Nothing here."),
    ("天空为什么是蓝色的?", "因为瑞利散射。"),
    ("Write a function that reverses a string, and explain every line of it to a child", "def"),
    ("Why is the sky blue?", ANSWER),
)


@pytest.fixture(autouse=True)
def yesterday(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "when", lambda then, now: "yesterday 14:03")


@asynccontextmanager
async def kept(stage: Stage, folder: Path) -> AsyncIterator[Driver]:
    """The app with a record of earlier chats."""
    path = folder / "sessions.db"
    record_chats(path, *CHATS)
    async with stage.chat(recorder=DatabaseRecorder(path)) as chat:
        yield chat


def shown(chat: Driver) -> int:
    """How many lines the list has."""
    lists = list(chat.app.screen.query(OptionList))
    return lists[0].option_count if lists else 0


async def open_list(chat: Driver) -> None:
    await chat.pilot.press("ctrl+o")
    await chat.until(lambda: shown(chat) == len(CHATS))


async def test_listed(stage: Stage, tmp_path: Path) -> None:
    async with kept(stage, tmp_path) as chat:
        record = record_of(chat)
        session = record.archive.sessions()[1].id
        record.rename(session, "string reversal").result(PATIENCE_SECONDS)
        await open_list(chat)
        await chat.pilot.press("down", "down", "d")
        await chat.until(lambda: "u brings it back" in chat.screen_text())


async def test_naming(stage: Stage, tmp_path: Path) -> None:
    async with kept(stage, tmp_path) as chat:
        await open_list(chat)
        await chat.pilot.press("r", *"the sky")


async def test_nothing_listed(stage: Stage, tmp_path: Path) -> None:
    async with stage.chat(recorder=DatabaseRecorder(tmp_path / "sessions.db")) as chat:
        await chat.pilot.press("ctrl+o")
        await chat.until(lambda: "no session yet" in chat.screen_text())


@pytest.mark.parametrize(("words", "hits"), [("sca blu", 1), ("w", 3), ("green", 0)])
async def test_searched(stage: Stage, tmp_path: Path, words: str, hits: int) -> None:
    async with kept(stage, tmp_path) as chat:
        await chat.type(f"/search {words}", "enter")
        told = f"{hits} hit" if hits else "no hit"
        await chat.until(lambda: shown(chat) == hits and told in chat.screen_text())


async def test_offered_to_continue(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with killed_window(path):
        async with stage.chat(recorder=DatabaseRecorder(path)) as chat:
            await chat.until(lambda: "The last chat" in chat.transcript)


async def test_continued(stage: Stage, tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    with killed_window(path):
        async with stage.chat(recorder=DatabaseRecorder(path)) as chat:
            await chat.until(lambda: "The last chat" in chat.transcript)
            await chat.pilot.press("ctrl+o")
            await chat.until(lambda: "second question" in chat.transcript)
