"""Plain steps among the others are what speed-ups are measured against, and change no text."""

import itertools
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from torch import Tensor

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode import engine as engine_module
from sequoia_core.decode import timed_model
from sequoia_core.decode.engine import Engine
from sequoia_core.decode.timed_model import TimedModel
from sequoia_core.events import Origin, Step, StepTimings, Totals
from sequoia_core.model.interface import KVCache
from sequoia_core.speculate.baseline_timer import (
    CHANGE,
    FAR_TOKENS,
    FIRST_INTERVAL,
    FIRST_STEP,
    FRESH_SECONDS,
    INTERVAL,
    KEPT,
    LOST_SHARE,
    MANY,
    OUTLIER,
    OUTLIER_OF_FEW,
    UNKNOWN,
    WATCHED,
    BaselineTimer,
    typical,
)
from sequoia_core.speculate.cost_model import ASSUMED_COSTS, StepCosts
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.decode.test_lossless_greedy import plain
from tests.core.engines import (
    Every,
    check_caches,
    check_laws,
    finish_of,
    make_engine,
    steps_of,
    tokens_of,
)
from tests.core.models import PlainCodec, ScriptModel, TableModel, tiny_llama
from tests.core.speculate.test_lossless_sampling import p_value
from tests.fakes import make_step

PROMPT = [3, 1, 4, 1, 5]
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=40)
SAMPLED = SamplingParams(temperature=0.8)
TREE = GrowMap.k_ary([2, 1])


class FakeTime:
    """Seconds that pass only where a model or a codec says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Alternate:
    """Decodes with a clock as an engine does, every step taking the time it is given."""

    def __init__(self, clock: BaselineTimer, time: FakeTime | None = None) -> None:
        self.clock, self.time = clock, time or FakeTime()
        self.plain_ms, self.tree_ms, self.tokens = 10.0, 20.0, 4
        self.params, self.context, self.index = GREEDY, 100, 0

    def step(self) -> bool:
        """One step; whether it was a plain one."""
        self.index += 1
        baseline = self.clock.due(self.index, self.params)
        emitted = 1 if baseline else self.tokens
        taken = self.plain_ms if baseline else self.tree_ms
        self.context += emitted
        self.time.now += taken / 1e3
        self.clock.observe(
            made(taken, 1 if baseline else 8, emitted, self.index, self.context, baseline),
            self.params,
        )
        return baseline

    def plain_steps(self, steps: int) -> list[int]:
        """The indices of the plain ones among so many steps of a new answer."""
        self.index = 0
        return [self.index for _ in range(steps) if self.step()]

    @property
    def figure(self) -> float:
        return self.clock.plain_time(self.context, 1e6)[0]


def made(
    milliseconds: float,
    nodes: int,
    emitted: int = 1,
    index: int = 2,
    context: int = 100,
    baseline: bool = False,
) -> Step:
    """A step that took so long, all of it in the target's forward."""
    step = make_step(index, "a", [("b", 0)], (-1, *[0] * (nodes - 1)))
    return structs.replace(
        step,
        timings=StepTimings(0.0, milliseconds, 0.0),
        token_ids=tuple(range(emitted)),
        context_length=context,
        baseline=baseline,
    )


def of(now: Callable[[], float], calibrated: float | None = None) -> BaselineTimer:
    costs = None if calibrated is None else replace(ASSUMED_COSTS, plain_ms=calibrated)
    return BaselineTimer(lambda _context: costs, now)


# Which steps are plain


def test_the_second_step_is_plain_and_then_ever_fewer_up_to_one_in_thirty() -> None:
    time = FakeTime()
    run = Alternate(of(time), time)
    run.plain_ms = 2.0  # a plain step costs nothing here, so nothing but the interval decides
    found = run.plain_steps(400)
    gaps = [after - before for before, after in itertools.pairwise(found)]
    assert found[0] == FIRST_STEP
    assert gaps[:4] == [FIRST_INTERVAL * count for count in (1, 2, 3, 4)]
    assert set(gaps[8:]) == {INTERVAL}


@pytest.mark.parametrize(("tree_ms", "tokens"), [(20.0, 4), (12.0, 4), (11.0, 10), (9.0, 1)])
def test_plain_steps_cost_at_most_their_share(tree_ms: float, tokens: int) -> None:
    """But for the first one, without which nothing is known."""
    time = FakeTime()
    run = Alternate(of(time), time)
    run.tree_ms, run.tokens = tree_ms, tokens
    steps = 500
    count = len(run.plain_steps(steps))
    loss = max(run.plain_ms - tree_ms / tokens, 0.0)
    assert 3 <= count <= 1 + steps / INTERVAL + KEPT
    assert (count - 1) * loss <= LOST_SHARE * 1e3 * time.now


def test_a_figure_serves_the_next_answers_until_it_is_old() -> None:
    time = FakeTime()
    run = Alternate(of(time), time)
    run.plain_steps(900)
    assert run.plain_steps(5) == []
    time.now += FRESH_SECONDS
    assert "out of date" in run.clock.plain_time(run.context, 1.0)[1]
    assert run.plain_steps(5) == [FIRST_STEP]
    assert "out of date" not in run.clock.plain_time(run.context, 1.0)[1]
    run.context += FAR_TOKENS
    assert run.plain_steps(5)[0] in (FIRST_STEP, FIRST_STEP + 1)  # known after a step there
    run.params = replace(GREEDY, temperature=0.6)
    assert run.plain_steps(5) == [FIRST_STEP]


def test_with_a_seed_the_index_alone_decides() -> None:
    """Whatever was decoded before and however long it took, so that the text is repeated."""
    time = FakeTime()
    run = Alternate(of(time), time)
    run.plain_steps(50)
    run.params = replace(SAMPLED, seed=1)
    expected = list(range(FIRST_STEP, 100, INTERVAL))
    for run.plain_ms, run.tree_ms in ((10.0, 20.0), (1e4, 1.0), (1.0, 1e4)):
        assert run.plain_steps(99) == expected


def test_a_machine_that_changes_its_speed_is_measured_again_at_once() -> None:
    time = FakeTime()
    run = Alternate(of(time), time)
    run.plain_steps(900)
    assert run.figure == pytest.approx(10.0)
    while not run.step():
        pass  # so that the next plain step would be due in `INTERVAL` steps
    run.plain_ms, run.tree_ms = 30.0, 60.0
    (first, *_) = [at for at in range(1, INTERVAL) if run.step()]
    assert first <= WATCHED
    assert run.figure == pytest.approx(30.0)  # none of the quiet ones counts any more


def test_times_that_only_vary_are_no_change() -> None:
    time = FakeTime()
    run = Alternate(of(time), time)
    run.plain_steps(900)
    while not run.step():
        pass
    plain_steps = 0
    for at in range(INTERVAL - 1):
        run.tree_ms = 20.0 * (1.0 if at % 2 else 0.9 * CHANGE)
        plain_steps += run.step()
    assert plain_steps == 0


# What they say


def test_it_is_the_mean_of_plain_steps_and_of_outliers_only_a_part_counts() -> None:
    clock = of(FakeTime())
    for milliseconds in (9.0, 1.0, 2.0, 3.0):  # the first step after a prompt is colder
        clock.observe(made(milliseconds, 1, index=2 if milliseconds < 9 else 1), GREEDY)
    clock.observe(made(50.0, 8), GREEDY)
    figure, source = clock.plain_time(100, 1e6)
    assert figure == pytest.approx(2.0)
    assert "3 plain steps" in source
    assert "100 tokens of context" in source
    assert typical([1.0, 1.0, 100.0]) == pytest.approx((2.0 + OUTLIER_OF_FEW) / 3)
    assert typical([1.0] * MANY + [100.0]) == pytest.approx((MANY + OUTLIER) / (MANY + 1))
    assert typical([1.0, 1.0, 2.5]) == pytest.approx(1.5)


def test_speedups_below_one_are_figures_like_any_other() -> None:
    clock = of(FakeTime())
    clock.observe(made(10.0, 1), GREEDY)
    assert clock.plain_time(100, 40.0)[0] == 10.0
    assert clock.plain_time(100, 4.0)[0] == 10.0  # a quick verification caps nothing


def test_before_the_first_plain_step_calibrated_figures_serve() -> None:
    clock = of(FakeTime(), calibrated=7.0)
    milliseconds, source = clock.plain_time(100, 12.0)
    assert milliseconds == 7.0
    assert "calibrated" in source
    assert of(FakeTime()).plain_time(100, 12.0) == (12.0, UNKNOWN)
    clock.observe(made(5.0, 1), GREEDY)
    assert clock.plain_time(100, 12.0)[0] == 5.0


class Calibrated(BundledAdvisor):
    """Knows what a plain step takes."""

    def costs(self, temperature: float, context_length: int) -> StepCosts:
        return StepCosts(lambda rows: 9.0 * rows, lambda rows: 1.0, 0.0, plain_ms=12.0)


def test_an_engine_asks_the_calibration_until_it_has_a_plain_step() -> None:
    engine = Engine(
        TableModel(9, 1),
        DraftModel(TableModel(9, 2)),
        codec=PlainCodec(),
        eos_token_ids=frozenset(),
        advisor=Calibrated({}),
    )
    engine.tree_choice = TreeChoice(growmap=TREE)
    first, second, third, *_ = steps_of(list(engine.generate([1, 2, 3], GREEDY)))
    assert first.plain_ms == 12.0
    assert second.baseline
    assert third.plain_ms == second.timings.total_ms


# In an engine


class BusyMachine(TableModel):
    """One row takes 19.5 ms right after the forward before it, and 37.9 ms after other work.

    That is what a process beside it does to threads that were waiting; rows of a tree take 52 ms.
    """

    def __init__(self, time: FakeTime) -> None:
        super().__init__(9, 1)
        self._time, self._ended = time, -1.0

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        parents: Tensor | None = None,
    ) -> Tensor:
        at_once = self._time.now - self._ended < 1e-4
        one_row = 0.0195 if at_once else 0.0379
        self._time.now += one_row if len(token_ids) == 1 else 0.052
        self._ended = self._time.now
        return super().forward(token_ids, position_ids, mask, cache, parents)


class SlowCodec(PlainCodec):
    """Naming a token takes 0.2 ms."""

    def __init__(self, time: FakeTime) -> None:
        self._time = time

    def token_text(self, token_id: int) -> str:
        self._time.now += 0.0002
        return super().token_text(token_id)


def test_the_speedup_is_that_of_decoding_the_same_plainly(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime()
    for module in (timed_model, engine_module):
        monkeypatch.setattr(module, "perf_counter", time)
    params = replace(GREEDY, max_new_tokens=300)
    target = BusyMachine(time)
    target.context_window = 512
    draft = TableModel(9, 1, window=512)

    def decoded(mode: Mode, growmap: GrowMap) -> tuple[list[Step], Totals]:
        engine = make_engine(target, draft, growmap, mode, codec=SlowCodec(time))
        engine.clock = of(time)
        events = list(engine.generate(PROMPT, params))
        return steps_of(events), finish_of(events).totals

    before = target.forwards
    steps, tree = decoded(Mode.SEQUOIA, GrowMap.chain(1))
    assert target.forwards - before == len(steps)  # nothing is computed only to be timed
    alone, plainly = decoded(Mode.AR, GrowMap.chain(1))
    truth = (plainly.seconds / plainly.tokens) / (tree.seconds / tree.tokens)
    assert truth > 1.3
    assert tree.speedup == pytest.approx(truth, rel=0.01)
    assert plainly.speedup == pytest.approx(1.0)
    assert not any(step.baseline for step in alone)
    known = next(step.index for step in steps if step.baseline)
    assert known == FIRST_STEP
    for step in steps[known:]:
        assert step.plain_ms == pytest.approx(1e3 * plainly.seconds / plainly.tokens, rel=0.01)


def test_plain_steps_stand_apart_in_sums() -> None:
    engine = make_engine(TableModel(9, 1), TableModel(9, 1), GrowMap.chain(3))
    engine.clock = Every(3)
    events = list(engine.generate(PROMPT, replace(GREEDY, max_new_tokens=18)))
    steps, totals = steps_of(events), finish_of(events).totals
    assert [len(step.token_ids) for step in steps] == [4, 4, 1, 4, 4, 1]
    assert [step.baseline for step in steps] == [False, False, True] * 2
    assert totals.tokens_per_step == 4.0
    assert (totals.steps, totals.baseline_steps) == (6, 2)
    for step in steps:
        assert not step.baseline or step.speedup == pytest.approx(1.0)


# The text


@pytest.mark.parametrize("kind", ["plain", "drafted", "adaptive", "lookup", "no draft"])
@pytest.mark.parametrize("every", [2, 5])
def test_plain_steps_change_no_token_at_temperature_0(kind: str, every: int) -> None:
    target, draft = tiny_llama(1), tiny_llama(1, num_layers=1)
    engine = make_engine(target, None if kind == "no draft" else draft)
    engine.tree_choice = {
        "plain": TreeChoice(Mode.AR),
        "drafted": TreeChoice(growmap=TREE),
        "adaptive": TreeChoice(adaptive=True),
        "lookup": TreeChoice(growmap=TREE, lookup=Lookup.ON),
        "no draft": TreeChoice(lookup=Lookup.ON),
    }[kind]
    engine.clock = Every(every)
    steps = steps_of(list(engine.generate(PROMPT, GREEDY)))
    assert [token for step in steps for token in step.token_ids] == plain(target, PROMPT, 40)
    baseline = [step.index for step in steps if step.baseline]
    expected = [] if kind == "plain" else list(range(every, len(steps) + 1, every))
    assert baseline == expected
    assert all(len(step.nodes) == 1 for step in steps if step.baseline)


@given(every=st.integers(1, 5), seed=st.integers(0, 1000), mode=st.sampled_from(list(Mode)))
@settings(max_examples=20, deadline=None)
def test_both_caches_keep_up_with_plain_steps(every: int, seed: int, mode: Mode) -> None:
    target, draft = TableModel(19, seed), TableModel(19, seed + seed % 2)
    engine = make_engine(target, draft, TREE, mode)
    engine.clock = Every(every)
    events = list(engine.generate(PROMPT, GREEDY))
    assert tokens_of(events) == plain(target, PROMPT, 40)
    check_caches(engine, target, draft)
    check_laws(events)


def test_plain_steps_change_no_distribution_above_it() -> None:
    """The joint of the first three tokens, the second step plain."""
    runs, words = 1000, 2
    target = TableModel(words, 11, order=2, scale=1.0)
    engine = make_engine(target, TableModel(words, 12, order=2, scale=1.0), GrowMap.chain(1))
    engine.clock = Every(2)
    prompt = [1, 0, 1, 1]
    counts: Counter[tuple[int, ...]] = Counter()
    plain_steps = 0
    for seed in range(runs):
        params = replace(SAMPLED, seed=seed, max_new_tokens=3)
        steps = steps_of(list(engine.generate(prompt, params)))
        counts[tuple(token for step in steps for token in step.token_ids)] += 1
        plain_steps += sum(step.baseline for step in steps)
    assert plain_steps > runs / 2
    expected = torch.ones((words,) * 3, dtype=torch.float64)
    for tokens in itertools.product(range(words), repeat=3):
        for at, token in enumerate(tokens):
            logits = target.logits_after([*prompt, *tokens[:at]]).double()
            expected[tokens] *= (logits / SAMPLED.temperature).softmax(-1)[token]
    assert p_value(counts, expected) > 1e-4


def test_a_seed_repeats_an_answer_with_the_plain_steps_that_a_chat_takes() -> None:
    engine = make_engine(TableModel(11, 1, scale=0.5), TableModel(11, 2, scale=0.5), TREE)
    engine.clock = BaselineTimer()
    params = SamplingParams(temperature=1.0, seed=4, max_new_tokens=90)
    answers = [steps_of(list(engine.generate([1, 2], params))) for _ in range(3)]
    assert len({tuple(t for step in each for t in step.token_ids) for each in answers}) == 1
    for each in answers:
        plain_steps = [step.index for step in each if step.baseline]
        assert plain_steps == list(range(FIRST_STEP, len(each) + 1, INTERVAL))
        assert len(plain_steps) > 1


def test_steps_that_find_nothing_are_plain_steps_that_cost_nothing() -> None:
    engine = make_engine(ScriptModel([1, 2, 3, 4, 5, 6, 7, 8] * 9), None)
    engine.tree_choice, engine.clock = TreeChoice(lookup=Lookup.ON), BaselineTimer()
    steps = steps_of(list(engine.generate([1], replace(GREEDY, max_new_tokens=40))))
    looked_up = [step for step in steps if any(node.origin is Origin.LOOKUP for node in step.nodes)]
    assert looked_up
    assert "plain steps" in looked_up[0].plain_source
    assert sum(step.baseline for step in steps[: looked_up[0].index]) <= 1


class Stream:
    """Of a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device


class RecordedEvent:
    """Remembers where it was recorded, and has not happened until it is waited for."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.happened = False

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream

    def synchronize(self) -> None:
        self.happened = True

    def elapsed_time(self, end: "RecordedEvent") -> float:
        assert end.happened, "CUDA error: device not ready"
        assert self.stream is not None
        assert end.stream is not None
        assert self.stream.device == end.stream.device
        return 7.0 if self.stream.device == torch.device("cuda", 1) else 0.0


def test_a_forward_is_timed_in_the_stream_of_the_models_own_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whichever device is the current one."""
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_stream", Stream)
    monkeypatch.setattr(timed_model, "_event", RecordedEvent)
    model = TableModel(9, 1)
    model.device = torch.device("cuda", 1)
    timed = TimedModel(model)
    ids = torch.tensor([1])
    timed.forward(ids, ids * 0, None, model.new_cache())
    assert timed.take_ms() == 7.0
