"""The plain step's time is measured on the side: nothing of it shows in caches or in steps."""

from statistics import median

import pytest
from torch import Tensor

from sequoia_core import plain_clock, stopwatch
from sequoia_core.config import SamplingParams
from sequoia_core.growmap import GrowMap
from sequoia_core.ledger import Ledger
from sequoia_core.plain_clock import (
    FIRST_SAMPLES,
    KEPT_SAMPLES,
    REFRESH_TOKENS,
    STALE_FORWARDS,
    STALE_SECONDS,
    PlainClock,
)
from sequoia_core.protocols import KVCache
from sequoia_core.stopwatch import TimedModel
from tests.core.engines import check_caches, make_engine, steps_of
from tests.core.models import TableModel


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


def test_samples_of_an_earlier_time_are_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    time = FakeTime()
    monkeypatch.setattr(stopwatch, "perf_counter", time)
    monkeypatch.setattr(plain_clock, "monotonic", time)
    time.now = 100.0
    busy, quiet = [0.5, 0.3, 0.3, 0.3], [0.01, 0.001, 0.001, 0.001]
    clock, _ = clock_of(SlowModel(time, busy + quiet), 10)
    clock.refresh()
    clock.refresh()
    assert clock.milliseconds(1e6) == pytest.approx(300)
    time.now += STALE_SECONDS
    clock.refresh()
    assert clock.milliseconds(1e6) == pytest.approx(1)


def test_slow_forwards_are_sampled_seldom(monkeypatch: pytest.MonkeyPatch) -> None:
    """One at a time, and again only when many more have passed."""
    time = FakeTime()
    monkeypatch.setattr(stopwatch, "perf_counter", time)
    monkeypatch.setattr(plain_clock, "monotonic", time)
    time.now = 100.0
    model = SlowModel(time, [9.0, 4.0, 2.0])
    clock, _ = clock_of(model, 10)
    clock.refresh()
    assert model.forwards == 2
    assert clock.milliseconds(1e6) == pytest.approx(4000)
    time.now += STALE_FORWARDS * 4.0 - 1.0
    clock.refresh()
    assert model.forwards == 2
    time.now += 1.0
    clock.refresh()
    assert model.forwards == 3
    assert clock.milliseconds(1e6) == pytest.approx(2000)


def test_it_is_refreshed_as_the_context_grows_and_not_otherwise() -> None:
    model = TableModel(9, 1, window=2048)
    clock, ledger = clock_of(model, 10)
    clock.refresh()
    assert model.forwards == FIRST_SAMPLES + 1
    clock.refresh()
    assert model.forwards == FIRST_SAMPLES + 1
    for refreshed in range(1, KEPT_SAMPLES + 2):
        prompt = [at % 9 for at in range(10 + refreshed * REFRESH_TOKENS)]
        ledger.start(prompt[:-1])
        list(ledger.read_prompt())
        clock.refresh()
        assert model.forwards == FIRST_SAMPLES + refreshed
        ledger.start(prompt)
        list(ledger.read_prompt())
        clock.refresh()
        assert model.forwards == FIRST_SAMPLES + 1 + refreshed
        assert ledger.target_cache.length == len(prompt) - 1
        assert f"{len(prompt)} tokens of context" in clock.source


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
