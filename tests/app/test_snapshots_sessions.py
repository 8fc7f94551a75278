"""Pictures of the list of sessions and of the search, in three sizes and themes."""

from pathlib import Path

import pytest
from textual.widgets import OptionList

from app.app import ChatSettings, SequoiaApp
from app.screens import search, sessions
from app.store.recorder import DatabaseRecorder
from tests.app.driving import Driver
from tests.app.picturing import Act, Compare, case_id, once_ready
from tests.app.records import PATIENCE_SECONDS, record_chats
from tests.fakes import ANSWER, replay

CHATS = (
    ("What is [bold]markup[/bold] to a terminal?\x1b[31m", "Nothing here."),
    ("天空为什么是蓝色的?", "因为瑞利散射。"),
    ("Write a function that reverses a string, and explain every line of it to a child", "def"),
    ("Why is the sky blue?", ANSWER),
)


def shown(chat: Driver) -> int:
    """How many lines the list has."""
    lists = list(chat.app.screen.query(OptionList))
    return lists[0].option_count if lists else 0


async def listed(chat: Driver) -> None:
    record = chat.app.chat.keeping.recorder
    assert isinstance(record, DatabaseRecorder)
    infos = record.archive.sessions()
    record.rename(infos[1].id, "string reversal").result(PATIENCE_SECONDS)
    await chat.pilot.press("ctrl+o")
    await chat.until(lambda: shown(chat) == len(CHATS))
    await chat.pilot.press("down", "down", "d")
    await chat.until(lambda: "u brings it back" in chat.screen_text())


async def naming(chat: Driver) -> None:
    await chat.pilot.press("ctrl+o")
    await chat.until(lambda: shown(chat) == len(CHATS))
    await chat.pilot.press("r", *"the sky")


async def searched(chat: Driver) -> None:
    await chat.type("/search sca blu", "enter")
    await chat.until(lambda: shown(chat) == 1)


@pytest.mark.parametrize(
    ("act", "theme", "size"),
    [
        (listed, "sequoia", (160, 50)),
        (listed, "sequoia-light", (80, 24)),
        (listed, "high-contrast", (60, 20)),
        (naming, "sequoia", (80, 24)),
        (searched, "sequoia-light", (160, 50)),
        (searched, "sequoia", (80, 24)),
        (searched, "high-contrast", (60, 20)),
    ],
    ids=case_id,
)
def test_screen(
    snap_compare: Compare,
    act: Act,
    theme: str,
    size: tuple[int, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for screen in (search, sessions):
        monkeypatch.setattr(screen, "when", lambda then, now: "yesterday 14:03")
    path = tmp_path / "sessions.db"
    record_chats(path, *CHATS)
    recorder = DatabaseRecorder(path)
    app = SequoiaApp(lambda progress: replay(), ChatSettings(theme=theme), recorder)
    assert snap_compare(app, terminal_size=size, run_before=once_ready(app, act))
