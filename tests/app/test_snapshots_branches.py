"""Pictures of a chat with branches that a person has looked at."""

import pytest

from app.app import ChatSettings, SequoiaApp
from tests.app.driving import Driver
from tests.app.picturing import Act, Compare, once_ready
from tests.fakes import make_answer, replay

ANSWERS = (
    "Rayleigh scattering: air scatters **blue** light more than red.",
    "Light crosses more air then, and the blue is gone.",
    "At dusk the blue has been scattered away; what is left is red.",
)


async def branched(chat: Driver) -> None:
    await chat.ask("Why is the sky blue?")
    await chat.ask("And red at dusk?")
    await chat.pilot.press("ctrl+r")
    await chat.finish()


async def editing(chat: Driver) -> None:
    await branched(chat)
    await chat.pilot.press(
        "ctrl+e", "space", "o", "r", "space", "d", "a", "w", "n", "question_mark"
    )


@pytest.mark.parametrize(
    ("act", "theme", "size"),
    [
        (editing, "redwood", (160, 50)),
        (branched, "sequoia-light", (80, 24)),
        (editing, "okabe-ito", (60, 20)),
    ],
    ids=["editing", "branched", "editing-narrow"],
)
def test_branches(snap_compare: Compare, act: Act, theme: str, size: tuple[int, int]) -> None:
    engine = replay(*(make_answer(text) for text in ANSWERS))
    app = SequoiaApp(lambda progress: engine, ChatSettings(theme=theme))
    assert snap_compare(app, terminal_size=size, run_before=once_ready(app, act))
