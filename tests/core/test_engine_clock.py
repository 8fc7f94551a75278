"""The plain step's time is measured on the side: nothing of it shows in caches or in steps."""

from statistics import median

import pytest
from torch import Tensor

from sequoia_core import stopwatch
from sequoia_core.config import SamplingParams
from sequoia_core.growmap import GrowMap
from sequoia_core.ledger import Ledger
from sequoia_core.plain_clock import FIRST_SAMPLES, KEPT_SAMPLES, REFRESH_TOKENS, PlainClock
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
    assert clock.milliseconds == pytest.approx(1e3 * median(seconds[1:]))
    assert "median of 3" in clock.source
    assert "10 tokens of context" in clock.source
    assert ledger.target_cache.length == 9


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
    target, draft = SlowModel(time, [5.0, 4.0, 4.0, 4.0, 0.25]), TableModel(9, 1)
    engine = make_engine(target, draft, GrowMap.chain(2))
    params = SamplingParams(temperature=0.0, max_new_tokens=2)
    step = steps_of(list(engine.generate([1, 2, 3], params)))[0]
    assert step.timings.verify_ms == pytest.approx(250)
    assert step.plain_ms == pytest.approx(4000)
    check_caches(engine, target, draft)
