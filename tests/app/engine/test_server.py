"""Windows share one engine process: turns are fair, holding holds nobody else, nothing is lost."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.engine.messages import (
    Ask,
    Clear,
    Done,
    Go,
    Held,
    LoadFailed,
    Loading,
    Ready,
    Refused,
    Restore,
    Stop,
    Tune,
)
from app.engine.server import WAITING
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import Lane, Race, RaceEvent, RaceSide, RaceTerms, take_turns
from sequoia_core.config import SamplingParams
from sequoia_core.errors import ModelLoadError, ParameterError, SequoiaError
from sequoia_core.events import (
    Event,
    Finished,
    FinishReason,
    Notice,
    NoticeKind,
    Progress,
    Step,
    TextDelta,
)
from sequoia_core.text.chat_template import Turn
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.app.serving import Played, loads, making, remote, running, served
from tests.fakes import PAIR, BrokenEngine, make_answer, replay
from tests.replay_engine import ReplayEngine, Trace

PARAMS = SamplingParams()
ASK = Ask("why?", PARAMS)
STEPS = sum(isinstance(event, Step) for event in make_answer())


def never() -> bool:
    return False


class Counting(ReplayEngine):
    """The standard answer; counts its steps and tells of them."""

    def __init__(self, tell: Callable[["Counting"], None] = lambda engine: None) -> None:
        super().__init__(Trace(PAIR, make_answer()), self._count)
        self._tell = tell
        self.steps = 0
        self.restored: Sequence[Turn] = ()
        self.system: str | None = ""
        self.cleared = 0

    def _count(self, event: Event) -> None:
        if isinstance(event, Step):
            self.steps += 1
            self._tell(self)

    def restore(self, turns: Sequence[Turn]) -> None:
        self.restored = turns

    def set_system_prompt(self, system_prompt: str | None) -> None:
        self.system = system_prompt

    def clear(self) -> None:
        self.cleared += 1


class Measuring(Counting):
    """Measures in slices, so many in all."""

    def __init__(self, slices: int, measured: list[ChatEngine]) -> None:
        super().__init__()
        self.left = slices
        self._measured = measured

    def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        while self.left:
            if should_stop():
                return
            self.left -= 1
            self._measured.append(self)
        yield Notice(NoticeKind.CALIBRATION, "measured")


# A window sees what a chat on its own engine would


def test_a_remote_engine_says_what_the_engine_says() -> None:
    with running(making(replay)) as server, remote(server) as engine:
        assert engine.description == PAIR
        for _ in range(2):
            assert tuple(engine.reply("why?", PARAMS, never)) == make_answer()


def test_every_request_arrives() -> None:
    behind = Counting()
    turns = (Turn("a", "b", (1, 2)), Turn("c", ""))
    choice = TreeChoice(growmap=GrowMap((-1, 0, 0, 1)))
    with running(loads(behind)) as server, remote(server) as engine:
        engine.restore(turns)
        engine.set_system_prompt("be brief")
        engine.choose_tree(choice)
        engine.clear()
        assert tuple(engine.tune(never)) == ()
    assert (behind.restored, behind.system, behind.cleared) == (turns, "be brief", 1)
    assert behind.tree_choice == engine.tree_choice == choice


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ParameterError("the message is empty"), "the message is empty"),
        (RuntimeError("two\nlines"), "unexpected RuntimeError: two lines"),
    ],
)
def test_an_error_is_the_windows_own_and_the_next_answer_comes(
    error: Exception, message: str
) -> None:
    server = running(loads(BrokenEngine(error), replay()))
    with server as at, remote(at) as broken, remote(at) as other:
        for _ in range(2):
            with pytest.raises(SequoiaError, match=f"^{message}$"):
                list(broken.reply("why?", PARAMS, never))
        assert tuple(other.reply("why?", PARAMS, never)) == make_answer()


class Racing(Counting):
    """Races the standard answer against itself; remembers what it was asked and what it told."""

    asked: Race | None = None
    told: tuple[RaceEvent, ...] = ()

    def race(
        self, race: Race, should_stop: Callable[[], bool], progress: Progress
    ) -> Iterator[RaceEvent]:
        self.asked = race
        lanes = {lane: self.reply(race.prompt, race.params, should_stop) for lane in Lane}
        self.told = (RaceTerms(0.0, 2, exact=True), *take_turns(lanes))
        yield from self.told


def test_a_race_is_held_after_each_step_of_either_lane() -> None:
    wide = RaceSide("wide", TreeChoice(growmap=GrowMap.k_ary([2, 2])))
    race = Race((wide, RaceSide("chosen")), (Turn("a", "b", (1, 2)),), "why?", PARAMS)
    with served(loads(Racing())) as at:
        window = at.window()
        window.link.send(race)
        finish(window)
        assert window.heard.count(Held()) == 2 * STEPS
    behind = Racing()
    with running(loads(behind)) as server, remote(server) as engine:
        heard = list(engine.race(race, never, lambda *_: None))
        assert tuple(heard) == behind.told
        assert behind.asked == race
        drafts = Race((wide, RaceSide("other", draft="other")), (), "why?", PARAMS)
        with pytest.raises(SequoiaError, match="windows share their models"):
            list(engine.race(drafts, never, lambda *_: None))


def test_stopping_ends_the_answer_after_its_step() -> None:
    with running(making(replay)) as server, remote(server) as engine:
        seen: list[Event] = []
        for event in engine.reply("why?", PARAMS, lambda: len(seen) >= 6):
            seen.append(event)
        assert isinstance(seen[-1], Finished)
        assert seen[-1].reason is FinishReason.CANCELLED
        assert tuple(seen[:-1]) == make_answer()[: len(seen) - 1]
        assert tuple(engine.reply("again?", PARAMS, never)) == make_answer()


@pytest.mark.parametrize("taken", [1, 4, 5])
def test_an_answer_that_is_left_is_over_on_both_sides(taken: int) -> None:
    with running(making(replay)) as server, remote(server) as engine:
        answer = engine.reply("why?", PARAMS, never)
        for _ in range(taken):
            next(answer)
        answer.close()  # type: ignore[attr-defined]
        assert tuple(engine.reply("again?", PARAMS, never)) == make_answer()


def test_a_server_that_is_gone_is_one_clear_error() -> None:
    with running(making(replay)) as server:
        with remote(server) as engine:
            answer = engine.reply("why?", PARAMS, never)
            next(answer)
            server.served.end()
            with pytest.raises(SequoiaError, match="engine process has ended"):
                list(answer)
            with pytest.raises(SequoiaError, match="engine process has ended"):
                engine.clear()
        with pytest.raises(ModelLoadError, match="engine process"), remote(server):
            pass


# Turns


@settings(deadline=None, max_examples=40)
@given(data=st.data(), windows=st.integers(2, 5))
def test_who_wants_a_turn_is_passed_over_at_most_once_by_each_other(
    data: st.DataObject, windows: int
) -> None:
    order: list[Counting] = []
    engines = [Counting(order.append) for _ in range(windows)]
    with served(loads(*engines)) as at:
        played = [at.window() for _ in engines]
        for window in played:
            window.link.send(ASK)
            window.until(Held)
        order.clear()
        wanting: set[int] = set()
        passed: Counter[int] = Counter()
        for _ in range(25):
            more = data.draw(st.sets(st.integers(0, windows - 1)))
            for index in (more or ({0} if not wanting else set())) - wanting:
                played[index].link.send(Go())
                wanting.add(index)
            at.server.take_turn()
            (served_one,) = (engines.index(engine) for engine in order)
            order.clear()
            assert served_one in wanting
            wanting.discard(served_one)
            passed[served_one] = 0
            for index in wanting:
                passed[index] += 1
                assert passed[index] < windows
            played[served_one].hear()


def test_nothing_is_decoded_ahead_of_a_reader_who_holds() -> None:
    paused, other = Counting(), Counting()
    with served(loads(paused, other)) as at:
        holding, running_on = at.window(), at.window()
        holding.link.send(ASK)
        holding.until(Held)
        holding.link.send(Go())
        holding.until(Held)
        running_on.link.send(ASK)
        finish(running_on)
        assert (paused.steps, other.steps) == (2, STEPS)
        finish(holding, first=Go())
        assert told(holding.heard) == list(make_answer())


def finish(window: Played, first: Go | None = None) -> None:
    """Read on to the end of the answer."""
    if first is not None:
        window.link.send(first)
    while isinstance(window.until(Held, Done), Held):
        window.link.send(Go())


def told(heard: Sequence[Any]) -> list[Event]:
    """The events of an answer without what says that somebody waits."""
    return [each for each in heard if not isinstance(each, Ready | Held | Done) and each != WAITING]


def test_a_window_is_told_once_that_it_waits_for_another() -> None:
    with served(making(Counting)) as at:
        first, second = at.window(), at.window()
        first.link.send(ASK)
        first.until(Held)
        second.link.send(ASK)
        second.until(Held)
        assert WAITING not in first.heard + second.heard  # nobody has waited yet
        for _ in range(3):
            for window in (first, second):
                window.link.send(Go())
                window.until(Held)
        assert [window.heard.count(WAITING) for window in (first, second)] == [1, 1]
        # an answer that is held keeps nobody waiting
        finish(second, Go())
        second.heard.clear()
        second.link.send(ASK)
        finish(second)
        assert WAITING not in second.heard


def test_a_window_that_goes_away_ends_its_answer_and_nobody_elses() -> None:
    ended: list[str] = []

    class Ending(Counting):
        def reply(
            self, prompt: str, params: SamplingParams, should_stop: Callable[[], bool]
        ) -> Iterator[Event]:
            try:
                yield from super().reply(prompt, params, should_stop)
            finally:
                ended.append(prompt)

    with served(making(Ending)) as at:
        going, staying = at.window(), at.window()
        going.link.send(Ask("mine", PARAMS))
        going.until(Held)
        staying.link.send(ASK)
        staying.until(Held)
        going.link.close()
        finish(staying, Go())
        assert ended == ["mine", "why?"]
        assert told(staying.heard) == list(make_answer())


def test_a_window_that_reads_nothing_makes_nobody_wait() -> None:
    # far more than what lies in a socket unread
    long = TextDelta(1, "x" * 4_000_000, ())
    with served(loads(ReplayEngine(Trace(PAIR, (long, *make_answer()))), Counting())) as at:
        slow, quick = at.window(), at.window()
        slow.link.send(ASK)
        quick.link.send(ASK)
        finish(quick)
        finish(slow)
        assert told(slow.heard) == [long, *make_answer()]


def test_what_no_window_says_ends_that_window_only() -> None:
    with served(making(Counting)) as at:
        odd, other = at.window(), at.window()
        odd.link.send(Done())
        other.link.send(ASK)
        finish(other)
        with pytest.raises(SequoiaError):
            odd.until(Held)


# Measuring


def test_measuring_is_for_when_nobody_wants_a_turn_and_is_taken_up_again() -> None:
    measured: list[ChatEngine] = []
    first, second = Measuring(2, measured), Measuring(2, measured)
    with served(loads(first, second)) as at:
        one, two = at.window(), at.window()
        two.link.send(ASK)
        two.until(Held)
        one.link.send(Tune(), Go())
        two.link.send(Go())
        two.until(Held)
        assert measured == []  # an answer is under way, though its reader holds it
        finish(two, Go())
        two.link.send(Tune())
        two.until(Done)
        assert measured == [first, first, second, second]
        one.hear()
        for window in (one, two):
            assert Notice(NoticeKind.CALIBRATION, "measured") in window.heard
            assert isinstance(window.heard[-1], Done)


def test_a_request_interrupts_the_measuring_of_another_window() -> None:
    measured: list[ChatEngine] = []

    class Asking(Measuring):
        """When it is first measured, the other window asks."""

        asked = False

        def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
            if not self.asked:
                self.asked = True
                two.link.send(Clear())
            yield from super().tune(should_stop)

    first, second = Asking(2, measured), Measuring(0, measured)
    with served(loads(first, second)) as at:
        one, two = at.window(), at.window()
        one.link.send(Tune())
        two.until(Done)
        assert measured == []
        assert second.cleared == 1
        one.until(Done)
        assert measured == [first, first]


def test_measuring_ends_when_its_window_wants_something_else() -> None:
    measured: list[ChatEngine] = []
    with served(loads(Measuring(5, measured), Counting())) as at:
        one, other = at.window(), at.window()
        other.link.send(ASK)
        other.until(Held)
        one.link.send(Tune(), Stop())
        one.until(Done)
        one.link.send(ASK)
        finish(one)
        assert measured == []
        assert told(one.heard) == list(make_answer())


# Loading and ending


def test_windows_are_told_how_loading_goes() -> None:
    said: list[Loading] = []

    def load(progress: Progress) -> Callable[[], ChatEngine]:
        progress("weights", 0.25)  # the window that has connected hears of it from the next on
        progress("weights", 0.5)
        return replay

    with served(making(replay)) as at:
        early = Played(at)
        at.server.load(load)
        early.until(Ready)
        said = [message for message in early.heard if isinstance(message, Loading)]
        early.link.close()
        assert said[-1] == Loading("weights", 0.5)
        assert at.reports[-3:] == [Loading("weights", 0.25), Loading("weights", 0.5), Done()]


def test_models_that_do_not_load_are_told_to_windows_and_parent() -> None:
    with served(making(replay)) as at:
        early = Played(at)

        def load(progress: Progress) -> Callable[[], ChatEngine]:
            progress("weights", None)
            raise ModelLoadError("no such model: a/b")

        with pytest.raises(ModelLoadError):
            at.server.load(load)
        early.hear()
        assert early.heard[-1] == LoadFailed("no such model: a/b")
        assert at.reports[-1] == LoadFailed("no such model: a/b")
        early.link.close()


def test_a_conversation_that_cannot_begin_is_told_to_its_window() -> None:
    def fail() -> ChatEngine:
        raise ModelLoadError("the growmap has gone")

    server = running(making(fail))
    told_why = pytest.raises(ModelLoadError, match="the growmap has gone")
    with server as at, told_why, remote(at):
        pass


def test_quitting_while_loading_ends_the_loading() -> None:
    def load(progress: Progress) -> Callable[[], ChatEngine]:
        while True:
            progress("weights", None)

    with running(load):
        pass


def test_it_ends_with_its_parent_in_the_middle_of_an_answer() -> None:
    with running(making(replay)) as server, remote(server) as engine:
        next(engine.reply("why?", PARAMS, never))


def test_a_request_restores_exactly_the_turns(  # also those without ids
) -> None:
    engine = Counting()
    with served(loads(engine)) as at:
        window = at.window()
        window.link.send(Restore((Turn("a", "b"),)))
        window.until(Done)
        assert engine.restored == (Turn("a", "b", ()),)
        window.link.send(Ask(" ", PARAMS))
        assert isinstance(window.until(Done, Refused), Refused)
