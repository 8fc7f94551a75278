"""The plain step's time is measured on the side: nothing of it shows in caches or in steps."""

from dataclasses import replace
from statistics import median

import pytest
import torch
from torch import Tensor

from sequoia_core import engine as engine_module
from sequoia_core import plain_clock, stopwatch
from sequoia_core.config import SamplingParams
from sequoia_core.events import StepTimings
from sequoia_core.growmap import GrowMap
from sequoia_core.ledger import Ledger
from sequoia_core.plain_clock import (
    FAR_TOKENS,
    FIRST_SAMPLES,
    REFRESH_TOKENS,
    SAMPLE_SHARE,
    STALE_SECONDS,
    PlainClock,
)
from sequoia_core.protocols import KVCache
from sequoia_core.stopwatch import TimedModel
from sequoia_core.trees import BundledAdvisor, StepCosts
from tests.core.engines import check_caches, make_engine, steps_of
from tests.core.models import TableModel
from tests.fakes import make_step


class FakeTime:
    """A clock that a forward sets forward by as many seconds as it is told."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowModel(TableModel):
    """Takes a known time for each forward."""

    def __init__(self, time: FakeTime, seconds: list[float]) -> None:
        super().__init__(9, 1)
        self._time, self._seconds = time, iter(seconds)

    def forward(
        self, token_ids: Tensor, position_ids: Tensor, mask: Tensor | None, cache: KVCache
    ) -> Tensor:
        self._time.now += next(self._seconds)
        return super().forward(token_ids, position_ids, mask, cache)


def clock_of(model: TableModel, tokens: int) -> tuple[PlainClock, Ledger]:
    ledger = Ledger(model, None)
    ledger.start([at % 9 for at in range(tokens)])
    list(ledger.read_prompt())
    return PlainClock(TimedModel(model), ledger), ledger


def test_it_is_the_median_of_forwards_and_the_first_one_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    time = FakeTime()
    monkeypatch.setattr(stopwatch, "perf_counter", time)
    seconds = [9.0, 0.003, 0.001, 0.002]
    clock, ledger = clock_of(SlowModel(time, seconds), 10)
    clock.refresh()
    assert clock.milliseconds(1e3) == pytest.approx(1e3 * median(seconds[1:]))
    assert clock.milliseconds(1.5) == 1.5  # one row never takes longer than the tree's many
    assert "median of 3" in clock.source
    assert "10 tokens of context" in clock.source
    assert ledger.target_cache.length == 9


def decoded(clock: PlainClock, milliseconds: float, nodes: int = 8) -> None:
    """Tell the clock of a step that took so long, all of it in the target's forward."""
    step = make_step(1, "a", [("b", 0)], (-1, *[0] * (nodes - 1)))
    clock.observe(replace(step, timings=StepTimings(0.0, milliseconds, 0.0)))


def test_samples_of_an_earlier_time_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime()
    monkeypatch.setattr(stopwatch, "perf_counter", time)
    monkeypatch.setattr(plain_clock, "monotonic", time)
    time.now = 100.0
    busy, quiet = [0.5, 0.3, 0.3, 0.3], [0.001]
    clock, _ = clock_of(SlowModel(time, busy + quiet), 10)
    clock.refresh()
    clock.refresh()
    assert clock.milliseconds(1e6) == pytest.approx(300)
    time.now += STALE_SECONDS
    clock.refresh()
    assert clock.milliseconds(1e6) == pytest.approx(300), "no time was decoded that pays for more"
    decoded(clock, (1400 + 300) / SAMPLE_SHARE)
    clock.refresh()
    assert clock.milliseconds(1e6) == pytest.approx(1)


def test_slow_forwards_are_sampled_once(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime()
    monkeypatch.setattr(stopwatch, "perf_counter", time)
    model = SlowModel(time, [9.0, 4.0])
    clock, _ = clock_of(model, 10)
    clock.refresh()
    assert model.forwards == 2
    assert clock.milliseconds(1e6) == pytest.approx(4000)


def grown(ledger: Ledger, tokens: int) -> None:
    ledger.start([at % 9 for at in range(tokens)])
    list(ledger.read_prompt())


def test_it_is_sampled_again_as_the_context_grows_and_time_pays_for_it() -> None:
    model = TableModel(9, 1, window=4096)
    clock, ledger = clock_of(model, 10)
    clock.refresh()
    assert model.forwards == FIRST_SAMPLES + 1
    grown(ledger, 10 + REFRESH_TOKENS)
    clock.refresh()
    assert model.forwards == FIRST_SAMPLES + 1
    decoded(clock, 1e9)
    grown(ledger, 9 + REFRESH_TOKENS)
    clock.refresh()
    assert model.forwards == FIRST_SAMPLES + 1
    grown(ledger, 10 + REFRESH_TOKENS)
    clock.refresh()
    clock.refresh()
    assert model.forwards == FIRST_SAMPLES + 2
    assert ledger.target_cache.length == 9 + REFRESH_TOKENS
    assert f"{10 + REFRESH_TOKENS} tokens of context" in clock.source


def test_far_from_where_it_was_sampled_it_is_sampled_anew() -> None:
    """Whatever was decoded: a prompt that long took more than the sample."""
    model = TableModel(9, 1, window=4096)
    clock, ledger = clock_of(model, 10)
    clock.refresh()
    grown(ledger, 10 + FAR_TOKENS)
    clock.refresh()
    assert model.forwards == FIRST_SAMPLES + 2
    assert "median of 1" in clock.source


def test_what_was_calibrated_is_not_sampled() -> None:
    model = TableModel(9, 1, window=4096)
    ledger = clock_of(model, 10)[1]
    clock = PlainClock(TimedModel(model), ledger, lambda context: context / 10)
    clock.refresh()
    assert clock.milliseconds(1e6) == 1.0
    assert clock.milliseconds(0.5) == 0.5
    grown(ledger, 2000)
    clock.refresh()
    assert clock.milliseconds(1e6) == 200.0
    assert model.forwards == 0
    assert "calibrated" in clock.source


def test_plain_steps_are_samples_that_cost_nothing() -> None:
    model = TableModel(9, 1)
    clock = clock_of(model, 10)[0]
    for milliseconds in (3.0, 1.0, 2.0):
        decoded(clock, milliseconds, nodes=1)
    decoded(clock, 50.0)
    clock.refresh()
    assert clock.milliseconds(1e6) == 2.0
    assert model.forwards == 0
    assert "median of 3" in clock.source


def test_samples_take_one_part_in_a_hundred_of_a_long_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After the first four, of which the second is the first that counts."""
    time = FakeTime()
    for module in (stopwatch, engine_module):
        monkeypatch.setattr(module, "perf_counter", time)
    target, draft = SlowModel(time, [0.01] * 2000), TableModel(9, 2, window=2048)
    target.context_window = 2048
    engine = make_engine(target, draft, GrowMap.chain(2))
    events = list(engine.generate([1, 2, 3], SamplingParams(0.0, max_new_tokens=900)))
    steps = len(steps_of(events))
    assert steps > 400
    assert target.forwards <= steps + FIRST_SAMPLES + 1 + SAMPLE_SHARE * steps


class Calibrated(BundledAdvisor):
    """Knows what a one-row forward takes."""

    def costs(self, temperature: float, context_length: int) -> StepCosts:
        return StepCosts(lambda rows: 9.0 * rows, lambda rows: 1.0, 0.0, 12.0, row_ms=2.0)


def test_an_engine_asks_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    """Before an extra forward, which none is then."""
    time = FakeTime()
    for module in (stopwatch, engine_module):
        monkeypatch.setattr(module, "perf_counter", time)
    target, draft = SlowModel(time, [0.01] * 9), TableModel(9, 2)
    engine = make_engine(target, draft, GrowMap.chain(2))
    engine.advisor = Calibrated.default({})
    steps = steps_of(list(engine.generate([1, 2, 3], SamplingParams(0.0, max_new_tokens=9))))
    assert {step.plain_ms for step in steps} == {2.0}
    assert target.forwards == len(steps)


def test_its_own_time_is_no_part_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """A first step of one forward, after the clock's four, takes one forward's time."""
    time = FakeTime()
    monkeypatch.setattr(stopwatch, "perf_counter", time)
    target, draft = SlowModel(time, [5.0, 0.2, 0.2, 0.2, 0.25]), TableModel(9, 1)
    engine = make_engine(target, draft, GrowMap.chain(2))
    params = SamplingParams(temperature=0.0, max_new_tokens=2)
    step = steps_of(list(engine.generate([1, 2, 3], params)))[0]
    assert step.timings.verify_ms == pytest.approx(250)
    assert step.plain_ms == pytest.approx(200)
    check_caches(engine, target, draft)


def test_samples_of_a_busy_machine_flatter_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine gets ten times faster right after the samples: the speed-up stays a true one."""
    time = FakeTime()
    monkeypatch.setattr(stopwatch, "perf_counter", time)
    target, draft = SlowModel(time, [0.5, 0.4, 0.4, 0.4, *[0.025] * 9]), TableModel(9, 1)
    engine = make_engine(target, draft, GrowMap.chain(2))
    events = list(engine.generate([1, 2, 3], SamplingParams(temperature=0.0, max_new_tokens=9)))
    assert all(step.plain_ms <= 25.001 for step in steps_of(events))


class Stream:
    """Of a device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device


class RecordedEvent:
    """Remembers where it was recorded."""

    def __init__(self) -> None:
        self.stream: Stream | None = None

    def record(self, stream: Stream | None = None) -> None:
        self.stream = stream

    def elapsed_time(self, end: "RecordedEvent") -> float:
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
    monkeypatch.setattr(stopwatch, "_event", RecordedEvent)
    model = TableModel(9, 1)
    model.device = torch.device("cuda", 1)
    timed = TimedModel(model)
    ids = torch.tensor([1])
    timed.forward(ids, ids * 0, None, model.new_cache())
    assert timed.take_ms() == 7.0
