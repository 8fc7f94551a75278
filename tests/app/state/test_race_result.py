"""The race on the screen: what may be said of two texts, every key, and what stays in the chat."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.style import Style

from app.app import Settings
from app.screens.race import RaceScreen
from app.state.history import Exchange
from app.state.race_result import (
    Agreement,
    RaceResult,
    RaceRun,
    agreement_line,
    recorded_note,
    tree_name,
)
from app.store.recorder import Recorder
from app.widgets.lane_text import GrowingLines, LaneText
from sequoia_core.chat.race import Lane, Raced, RaceEvent, RaceTerms
from sequoia_core.events import (
    Event,
    Finished,
    FinishReason,
    Notice,
    NoticeKind,
    TextDelta,
    Totals,
    TreeChosen,
)
from sequoia_core.files import decode, encode
from tests.app.driving import Driver, driving
from tests.fakes import ANSWER, TREE_16, RacingEngine, make_step, plain_answer, replay

GREEDY = Settings(temperature=0.0)
OTHER = ANSWER.replace("Sunlight", "Daylight")


NOTICE = (
    "in bfloat16 a forward of several rows rounds differently from a single row's, so near-ties "
    "may fall differently than in plain decoding; --dtype float32 gives the same text token "
    "for token"
)


class NoticingEngine(RacingEngine):
    """Has something to say about the lane with trees before it begins, and then waits."""

    def __init__(self) -> None:
        super().__init__()
        self.go_on = threading.Event()

    def race(self, *asked: Any) -> Iterator[RaceEvent]:
        for event in super().race(*asked):
            yield event
            if isinstance(event, RaceTerms):
                yield Raced(Lane.SPECULATIVE, Notice(NoticeKind.PRECISION, NOTICE), 0.0)
                self.go_on.wait(20)


@pytest.mark.parametrize("size", [(160, 50), (100, 30), (80, 24), (60, 20)])
async def test_a_notice_is_read_whole_while_a_race_runs(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.screens.redraw.SHARE", 1e6)
    engine = NoticingEngine()
    async with driving(engine, GREEDY, size=size) as chat:
        await chat.type("Why is the sky blue?", "f3")
        await chat.until(lambda: NOTICE in " ".join(chat.screen_text().split()))
        engine.go_on.set()
        await chat.until(lambda: chat.session.race is not None and chat.session.race.ended)


@pytest.mark.parametrize(
    ("tree", "name"),
    [
        (TREE_16, "sequoia tree 16x4"),
        (replace(TREE_16, lookup="auto"), "sequoia tree 16x4 + lookup"),
        (replace(TREE_16, nodes=1, depth=0, lookup="auto"), "lookup only"),
        (replace(TREE_16, nodes=1, depth=0), "plain decoding"),
    ],
)
def test_a_lane_is_called_by_what_it_decodes_with(tree: TreeChosen, name: str) -> None:
    assert tree_name(tree) == name


def raced(
    plain: Sequence[int],
    trees: Sequence[int],
    *,
    temperature: float = 0.0,
    exact: bool = True,
    stopped: bool = False,
) -> RaceRun:
    """A race whose lanes emit these tokens, one a step."""
    run = RaceRun("why?")
    run.add(RaceTerms(temperature, 2, exact))
    reason = FinishReason.CANCELLED if stopped else FinishReason.STOP
    lanes = ((Lane.PLAIN, plain), (Lane.SPECULATIVE, trees))
    for at in range(max(len(plain), len(trees)) + 1):
        for lane, ids in lanes:
            if at < len(ids):
                step = make_step(at + 1, "a", [("b", 0)], parents=(-1,))
                run.add(Raced(lane, replace(step, token_ids=(ids[at],)), 0.1 * (at + 1)))
            elif at == len(ids):
                run.add(Raced(lane, Finished(reason, Totals()), 0.1 * at))
    run.end(None)
    return run


IDS = st.lists(st.integers(0, 2), max_size=8)


@given(plain=IDS, trees=IDS, stopped=st.booleans(), exact=st.booleans())
def test_texts_are_called_equal_exactly_when_their_tokens_are(
    plain: list[int], trees: list[int], stopped: bool, exact: bool
) -> None:
    run = raced(plain, trees, stopped=stopped, exact=exact)
    shared = min(len(plain), len(trees))
    differ = plain[:shared] != trees[:shared]
    assert run.diverged is differ
    assert (run.agreement is Agreement.EQUAL) is (plain == trees and not stopped)
    assert plain[: run.common] == trees[: run.common]
    if stopped and not differ:
        assert run.agreement is Agreement.SO_FAR
    drawn = raced(plain, trees, temperature=0.6)
    assert drawn.agreement is Agreement.SAMPLED


def test_what_is_said_of_the_texts_is_what_is_known() -> None:
    told = {
        name: agreement_line(result)
        for name, run in {
            "equal": raced([1, 2], [1, 2]),
            "rounded": raced([1, 2], [1, 3], exact=False),
            "wrong": raced([1, 2], [1, 3]),
            "drawn": raced([1, 2], [1, 3], temperature=0.6),
            "stopped": raced([1, 2], [1, 2, 3], stopped=True),
        }.items()
        if (result := run.result()) is not None
    }
    assert told["equal"] == "Both texts are equal, token for token: 2 tokens."
    assert "part after 1 token" in told["rounded"]
    assert "--dtype float32" in told["rounded"]
    assert "--dtype" not in told["wrong"]
    assert "report" in told["wrong"]
    assert "0.6" in told["drawn"]
    assert "as far as both got: 2 tokens" in told["stopped"]


def test_a_result_survives_being_kept() -> None:
    result = raced([1, 2, 3], [1, 2, 3]).result()
    assert result is not None
    kept = json.dumps(encode(result))
    assert decode(RaceResult, json.loads(kept)) == result
    assert recorded_note(kept) == result.note()
    for damaged in ("", "[]", kept[:-5], kept.replace("threads", "cores")):
        assert recorded_note(damaged) == ""
    assert result.speedup == pytest.approx(1.0)
    assert "1.00x" in result.note()
    assert raced([], []).result() is None
    assert raced([1], []).speculative.tokens_per_second == 0.0
    slower = raced([1], []).result()
    assert slower is not None
    assert slower.speedup is None


def test_the_speed_up_is_that_of_the_time_in_which_both_ran() -> None:
    run = RaceRun("why?")
    run.add(RaceTerms(0.0, 2, True))
    step = make_step(1, "a", [("b", 0)], parents=(-1,))
    run.add(Raced(Lane.PLAIN, replace(step, token_ids=(1,)), 1.0))
    run.add(Raced(Lane.SPECULATIVE, replace(step, token_ids=(1, 2, 3)), 1.5))
    run.add(Raced(Lane.SPECULATIVE, Finished(FinishReason.STOP, Totals()), 1.5))
    # from here on the machine is busy with something else, which only the plain lane suffers
    run.add(Raced(Lane.PLAIN, replace(step, token_ids=(2, 3)), 99.0))
    run.add(Raced(Lane.PLAIN, Finished(FinishReason.STOP, Totals()), 99.0))
    run.end(None)
    result = run.result()
    assert result is not None
    assert result.speedup == pytest.approx(2.0)
    assert result.plain.seconds == 99.0
    assert result.agreement is Agreement.EQUAL
    assert "3 tokens in 1.50 s against 3 tokens in 99.00 s" in result.note()


def test_both_tokens_at_a_parting_are_named_with_their_probabilities() -> None:
    run = RaceRun("why?")
    run.add(RaceTerms(0.0, 2, False))
    for event in plain_answer("a b c"):
        run.add(Raced(Lane.PLAIN, event, 1.0))
    step = make_step(1, "x", [("a", 1), (" ", 0)])
    run.add(Raced(Lane.SPECULATIVE, replace(step, token_ids=(7, 8)), 1.0))
    assert run.diverged
    assert run.divergence().startswith('plain "a" 0.3700, speculative "a" 0.')


class Keeping(Recorder):
    """Remembers the races it was told of."""

    def __init__(self) -> None:
        self.races: list[tuple[str | None, RaceResult]] = []
        self.begun: list[Exchange] = []

    def begin(self, exchange: Exchange) -> None:
        self.begun.append(exchange)

    def race(self, exchange: str | None, result: Any) -> None:
        self.races.append((exchange, result))


def shown(chat: Driver) -> RaceScreen:
    screen = chat.app.screen
    assert isinstance(screen, RaceScreen)
    return screen


async def over(chat: Driver) -> None:
    run = chat.session.race
    assert run is not None
    await chat.until(lambda: run.ended and "race again" in chat.screen_text())


async def test_f3_races_what_stands_in_the_prompt_and_leaves_it_there() -> None:
    engine = RacingEngine()
    async with driving(engine, GREEDY) as chat:
        await chat.type("Why is the sky blue?", "f3")
        await over(chat)
        text = chat.screen_text()
        assert "Rayleigh" in text
        assert "2 threads" in text
        assert "clock is behind has the next step" in text
        assert "equal, token for token" in text
        assert "while both ran" in text
        assert "x plain" in text
        assert engine.asked == [((), "Why is the sky blue?")]
        await chat.pilot.press("escape")
        assert chat.app.screen is chat.app.chat
        assert chat.prompt.text == "Why is the sky blue?"
        assert "Race, sequoia tree 16x4 against plain decoding" in chat.transcript
        assert chat.session.answer is None


async def test_with_an_empty_prompt_the_last_message_is_raced_in_its_place() -> None:
    engine = RacingEngine()
    keeping = Keeping()
    async with driving(engine, GREEDY, recorder=keeping) as chat:
        await chat.ask("first?")
        await chat.ask("second?")
        await chat.pilot.press("f3")
        await over(chat)
        await chat.pilot.press("escape")
        ((turns, prompt),) = engine.asked
        assert prompt == "second?"
        assert [turn.prompt for turn in turns] == ["first?"]
        await chat.type("/race third?", "enter")
        await over(chat)
        turns, prompt = engine.asked[1]
        assert prompt == "third?"
        assert [turn.prompt for turn in turns] == ["first?", "second?"]
        (exchange, result), (none, _) = keeping.races
        assert exchange == keeping.begun[1].id
        assert none is None
        assert result.agreement is Agreement.EQUAL
        assert result.plain.text == result.speculative.text


async def test_a_message_that_is_edited_is_raced_where_it_stands() -> None:
    engine = RacingEngine()
    async with driving(engine, GREEDY) as chat:
        for prompt in ("first?", "second?", "third?"):
            await chat.ask(prompt)
        await chat.pilot.press("ctrl+e", "up", "x", "f3")
        await over(chat)
        ((turns, prompt),) = engine.asked
        assert prompt == "second?x"
        assert [turn.prompt for turn in turns] == ["first?"]


async def test_where_the_texts_part_is_shown_in_both() -> None:
    async with driving(RacingEngine(OTHER, exact=False), GREEDY) as chat:
        await chat.type("why?", "f3")
        await over(chat)
        text = chat.screen_text()
        assert "part after" in text
        assert "near-tie" in text
        assert '"Daylight"' in text
        assert '"Sunlight"' in text
        for lane in shown(chat).query(LaneText):
            assert lane.own.partition(" ")[0] in ("Sunlight", "Daylight")


async def test_above_temperature_0_nothing_is_compared() -> None:
    async with driving(RacingEngine(OTHER)) as chat:
        await chat.type("why?", "f3")
        await over(chat)
        assert "draws its own text" in chat.screen_text()
        assert not any(lane.own for lane in shown(chat).query(LaneText))


async def test_f2_and_space_run_one_step_of_either_lane() -> None:
    async with driving(RacingEngine(), GREEDY) as chat:
        await chat.pilot.press("f2")
        await chat.type("why?", "f3")
        run = chat.session.race
        assert run is not None

        def steps() -> int:
            return sum(len(lane.answer.steps) for lane in run.lanes.values())

        for count in range(1, 5):
            await chat.until(lambda count=count: steps() == count)  # type: ignore[misc]
            await chat.pilot.pause(0.05)
            assert steps() == count
            assert "paused" in chat.screen_text()
            await chat.pilot.press("space")
        await chat.pilot.press("f2")
        await over(chat)


async def test_escape_stops_first_and_leaves_then() -> None:
    async with driving(RacingEngine(), GREEDY) as chat:
        await chat.pilot.press("f2")
        await chat.type("why?", "f3")
        run = chat.session.race
        assert run is not None
        await chat.until(lambda: run.plain.tokens == 1)
        await chat.pilot.press("escape")
        await over(chat)
        assert shown(chat) is not None
        assert "as far as both got" in chat.screen_text()
        await chat.pilot.press("escape")
        assert chat.app.screen is chat.app.chat
        await chat.pilot.press("backspace")
        await chat.ask("and now?")
        assert "Rayleigh" in chat.transcript


async def test_r_races_again() -> None:
    engine = RacingEngine()
    async with driving(engine, GREEDY) as chat:
        await chat.type("why?", "f3")
        await over(chat)
        await chat.pilot.press("r")
        await over(chat)
        assert len(engine.asked) == 2
        assert engine.asked[0] == engine.asked[1]


@pytest.mark.parametrize("size", [(160, 50), (60, 20), (30, 8), (20, 5)])
async def test_keys_scroll_both_texts_and_no_size_is_too_small(size: tuple[int, int]) -> None:
    async with driving(RacingEngine(), GREEDY, size=size) as chat:
        await chat.type("why?", "f3")
        run = chat.session.race
        assert run is not None
        await chat.until(lambda: run.ended)
        await chat.pilot.pause()
        lanes = list(shown(chat).query(LaneText))
        for key, at in (("home", 0), ("down", 1), ("up", 0), ("pagedown", 10), ("pageup", 0)):
            await chat.pilot.press(key)
            assert [lane.scroll_offset.y for lane in lanes] == [
                min(at, lane.max_scroll_y) for lane in lanes
            ]
        await chat.pilot.press("end")
        assert [lane.scroll_offset.y for lane in lanes] == [lane.max_scroll_y for lane in lanes]
        await chat.pilot.resize_terminal(90, 30)
        await chat.pilot.resize_terminal(*size)


async def test_nothing_of_a_model_is_obeyed() -> None:
    async with driving(RacingEngine("\x1b[31mred[/] [bold]x[/bold]\x07"), GREEDY) as chat:
        await chat.type("[red]why?[/red]", "f3")
        await over(chat)
        text = chat.screen_text()
        assert "␛[31mred[/] [bold]x[/bold]␇" in text
        assert "[red]why?[/red]" in text


async def asked_nothing(chat: Driver) -> None:
    await chat.pilot.press("f3")


async def asked_while_answering(chat: Driver) -> None:
    await chat.pause_at(2)
    await chat.pilot.press("f3")


@pytest.mark.parametrize(
    ("act", "told"),
    [(asked_nothing, "nothing to race"), (asked_while_answering, "esc first")],
)
async def test_what_cannot_be_raced_now_is_said_on_the_chat(
    act: Callable[[Driver], Any], told: str
) -> None:
    async with driving(RacingEngine()) as chat:
        await act(chat)
        assert told in chat.hint
        assert chat.app.screen is chat.app.chat


async def test_an_engine_that_cannot_race_says_so_and_the_chat_goes_on() -> None:
    async with driving(replay()) as chat:
        await chat.type("why?", "f3")
        await over(chat)
        assert "recording" in chat.screen_text()
        await chat.pilot.press("escape", "enter")
        await chat.finish()
        assert "Rayleigh" in chat.transcript
        assert "Race," not in chat.transcript


async def test_an_error_in_the_middle_is_one_line() -> None:
    def fail(event: Event) -> None:
        if isinstance(event, TextDelta) and event.step == 3:
            raise RuntimeError("out of\nmemory")

    async with driving(RacingEngine(before=fail), GREEDY) as chat:
        await chat.type("why?", "f3")
        await over(chat)
        assert "unexpected RuntimeError: out of memory" in chat.screen_text()


@given(
    texts=st.lists(st.text("ab \n\t日🙂", max_size=40), max_size=8),
    width=st.integers(1, 30),
    own=st.one_of(st.none(), st.integers(0, 80)),
)
def test_a_text_that_grows_is_wrapped_as_if_it_came_at_once(
    texts: list[str], width: int, own: int | None
) -> None:
    styles = Style(), Style(bold=True)
    grown, whole = GrowingLines(*styles), GrowingLines(*styles)
    text = ""
    for part in texts:
        text += part
        grown.wrap(text, None, width)
    assert grown.wrap(text, own, width) == whole.wrap(text, own, width)
