"""Kernels are chosen by both their times, for the kinds of product that have two."""

import pytest
import torch

from sequoia_core.config import Kernels
from sequoia_core.measure import kernels
from sequoia_core.measure.kernels import ROWS, KernelTimer, choices, use_limits
from sequoia_core.model.linear import has_packed_kernels
from sequoia_core.model.llama import Llama
from tests.core.coded import coded
from tests.core.models import TableModel, random_weights, tiny_config, tiny_llama

CPU = torch.device("cpu")
packed = pytest.mark.skipif(
    not has_packed_kernels(torch.bfloat16, CPU), reason="this CPU has no bfloat16 kernels"
)
KINDS = {"query_key_value", "attention_out", "gate_up", "down"}


def coded_llama(kernels: Kernels = Kernels()) -> Llama:  # noqa: B008  # immutable
    """In bfloat16, its layers' matrices with 4-bit levels, its head without."""
    config = tiny_config(hidden_size=32, intermediate_size=64)
    weights = {
        name: coded(weight) if weight.dim() == 2 and "layers" in name else weight
        for name, weight in random_weights(config, 3).items()
    }
    return Llama(config, weights, CPU, torch.bfloat16, kernels)


class Clock:
    """Time passes only while a kernel runs."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Slow:
    """A kernel that takes as long as it is told."""

    def __init__(self, clock: Clock, seconds: dict[int, float]) -> None:
        self._clock, self._seconds = clock, seconds

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self._clock.now += self._seconds[x.shape[0]]
        return x


def timed(
    model: Llama, clock: Clock, few: dict[int, float], many: dict[int, float]
) -> dict[str, int]:
    for products in choices(model).values():
        for product in products:
            product.few, product.many = Slow(clock, few), Slow(clock, many)
    timer = KernelTimer(model)
    assert list(timer.run())[-1] == 1.0
    return timer.limits


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(kernels, "perf_counter", made)
    return made


@packed
@pytest.mark.parametrize("bound", [0, 1, 5, 16])
def test_the_kernel_for_few_is_used_as_long_as_it_is_faster(clock: Clock, bound: int) -> None:
    few = {rows: 1.0 if rows <= bound else 3.0 for rows in ROWS}
    limits = timed(coded_llama(), clock, few, dict.fromkeys(ROWS, 2.0))
    assert limits == dict.fromkeys(KINDS, bound)


@packed
def test_one_stray_time_does_not_move_the_bound(clock: Clock) -> None:
    few = {rows: 1.0 if rows <= 8 else 3.0 for rows in ROWS} | {3: 2.5}
    assert set(timed(coded_llama(), clock, few, dict.fromkeys(ROWS, 2.0)).values()) == {8}


@packed
def test_limits_decide_which_kernel_runs(clock: Clock) -> None:
    model = coded_llama()
    timed(model, clock, dict.fromkeys(ROWS, 1.0), dict.fromkeys(ROWS, 100.0))
    use_limits(model, {"down": 3})
    assert {product.most_few for product in choices(model)["down"]} == {3}
    (down, *_), clock.now = model.kernel_choices()["down"], 0.0
    down(torch.zeros(3, down.inputs))
    assert clock.now == 1.0
    down(torch.zeros(4, down.inputs))
    assert clock.now == 101.0


@packed
def test_really_timing_a_model_chooses_for_every_kind() -> None:
    timer = KernelTimer(coded_llama())
    assert list(timer.run())
    assert timer.limits.keys() == KINDS
    assert set(timer.limits.values()) <= {0, *ROWS}


def test_where_there_is_one_kernel_there_is_nothing_to_choose() -> None:
    for model in (TableModel(7, 1), tiny_llama(1), coded_llama(Kernels(row_invariant=True))):
        assert list(KernelTimer(model).run()) == []
        assert KernelTimer(model).limits == {}
        use_limits(model, {"down": 3})
