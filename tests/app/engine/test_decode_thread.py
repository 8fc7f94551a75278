"""The decode thread by itself: order, pausing, cancelling, failing and ending."""

import threading
import weakref
from collections.abc import Callable, Iterator, Sequence

import msgspec
import pytest

from app.engine.decode_thread import NO_MODEL, DecodeThread
from app.engine.messages import (
    Answering,
    Ask,
    ChooseTree,
    Clear,
    LoadFailed,
    Loading,
    RaceEnded,
    Ready,
    Refused,
    Report,
    Restore,
    SetSystem,
    Start,
    Switch,
    SwitchFailed,
    SystemRefused,
    Unreached,
)
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import PLAIN_AND_CHOSEN, Race, RaceEvent
from sequoia_core.config import Mode, SamplingParams
from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    Notice,
    NoticeKind,
    PairDescription,
    Progress,
    Step,
)
from sequoia_core.text.chat_template import Turn
from sequoia_core.tree.choice import TreeChoice
from tests.fakes import PAIR, BrokenEngine, make_answer, replay
from tests.replay_engine import ReplayEngine, Trace

ASK = Ask("why?", SamplingParams())


class Driven:
    """A decoder and everything it has reported, waited for instead of slept for."""

    def __init__(self, engine: ChatEngine) -> None:
        self.engine = engine
        self.decoder = DecodeThread(lambda progress: engine)
        self.reports: list[Report] = []

    def wait(self, done: Callable[[list[Report]], bool]) -> None:
        pause = threading.Event()
        for _ in range(1000):
            self.reports += self.decoder.drain()
            if done(self.reports):
                return
            pause.wait(0.005)
        raise AssertionError(f"never happened; the last of it: {self.reports[-3:]}")

    def wait_answers(self, count: int = 1) -> None:
        self.wait(
            lambda _: sum(isinstance(event, Finished | Failed) for event in self.events) == count
        )

    def wait_steps(self, count: int) -> None:
        self.wait(lambda _: self.steps >= count)

    @property
    def events(self) -> list[Event]:
        return [report.event for report in self.reports if isinstance(report, Answering)]

    @property
    def steps(self) -> int:
        return sum(isinstance(event, Step) for event in self.events)


@pytest.fixture
def drive() -> Iterator[Callable[[ChatEngine], Driven]]:
    driven: list[Driven] = []

    def start(engine: ChatEngine) -> Driven:
        driven.append(Driven(engine))
        driven[-1].decoder.start()
        return driven[-1]

    yield start
    assert all(each.decoder.shutdown(5) for each in driven)


Drive = Callable[[ChatEngine], Driven]


def test_every_event_arrives_in_order(drive: Drive) -> None:
    driven = drive(replay())
    driven.decoder.submit(ASK)
    driven.decoder.submit(ASK)
    driven.wait_answers(2)
    assert driven.reports[0] == Ready(PAIR)
    assert tuple(driven.events) == make_answer() * 2


def test_each_event_is_passed_on_in_the_thread_whoever_drains(drive: Drive) -> None:
    seen: list[tuple[str, Event]] = []
    driven = drive(replay())
    driven.decoder.submit(ASK, lambda event: seen.append((threading.current_thread().name, event)))
    driven.wait_answers()
    assert seen == [("sequoia-decoder", event) for event in make_answer()]


def test_loading_is_reported_and_runs_in_the_thread() -> None:
    where: list[str] = []

    def factory(progress: Progress) -> ChatEngine:
        where.append(threading.current_thread().name)
        progress("weights", 0.5)
        return replay()

    decoder = DecodeThread(factory)
    driven = Driven(replay())
    driven.decoder = decoder
    decoder.start()
    driven.wait(lambda reports: Ready(PAIR) in reports)
    assert driven.reports == [Loading("weights", 0.5), Ready(PAIR)]
    assert where == ["sequoia-decoder"]
    assert decoder.shutdown(5)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ModelLoadError("no such model: a/b"), "no such model: a/b"),
        (RuntimeError("two\nlines"), "unexpected RuntimeError: two lines"),
    ],
)
def test_a_failed_load_is_one_line_and_ends_the_thread(error: Exception, message: str) -> None:
    def factory(progress: Progress) -> ChatEngine:
        raise error

    driven = Driven(replay())
    driven.decoder = DecodeThread(factory)
    driven.decoder.start()
    driven.wait(lambda reports: reports == [LoadFailed(message)])
    assert driven.decoder.shutdown(5)


def test_quitting_while_loading_ends_at_the_next_progress() -> None:
    loading, go_on = threading.Event(), threading.Event()

    def factory(progress: Progress) -> ChatEngine:
        loading.set()
        go_on.wait(5)
        progress("more", None)
        raise AssertionError("loading went on")

    decoder = DecodeThread(factory)
    decoder.start()
    assert loading.wait(5)
    assert not decoder.shutdown(0.01)
    go_on.set()
    assert decoder.shutdown(5)


def test_a_decoder_that_was_never_started_shuts_down() -> None:
    assert DecodeThread(lambda progress: replay()).shutdown(1)


def test_paused_decoding_runs_exactly_one_step_per_permit(drive: Drive) -> None:
    driven = drive(replay())
    driven.decoder.toggle_pause()
    driven.decoder.submit(ASK)
    driven.wait_steps(1)
    for count in range(2, 7):
        driven.decoder.single_step()
        driven.wait_steps(count)
        assert driven.steps == count
    driven.decoder.toggle_pause()
    driven.wait_answers()
    assert tuple(driven.events) == make_answer()


def test_permits_while_running_do_not_pile_up(drive: Drive) -> None:
    driven = drive(replay())
    for _ in range(20):
        driven.decoder.single_step()
    driven.decoder.toggle_pause()
    driven.decoder.submit(ASK)
    driven.wait_steps(1)
    threading.Event().wait(0.05)
    driven.wait_steps(1)
    assert driven.steps == 1


@pytest.mark.parametrize("paused", [True, False])
def test_cancel_ends_after_a_whole_step_even_while_paused(drive: Drive, paused: bool) -> None:
    at_third, cancelled = threading.Event(), threading.Event()

    def before(event: Event) -> None:
        if isinstance(event, Step) and event.index == 3:
            at_third.set()
            cancelled.wait(5)

    driven = drive(replay(before=before))
    driven.decoder.submit(ASK)
    assert at_third.wait(5)
    if paused:
        driven.decoder.toggle_pause()
    driven.decoder.cancel()
    cancelled.set()
    driven.wait_answers()
    last = driven.events[-1]
    assert isinstance(last, Finished)
    assert last.reason is FinishReason.CANCELLED
    assert driven.steps == 3
    assert not driven.decoder.paused


def test_a_cancel_does_not_reach_the_next_answer(drive: Drive) -> None:
    driven = drive(replay())
    driven.decoder.cancel()
    driven.decoder.submit(ASK)
    driven.wait_answers()
    assert tuple(driven.events) == make_answer()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ParameterError("the prompt is blank"), "the prompt is blank"),
        (ZeroDivisionError("division by zero"), "unexpected ZeroDivisionError: division by zero"),
    ],
)
def test_an_error_ends_the_answer_and_not_the_thread(
    drive: Drive, error: Exception, message: str
) -> None:
    driven = drive(BrokenEngine(error))
    for count in (1, 2):
        driven.decoder.submit(ASK)
        driven.wait_answers(count)
        assert driven.events[-1] == Failed(message)
    assert driven.decoder.alive


def test_an_engine_that_just_stops_is_reported(drive: Drive) -> None:
    class Silent(ReplayEngine):
        def reply(
            self, prompt: str, params: SamplingParams, should_stop: Callable[[], bool]
        ) -> Iterator[Event]:
            return iter(make_answer()[:3])

    driven = drive(Silent(Trace(PAIR, make_answer())))
    driven.decoder.submit(ASK)
    driven.wait_answers()
    assert isinstance(driven.events[-1], Failed)


def test_other_requests_reach_the_engine_in_order(drive: Drive) -> None:
    calls: list[object] = []

    class Noting(ReplayEngine):
        def choose_tree(self, choice: TreeChoice) -> None:
            calls.append(choice)

        def clear(self) -> None:
            calls.append("clear")

        def restore(self, turns: Sequence[Turn]) -> None:
            calls.append(turns)

        def set_system_prompt(self, system_prompt: str | None) -> None:
            calls.append(system_prompt)
            raise ParameterError("too long")

    driven = drive(Noting(Trace(PAIR, make_answer())))
    choice = TreeChoice(Mode.CHAIN)
    turns = (Turn("a", "b", (1, 2)),)
    for request in (ChooseTree(choice), Clear(), Restore(turns), SetSystem("be brief", "hi")):
        driven.decoder.submit(request)
    driven.wait(lambda reports: SystemRefused("too long", "be brief", "hi") in reports)
    # without its system prompt, the new chat begins all the same
    assert calls == [choice, "clear", turns, "be brief", "clear"]


class Stubborn(ReplayEngine):
    """Refuses to go to any turns as long as `refuses` is set."""

    def __init__(self) -> None:
        super().__init__(Trace(PAIR, make_answer()))
        self.refuses = True

    def restore(self, turns: Sequence[Turn]) -> None:
        if self.refuses:
            raise ParameterError("too long")

    def clear(self) -> None:
        if self.refuses:
            raise RuntimeError("gone")

    def set_system_prompt(self, system_prompt: str | None) -> None:
        pass


def test_refused_again_the_system_prompt_is_still_the_one_before_both(drive: Drive) -> None:
    class Fussy(ReplayEngine):
        def set_system_prompt(self, system_prompt: str | None) -> None:
            if system_prompt != "fine":
                raise ParameterError("too long")

    driven = drive(Fussy(Trace(PAIR, make_answer())))
    for wanted, before in (("x", "hi"), ("y", "x"), ("fine", "y"), ("z", "fine")):
        driven.decoder.submit(SetSystem(wanted, before))
    driven.wait(lambda reports: SystemRefused("too long", "z", "fine") in reports)
    refused = [report for report in driven.reports if isinstance(report, SystemRefused)]
    assert [report.system_prompt for report in refused] == ["hi", "hi", "fine"]


def test_a_branch_that_was_refused_is_past_once_there_is_something_else(drive: Drive) -> None:
    driven = drive(Stubborn())
    driven.decoder.submit(Restore((Turn("a", "b", ()),)))
    driven.decoder.submit(SetSystem("be brief"))
    driven.decoder.submit(ASK)
    driven.wait_answers()
    assert tuple(driven.events) == make_answer()


@pytest.mark.parametrize("request_", [Restore((Turn("a", "b", ()),)), Clear()])
def test_nothing_is_answered_after_turns_that_nobody_chose(drive: Drive, request_: Start) -> None:
    engine = Stubborn()
    driven = drive(engine)
    reason = "too long" if isinstance(request_, Restore) else "unexpected RuntimeError: gone"
    line = f"the model could not be taken to this branch: {reason}"
    driven.decoder.submit(request_)
    driven.wait(lambda reports: Unreached(line) in reports)
    driven.decoder.submit(ChooseTree(TreeChoice(Mode.CHAIN)))
    driven.decoder.submit(ASK)
    driven.wait_answers()
    (failed,) = driven.events
    assert failed == Failed(f"not answered: {line}; ask again to try once more")
    assert driven.reports.count(Unreached(line)) == 1
    engine.refuses = False
    driven.decoder.submit(ASK)
    driven.wait_answers(2)
    assert tuple(driven.events[1:]) == make_answer()


class Tuner(ReplayEngine):
    """Has endless measuring to do, and yields to whoever asks."""

    def __init__(self, error: Exception | None = None) -> None:
        super().__init__(Trace(PAIR, make_answer()))
        self.rounds = 0
        self.error = error

    def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        self.rounds += 1
        if self.error:
            raise self.error
        yield Notice(NoticeKind.CALIBRATION, "measured")
        pause = threading.Event()
        while not should_stop():
            pause.wait(0.001)


def test_idle_time_is_for_tuning_and_a_request_ends_it(drive: Drive) -> None:
    engine = Tuner()
    driven = drive(engine)
    notice = Notice(NoticeKind.CALIBRATION, "measured")
    driven.wait(lambda reports: notice in reports)
    driven.decoder.submit(ASK)
    driven.wait_answers()
    driven.wait(lambda reports: reports.count(notice) == 2)
    assert tuple(driven.events) == make_answer()


def test_failed_tuning_is_reported_once_and_answers_go_on(drive: Drive) -> None:
    engine = Tuner(RuntimeError("no clock"))
    driven = drive(engine)
    driven.decoder.submit(ASK)
    driven.wait_answers()
    assert tuple(driven.events) == make_answer()
    assert [r for r in driven.reports if isinstance(r, Refused)] == [
        Refused("unexpected RuntimeError: no clock")
    ]
    assert engine.rounds == 1


def test_shutdown_joins_a_paused_answer(drive: Drive) -> None:
    driven = drive(replay())
    driven.decoder.toggle_pause()
    driven.decoder.submit(ASK)
    driven.wait_steps(1)
    assert driven.decoder.shutdown(5)
    assert not driven.decoder.alive


# Other models

OTHER = msgspec.structs.replace(PAIR, target="another", draft=None)
TURNS = (Turn("a", "b", (1, 2)),)


class Restoring(ReplayEngine):
    """Notes the turns that it is taken to."""

    def __init__(self, trace: Trace) -> None:
        super().__init__(trace)
        self.turns: list[Sequence[Turn]] = []

    def restore(self, turns: Sequence[Turn]) -> None:
        self.turns.append(turns)


def engine_of(pair: PairDescription) -> Restoring:
    return Restoring(Trace(pair, make_answer()))


def failing(message: str) -> Callable[..., ChatEngine]:
    def fail(*_: object) -> ChatEngine:
        raise ModelLoadError(message)

    return fail


@pytest.mark.parametrize("beside", [True, False])
def test_other_models_go_on_from_the_same_turns(drive: Drive, beside: bool) -> None:
    held: list[bool] = []
    driven = drive(engine_of(PAIR))
    driven.wait(lambda reports: Ready(PAIR) in reports)
    before, other = weakref.ref(driven.engine), engine_of(OTHER)
    del driven.engine, driven.decoder._factory

    def load(engine: ChatEngine | None, progress: Progress) -> ChatEngine:
        held.append(before() is not None and engine is before())
        progress("weights", 0.5)
        return other

    driven.decoder.submit(Switch(lambda _engine: beside, load, failing("never"), TURNS))
    driven.decoder.submit(ASK)
    driven.wait_answers()
    assert driven.reports[:3] == [Ready(PAIR), Loading("weights", 0.5), Ready(OTHER)]
    assert held == [beside]
    assert before() is None
    assert other.turns == [TURNS]
    assert tuple(driven.events) == make_answer()


@pytest.mark.parametrize(
    ("check", "load", "message"),
    [
        (failing("too large"), failing("never"), "too large"),
        (lambda _engine: True, failing("damaged"), "damaged"),
        (lambda _engine: False, failing("damaged"), "damaged"),
    ],
)
def test_without_others_the_models_before_answer_on(
    drive: Drive,
    check: Callable[..., bool],
    load: Callable[..., ChatEngine],
    message: str,
) -> None:
    first, again = engine_of(PAIR), engine_of(PAIR)
    driven = drive(first)
    driven.decoder.submit(Switch(check, load, lambda _progress: again, TURNS))
    driven.wait(lambda reports: SwitchFailed(message, PAIR) in reports)
    driven.decoder.submit(ASK)
    driven.wait_answers()
    assert tuple(driven.events) == make_answer()
    released = message == "damaged" and not check(first)
    assert (again if released else first).turns == [TURNS]
    assert (first if released else again).turns == []


def test_without_any_model_it_is_said_and_others_can_be_loaded(drive: Drive) -> None:
    driven = drive(engine_of(PAIR))
    lost = "damaged; the models before could not be loaded again: gone"
    driven.decoder.submit(Switch(lambda _engine: False, failing("damaged"), failing("gone"), ()))
    driven.wait(lambda reports: SwitchFailed(lost, None) in reports)
    driven.decoder.submit(Clear())
    driven.decoder.submit(ASK)
    driven.decoder.submit(Race(PLAIN_AND_CHOSEN, (), "why?", SamplingParams()))
    driven.wait(lambda reports: RaceEnded(NO_MODEL) in reports)
    assert driven.events == [Failed(NO_MODEL)]
    other = engine_of(OTHER)
    driven.decoder.submit(Switch(lambda _: False, lambda *_: other, failing("never"), TURNS))
    driven.decoder.submit(ASK)
    driven.wait_answers(2)
    assert tuple(driven.events[1:]) == make_answer()
    assert other.turns == [TURNS]


@pytest.mark.parametrize("quits", [True, False])
def test_loading_other_models_can_be_left(drive: Drive, quits: bool) -> None:
    loading, go_on = threading.Event(), threading.Event()

    def load(_engine: ChatEngine | None, progress: Progress) -> ChatEngine:
        loading.set()
        go_on.wait(5)
        progress("more", None)
        raise AssertionError("loading went on")

    driven = drive(engine_of(PAIR))
    driven.decoder.submit(Switch(lambda _engine: True, load, failing("never"), ()))
    assert loading.wait(5)
    if quits:
        driven.decoder.close()
    else:
        driven.decoder.stop_switch()
    go_on.set()
    if not quits:
        driven.wait(lambda reports: SwitchFailed("stopped", PAIR) in reports)
    assert driven.decoder.shutdown(5)


def test_quitting_while_a_race_loads_a_draft_is_no_error(
    drive: Drive, caplog: pytest.LogCaptureFixture
) -> None:
    loading, go_on = threading.Event(), threading.Event()

    class LoadsForRace(ReplayEngine):
        def race(
            self, race: Race, should_stop: Callable[[], bool], progress: Progress
        ) -> Iterator[RaceEvent]:
            loading.set()
            go_on.wait(5)
            progress("more", None)
            raise AssertionError("loading went on")

    driven = drive(LoadsForRace(Trace(PAIR, make_answer())))
    driven.decoder.submit(Race(PLAIN_AND_CHOSEN, (), "why?", SamplingParams()))
    assert loading.wait(5)
    driven.decoder.close()
    go_on.set()
    assert driven.decoder.shutdown(5)
    assert caplog.records == []
