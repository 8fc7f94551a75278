"""The race on the screen: every key, and what stays in the chat."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace
from textual.events import Key, Paste
from textual.widgets import Static

from app.app import Settings
from app.screens.explain import ExplainScreen
from app.screens.help import HelpScreen
from app.screens.race import RaceScreen
from app.state.history import Exchange
from app.state.race_result import Agreement, RaceResult
from app.state.race_state import LanePart
from app.store.recorder import Recorder
from app.widgets.lane_text import LaneText
from sequoia_core.chat.race import PLAIN_AND_CHOSEN, Lane, Race, Raced, RaceEvent, RaceTerms
from sequoia_core.events import (
    Event,
    Notice,
    NoticeKind,
    TextDelta,
)
from sequoia_core.tree.choice import SHOWN
from tests.app.driving import Driver, driving
from tests.fakes import ANSWER, TREE_16, RacingEngine, replay

GREEDY = Settings(temperature=0.0)
PARAMS = GREEDY.sampling()
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
                yield Raced(Lane.SECOND, Notice(NoticeKind.PRECISION, NOTICE), 0.0)
                self.go_on.wait(20)


@pytest.mark.parametrize("size", [(160, 50), (100, 30), (80, 24), (60, 20)])
async def test_a_notice_is_read_whole_while_a_race_runs(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.screens.chat.redraw.SHARE", 1e6)
    engine = NoticingEngine()
    async with driving(engine, GREEDY, size=size) as chat:
        await chat.type("Why is the sky blue?", "f3")
        await chat.until(lambda: NOTICE in " ".join(chat.screen_text().split()))
        engine.go_on.set()
        await chat.until(lambda: chat.session.race is not None and chat.session.race.ended)


class RaceRecorder(Recorder):
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
        assert all(lane.text == ANSWER for lane in shown(chat).query(LaneText))
        assert "2 threads" in text
        assert "each clock counts only its own work" in text
        assert "equal, token for token" in text
        assert "while both ran" in text
        assert "faster than plain" in text
        assert engine.asked == [Race(PLAIN_AND_CHOSEN, (), "Why is the sky blue?", PARAMS)]
        await chat.pilot.press("escape")
        assert chat.app.screen is chat.app.chat
        assert chat.prompt.text == "Why is the sky blue?"
        note = chat.transcript.replace("\n▌ ", " ")
        assert "Race, sequoia tree, 16 nodes, depth 4 against plain decoding" in note
        assert chat.session.answer is None


async def test_with_an_empty_prompt_the_last_message_is_raced_in_its_place() -> None:
    engine = RacingEngine()
    recorder = RaceRecorder()
    async with driving(engine, GREEDY, recorder=recorder) as chat:
        await chat.ask("first?")
        await chat.ask("second?")
        await chat.pilot.press("f3")
        await over(chat)
        await chat.pilot.press("escape")
        (race,) = engine.asked
        assert race.prompt == "second?"
        assert [turn.prompt for turn in race.turns] == ["first?"]
        await chat.type("/race third?", "enter")
        await over(chat)
        race = engine.asked[1]
        assert race.prompt == "third?"
        assert [turn.prompt for turn in race.turns] == ["first?", "second?"]
        (exchange, result), (none, _) = recorder.races
        assert exchange == recorder.begun[1].id
        assert none is None
        assert result.agreement is Agreement.EQUAL
        assert result.first.text == result.second.text


async def test_a_message_that_is_edited_is_raced_where_it_stands() -> None:
    engine = RacingEngine()
    async with driving(engine, GREEDY) as chat:
        for prompt in ("first?", "second?", "third?"):
            await chat.ask(prompt)
        await chat.pilot.press("ctrl+e", "up", "x", "f3")
        await over(chat)
        (race,) = engine.asked
        assert race.prompt == "second?x"
        assert [turn.prompt for turn in race.turns] == ["first?"]


async def test_where_the_texts_part_is_shown_in_both() -> None:
    async with driving(RacingEngine(OTHER, exact=False), GREEDY) as chat:
        await chat.type("why?", "f3")
        await over(chat)
        text = chat.screen_text()
        assert "differ after" in text
        assert "near-tie" in text
        assert '"Daylight"' in text
        assert '"Sunlight"' in text
        for lane in shown(chat).query(LaneText):
            assert lane.text[lane.own_from :].partition(" ")[0] in ("Sunlight", "Daylight")


async def test_of_a_text_that_grew_only_its_lines_are_kept() -> None:
    async with driving(RacingEngine(), GREEDY) as chat:
        await chat.type("why?", "f3")
        await over(chat)
        lane = shown(chat).query(LaneText).first()
        parts = [LanePart(f"line {at}\n" if at % 9 == 8 else "word ", 1) for at in range(90)]
        for end in range(1, len(parts) + 1):
            lane.show(parts[:end], None, tinted=True)
        whole = [strip.text.rstrip() for strip in lane._lines]
        assert whole == [f"{'word ' * 8}line {at}" for at in range(8, 90, 9)] + [""]
        assert len(lane._wrapped) <= len(whole)


async def test_two_trees_race_and_each_lane_says_which_it_is() -> None:
    engine, recorder = RacingEngine(), RaceRecorder()
    async with driving(engine, GREEDY, recorder=recorder) as chat:
        await chat.type("/race smollm2-135m/greedy-24x4 vs specinfer: why, a vs b?", "enter")
        await over(chat)
        (race,) = engine.asked
        assert race.prompt == "why, a vs b?"
        assert [side.label for side in race.sides] == ["greedy-24x4", "specinfer"]
        text = chat.screen_text()
        assert "greedy-24x4: sequoia tree" in text
        assert "specinfer tree" in text
        assert "neither is plain decoding" in text
        assert "equal, token for token" in text
        assert text.count("tokens per pass") == 2
        ((_, result),) = recorder.races
        assert (result.first.plain, result.second.plain) == (False, False)
        await chat.pilot.press("f3")
        await over(chat)
        assert engine.asked == [race, race]
        await chat.pilot.press("escape")
        assert "Race, greedy-24x4: sequoia tree" in chat.transcript
        await chat.type("/race greedy-24x4 vs adaptive", "enter")
        assert "did you mean smollm2-135m/greedy-24x4" in " ".join(chat.hint.split())
        assert chat.prompt.text == "/race greedy-24x4 vs adaptive"
        await chat.pilot.press("f3")  # a command is no prompt
        assert chat.app.screen is chat.app.chat
        assert "nothing to race" in chat.hint


class LoadingEngine(NoticingEngine):
    """Loads a draft before the race, and waits there."""

    def race(self, race: Race, *more: Any) -> Iterator[RaceEvent]:
        more[-1]("Loading mine", 0.5)
        self.go_on.wait(20)
        yield from RacingEngine.race(self, race, *more)


async def test_a_draft_is_loaded_for_the_race_that_names_it() -> None:
    engine = LoadingEngine()
    async with driving(engine, GREEDY) as chat:
        await chat.type("/race draft current vs owner/mine: why?", "enter")
        await chat.until(lambda: "Loading mine 50%" in chat.screen_text())
        engine.go_on.set()
        await over(chat)
        assert [side.draft for side in engine.asked[0].sides] == [None, "owner/mine"]
        text = chat.screen_text()
        assert "Loading mine" not in text
        assert "current: sequoia tree" in text
        assert "mine: sequoia tree" in text


async def test_f3_takes_names_of_sides_as_a_prompt() -> None:
    engine = RacingEngine()
    async with driving(engine, GREEDY) as chat:
        await chat.type("greedy vs specinfer", "f3")
        await over(chat)
        assert engine.asked == [Race(PLAIN_AND_CHOSEN, (), "greedy vs specinfer", PARAMS)]


async def test_f6_takes_the_tints_away_and_brings_them_back() -> None:
    def colors(chat: Driver) -> set[object]:
        strips = [line for lane in shown(chat).query(LaneText) for line in lane._lines]
        return {
            seg.style.color for line in strips for seg in line if seg.text.strip() and seg.style
        }

    async with driving(RacingEngine(), GREEDY) as chat:
        await chat.type("why?", "f3")
        await over(chat)
        assert "Written by: target" in chat.screen_text()
        assert len(colors(chat)) == 3  # by the target, the first and the second guess
        await chat.pilot.press("f6")
        assert "Written by" not in chat.screen_text()
        assert len(colors(chat)) == 1
        await chat.pilot.press("f6")
        assert len(colors(chat)) == 3


async def test_above_temperature_0_nothing_is_compared() -> None:
    async with driving(RacingEngine(OTHER)) as chat:
        await chat.type("why?", "f3")
        await over(chat)
        assert "draws its own text" in chat.screen_text()
        assert all(lane.own_from is None for lane in shown(chat).query(LaneText))


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
        await chat.until(lambda: run.first.tokens == 1)
        await chat.pilot.press("escape")
        await over(chat)
        assert shown(chat) is not None
        assert "as far as both got" in chat.screen_text()
        await chat.pilot.press("escape")
        assert chat.app.screen is chat.app.chat
        await chat.pilot.press("backspace")
        await chat.ask("and now?")
        assert "Rayleigh" in chat.transcript


async def test_f3_races_again() -> None:
    engine = RacingEngine()
    async with driving(engine, GREEDY) as chat:
        await chat.type("why?", "f3")
        await over(chat)
        await chat.pilot.press("f3")
        await over(chat)
        assert len(engine.asked) == 2
        assert engine.asked[0] == engine.asked[1]


async def test_what_is_typed_when_a_race_is_over_goes_to_the_prompt() -> None:
    engine = RacingEngine()
    async with driving(engine, GREEDY) as chat:
        await chat.type("/race why?", "enter")
        await over(chat)
        await chat.pilot.press(*"rewrite", "space", *"it?")
        assert chat.app.screen is chat.app.chat
        assert chat.prompt.text == "rewrite it?"
        assert len(engine.asked) == 1
        await chat.pilot.press("enter")
        await chat.finish()
        assert chat.session.last is not None
        assert chat.session.last.prompt == "rewrite it?"
        await chat.type("/race why?", "enter")
        await over(chat)
        for character in "is it?":  # all before the first has closed the screen
            key = {" ": "space", "?": "question_mark"}.get(character, character)
            chat.app.screen.post_message(Key(key, character))
        await chat.until(lambda: chat.prompt.text == "is it?")
        chat.prompt.text = ""
        await chat.type("/race why?", "enter")
        await over(chat)
        chat.app.screen.post_message(Paste("a paste"))
        await chat.until(lambda: chat.prompt.text == "a paste")
        assert chat.app.screen is chat.app.chat


@pytest.mark.parametrize("size", [(160, 50), (60, 20)])
async def test_who_types_while_a_race_runs_is_told_to_stop_it_first(size: tuple[int, int]) -> None:
    engine = NoticingEngine()
    said = "Press esc to stop the race first, then type"
    async with driving(engine, GREEDY, size=size) as chat:
        await chat.type("/race why?", "enter")
        await chat.until(lambda: isinstance(chat.app.screen, RaceScreen))
        assert said not in chat.screen_text()
        await chat.pilot.press("a")
        await chat.until(lambda: said in chat.screen_text())
        engine.go_on.set()
        await over(chat)
        assert said not in chat.screen_text()
        assert chat.prompt.text == ""


@pytest.mark.parametrize("size", [(160, 50), (100, 30), (60, 20)])
async def test_the_name_of_a_lane_is_cut_between_its_parts(
    size: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = replace(TREE_16, reason=f"{SHOWN[0]}, to look at it")
    monkeypatch.setattr("tests.fakes.TREE_16", tree)
    parts = ["sequoia tree", "16 nodes", "depth 4", SHOWN[0]]
    shown = ", ".join(parts[: {160: 4, 100: 3, 60: 2}[size[0]]])
    async with driving(RacingEngine(), GREEDY, size=size) as chat:
        await chat.type("why?", "f3")
        await over(chat)
        assert f"─ {shown} ─" in chat.screen_text()


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
    [(asked_nothing, "nothing to race"), (asked_while_answering, "stop the answer first")],
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


@pytest.mark.parametrize("size", [(160, 50), (100, 30), (80, 24), (60, 20)])
async def test_a_race_has_the_help_and_explains_what_is_on_show(size: tuple[int, int]) -> None:
    engine = NoticingEngine()
    async with driving(engine, GREEDY, size=size) as chat:
        await chat.type("why?", "f3")
        await chat.until(lambda: isinstance(chat.app.screen, RaceScreen))
        await chat.pilot.press("f1")
        await chat.until(lambda: isinstance(chat.app.screen, HelpScreen))
        await chat.pilot.pause()
        words = str(chat.app.screen.query_one(Static).content)
        assert "race again, when it is over" in " ".join(words.split())
        assert "take turns" in " ".join(words.split())
        assert "race." not in words.replace("the race. ", "")
        await chat.pilot.press("f1")
        engine.go_on.set()
        await over(chat)
        await chat.pilot.press("question_mark")
        await chat.until(lambda: isinstance(chat.app.screen, ExplainScreen))
        await chat.pilot.pause()
        words = " ".join(str(chat.app.screen.query_one(Static).content).split())
        for part in ("The two take turns", "Tokens that each pass of the target", "Keys that work"):
            assert part in words
        assert ("this lane against that of plain" in words) == (size[0] > 60)  # where it is shown
        assert "chat." not in words
        scrolls = ["down"] * (size[0] < 160)  # where all is seen, any key closes
        await chat.pilot.press(*scrolls, "x")
        await chat.until(lambda: isinstance(chat.app.screen, RaceScreen))
