"""The context window on the screen: how full it is, and what is said before turns are left out."""

from collections.abc import Iterable

import pytest
from msgspec.structs import replace

from app.config.settings import Settings
from app.present.words import token_count
from sequoia_core.events import Event, PrefillDone
from tests.app.driving import driving
from tests.fakes import make_answer, replay


def long_prompt(tokens: int, left_out: int = 0, text: str = "Yes.") -> tuple[Event, ...]:
    """An answer after a prompt of so many tokens."""
    events: Iterable[Event] = make_answer(text)
    return tuple(
        replace(event, prompt_tokens=tokens, left_out=left_out)
        if isinstance(event, PrefillDone)
        else event
        for event in events
    )


@pytest.mark.parametrize(
    ("tokens", "shown"),
    [(0, "0"), (812, "812"), (3482, "3.4k"), (8192, "8k"), (10_200, "10k"), (131_072, "128k")],
)
def test_tokens_are_named_as_context_windows_are(tokens: int, shown: str) -> None:
    assert token_count(tokens) == shown


@pytest.mark.parametrize("width", [80, 160])
async def test_the_header_measures_the_context_as_the_answer_grows(width: int) -> None:
    async with driving(size=(width, 24)) as chat:
        assert "of 8k" not in chat.screen_text()
        await chat.pause_at(2)
        emitted = sum(len(step.token_ids) for step in chat.session.history.branch[0].answer.steps)
        assert f" {38 + emitted} of 8k " in chat.screen_text()
        await chat.pilot.press("escape")
        await chat.finish()
        await chat.type("/clear", "enter")
        assert "of 8k" not in chat.screen_text()


async def test_the_warning_stands_at_the_prompt_while_one_types_until_the_chat_is_cleared() -> None:
    async with driving(replay(long_prompt(7300)), Settings(max_new_tokens=100)) as chat:
        await chat.ask()
        assert "context nearly full: the oldest turns will be left out soon" in chat.hint
        assert "/clear begins a new chat" in chat.hint
        await chat.pilot.press(*"hm")
        assert "context nearly full" in chat.hint
        await chat.type("x" * 4000)
        await chat.until(lambda: "the next message leaves out the oldest turns" in chat.hint)
        chat.prompt.put("/nonsense")
        await chat.pilot.press("enter")
        assert "no command /nonsense" in chat.hint
        chat.prompt.put("/clear")
        await chat.pilot.press("enter")
        assert "context" not in chat.hint


@pytest.mark.parametrize("size", [(60, 20), (160, 50)])
async def test_an_answer_without_its_oldest_turns_says_how_many(size: tuple[int, int]) -> None:
    async with driving(replay(long_prompt(7900, left_out=2)), size=size) as chat:
        await chat.ask("And at dusk?")
        shown = " ".join(chat.transcript.replace("│", " ").split())
        assert "2 earlier turns left out" in shown
        assert "7.7k of 8k" in chat.screen_text()
        assert "context full: the model no longer reads the 2 o" in chat.screen_text()
