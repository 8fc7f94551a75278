"""Long chats on the screen: holding the end, letting go, storms of sizes; and the soak itself."""

import random
import sys
from bisect import bisect_right

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.geometry import Offset
from textual.selection import SELECT_ALL, Selection

from app.commands.terminal import Terminal, TerminalError
from app.widgets.transcript import Transcript
from tests.app.driving import Driver, driving
from tests.app.soak import Order, soak
from tests.app.typing_latency import percentile, typing_latencies
from tests.fakes import make_answer, replay

LONG = "\n\n".join(f"Paragraph {at} of a long answer that goes on." for at in range(60))


def transcript_of(driver: Driver) -> Transcript:
    return driver.app.chat.query_one(Transcript)


def top_entry(transcript: Transcript) -> int:
    return bisect_right(transcript._layout._ends, transcript.scroll_offset.y)


async def test_what_is_below_is_told_and_end_goes_there() -> None:
    async with driving(replay(make_answer(LONG)), size=(100, 24)) as chat:
        await chat.ask()
        transcript = transcript_of(chat)
        assert transcript.follows
        assert not transcript.border_subtitle
        await chat.pilot.press("pageup", "pageup")
        below = transcript.max_scroll_y - transcript.scroll_offset.y
        assert not transcript.follows
        assert below > 0
        assert f"▼ {below} more lines: End" in chat.screen_text()
        await chat.pilot.press("end")
        assert transcript.follows
        assert transcript.scroll_offset.y == transcript.max_scroll_y
        assert "more line" not in chat.screen_text()


async def test_a_view_that_was_let_go_takes_hold_at_the_bottom() -> None:
    async with driving(replay(make_answer(LONG)), size=(100, 24)) as chat:
        await chat.pause_at(30)
        transcript = transcript_of(chat)
        transcript.scroll_relative(y=-1, animate=False)
        top = transcript.scroll_offset.y
        await chat.pilot.press("space")
        await chat.until(lambda: chat.steps == 31 and chat.app.chat.redraw.done)
        assert transcript.scroll_offset.y == top
        transcript.scroll_end(animate=False, immediate=True)
        await chat.pilot.press("space", "f2")
        await chat.finish()
        assert transcript.scroll_offset.y == transcript.max_scroll_y > top + 1


async def test_a_message_goes_to_the_end_wherever_the_view_is() -> None:
    async with driving(replay(make_answer(LONG), make_answer("Short."))) as chat:
        await chat.ask()
        await chat.pilot.press("pageup", "pageup")
        await chat.ask("again")
        transcript = transcript_of(chat)
        assert transcript.scroll_offset.y == transcript.max_scroll_y
        assert "Short." in chat.screen_text()


async def test_the_smallest_screen_takes_a_message_and_shows_the_answer() -> None:
    async with driving(replay(make_answer(LONG)), size=(20, 5)) as chat:
        await chat.ask()
        transcript = transcript_of(chat)
        assert transcript.scroll_offset.y == transcript.max_scroll_y > 100
        assert "tokens/s" in chat.transcript
        await chat.pilot.press("pageup", "x")
        assert chat.prompt.text == "x"
        assert "x" in chat.screen_text()


async def test_a_storm_of_sizes_leaves_the_chat_as_it_was() -> None:
    chance = random.Random(2)
    async with driving(replay(make_answer(LONG)), size=(100, 30)) as chat:
        await chat.ask()
        transcript = transcript_of(chat)
        await chat.pilot.press("pageup")
        shown = chat.screen_text()
        first = top_entry(transcript)
        for _ in range(30):
            size = chance.choice([(20, 5), (1, 1), (60, 20), (200, 60), (33, 9)])
            await chat.pilot.resize_terminal(*size)
        await chat.pilot.resize_terminal(100, 30)
        assert top_entry(transcript) == first
        await chat.pilot.press("end")
        await chat.pilot.press("pageup")
        assert chat.screen_text() == shown


async def test_keys_and_steps_go_on_in_a_storm_of_sizes() -> None:
    async with driving(replay(make_answer(LONG)), size=(100, 30)) as chat:
        await chat.pause_at(3)
        for at, size in enumerate([(20, 5), (60, 20), (1, 1), (160, 50), (80, 24)]):
            await chat.pilot.resize_terminal(*size)
            await chat.pilot.press("space")
            await chat.until(lambda at=at: chat.steps == 4 + at)  # type: ignore[misc]
        await chat.type("hello")
        assert chat.prompt.text == "hello"
        await chat.pilot.press("f2")
        await chat.finish()
        assert "Paragraph 59" in chat.transcript


async def test_a_selection_is_the_text_of_its_lines_and_nothing_else() -> None:
    async with driving(replay(make_answer(LONG)), size=(100, 24)) as chat:
        await chat.ask()
        transcript = transcript_of(chat)
        lines = chat.transcript.split("\n")
        at = next(at for at, line in enumerate(lines) if "Paragraph 7 " in line)
        selection = Selection(Offset(2, at), Offset(13, at + 2))
        got = transcript.get_selection(selection)
        assert got is not None
        assert got[0] == f"{lines[at][2:]}\n\n{lines[at + 2][:13]}"
        everything = transcript.get_selection(SELECT_ALL)
        assert everything is not None
        assert everything[0].split("\n") == lines[: len(everything[0].split("\n"))]


async def test_walking_reaches_text_that_was_never_drawn() -> None:
    async with driving(replay(make_answer(LONG)), size=(100, 24)) as chat:
        await chat.ask()
        transcript = transcript_of(chat)
        await chat.pilot.resize_terminal(70, 20)
        await chat.pilot.press("home")
        assert "Paragraph 0" in chat.screen_text()
        await chat.pilot.press("end")
        assert transcript.scroll_offset.y == transcript.max_scroll_y


async def test_a_tint_keeps_the_place() -> None:
    async with driving(replay(*[make_answer(LONG)] * 3), size=(100, 24)) as chat:
        for _ in range(3):
            await chat.ask()
        transcript = transcript_of(chat)
        for _ in range(6):
            await chat.pilot.press("pageup")
        entry = top_entry(transcript)
        await chat.pilot.press("f6")
        assert top_entry(transcript) == entry
        await chat.pilot.press("f6")
        assert top_entry(transcript) == entry


# The measuring


def test_a_terminal_tells_when_a_key_was_seen() -> None:
    program = "import sys, tty; tty.setraw(0)\nwhile (c := sys.stdin.read(1)) != 'q':\n" + (
        "    sys.stdout.write(c); sys.stdout.flush()"
    )
    with Terminal([sys.executable, "-c", program], (80, 24)) as terminal:
        assert len(typing_latencies(terminal, 3, random.Random(0))) == 3
        terminal.resize((20, 5))
        with pytest.raises(TerminalError, match="never shown"):
            terminal.echo("a", "b", timeout=0.2)
        with pytest.raises(TerminalError, match="did not end"):
            terminal.wait(0.1)
        terminal.type("q")
        assert terminal.wait(10) == 0
        assert not terminal.running


@given(st.lists(st.floats(0, 1), min_size=1), st.floats(0, 1))
def test_a_percentile_is_one_of_the_values_and_no_more_are_above_it(
    values: list[float], share: float
) -> None:
    found = percentile(values, share)
    assert found in values
    assert sum(value > found for value in values) <= (1 - share) * len(values)


def test_a_short_soak_loses_nothing(tmp_path: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert soak(Order(str(tmp_path), turns=2, steps=120, rate=200.0)) == 0
    told = capsys.readouterr().out
    assert "threads left: none" in told
