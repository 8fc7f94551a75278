"""Which kernel computes a product of how many rows, by timing both on this machine.

Owns the protocol: all layers of a kind one after the other, so that weights come from memory as in
a forward, both kernels in turn. The shortest times are compared, since what other work on the
machine adds comes and goes within a product. Knows nothing of what the kernels are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from time import perf_counter

import torch

from sequoia_core.protocols import KernelChoices, LanguageModel, TwoKernels

ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 16)
ROUNDS = 5
"""Counted ones; the first warms up."""


@dataclass(frozen=True, slots=True)
class _Job:
    """Both kernels of one kind of product, for one number of rows."""

    kind: str
    products: Sequence[TwoKernels]
    rows: int


class KernelTimer:
    """Times both kernels of every product of a model that has two.

    Args:
        model: in bfloat16 on a CPU, with weights of few bits; of others nothing is to be chosen.
    """

    def __init__(self, model: LanguageModel) -> None:
        kinds = choices(model)
        self._jobs = [_Job(kind, kinds[kind], rows) for rows in ROWS for kind in kinds]
        self._samples: dict[tuple[str, int], list[tuple[float, float]]] = {}

    def run(self) -> Iterator[float]:
        """Time; yields the share that is done."""
        total = len(self._jobs) * (ROUNDS + 1)
        for done in range(total):
            job = self._jobs[done % len(self._jobs)]
            taken = _both(job, few_first=(done // len(self._jobs)) % 2 == 0)
            if done >= len(self._jobs):
                self._samples.setdefault((job.kind, job.rows), []).append(taken)
            yield (done + 1) / total

    @property
    def limits(self) -> dict[str, int]:
        """By kind, rows up to which the kernel for few rows is used; 0 never.

        The bound that makes the most of both over all sizes, so that one stray time moves little.
        """
        found: dict[str, int] = {}
        for kind in dict.fromkeys(job.kind for job in self._jobs):
            gains = [self._gain(kind, rows) for rows in ROWS]
            totals = [0.0, *accumulate(gains)]
            found[kind] = (0, *ROWS)[totals.index(max(totals))]
        return found

    def _gain(self, kind: str, rows: int) -> float:
        """Logarithm of how many times as long the kernel for many rows takes."""
        few, many = (min(taken) for taken in zip(*self._samples[kind, rows], strict=True))
        return math.log(many / few)


def choices(model: LanguageModel) -> Mapping[str, Sequence[TwoKernels]]:
    """The products of a model for which there is something to choose, by kind."""
    return model.kernel_choices() if isinstance(model, KernelChoices) else {}


def use_limits(model: LanguageModel, limits: Mapping[str, int]) -> None:
    """Compute products of at most so many rows by the kernel for few; other kinds stay as is."""
    for kind, products in choices(model).items():
        for product in products if kind in limits else ():
            product.most_few = limits[kind]


@torch.inference_mode()
def _both(job: _Job, few_first: bool) -> tuple[float, float]:
    """Seconds of all the job's products by the kernel for few rows, and by the one for many."""
    x = torch.ones(job.rows, job.products[0].inputs, dtype=torch.bfloat16)
    taken = {}
    for few in (few_first, not few_first):
        kernels = [product.few if few else product.many for product in job.products]
        began = perf_counter()
        for kernel in kernels:
            kernel(x)
        taken[few] = perf_counter() - began
    return taken[True], taken[False]
