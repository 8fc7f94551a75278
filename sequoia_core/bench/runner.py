"""Runs systems side by side on the same prompts.

Systems take turns prompt by prompt and in alternating order, after one uncounted warm-up each, so
that a machine that slows down slows all of them. Knows nothing of how results are printed.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sequoia_core.bench.systems import Run, System
from sequoia_core.config import SamplingParams

WARM_UP_TOKENS = 16


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs of every system on every prompt, in the same order.

    Attributes:
        params: sampling of all runs.
        runs: one list per system, by name; the first system is what others are compared with.
    """

    params: SamplingParams
    runs: dict[str, list[Run]]


def compare(
    systems: Sequence[System],
    prompts: Sequence[Sequence[int]],
    params: SamplingParams,
    progress: Callable[[str, float | None], None],
) -> Comparison:
    """Decode every prompt with every system.

    Args:
        systems: in the order of the report.
        prompts: token ids.
        params: the same for all; `max_new_tokens` are decoded exactly.
        progress: told what runs and which part is done.
    """
    warm_up = SamplingParams(params.temperature, max_new_tokens=WARM_UP_TOKENS)
    for system in systems:
        progress(f"Warming up {system.name}", 0.0)
        system.run(prompts[0], warm_up)
    runs: dict[str, list[Run]] = {system.name: [] for system in systems}
    for index, prompt in enumerate(prompts):
        ordered = systems if index % 2 == 0 else list(reversed(systems))
        for system in ordered:
            progress(f"Prompt {index + 1} of {len(prompts)}: {system.name}", index / len(prompts))
            runs[system.name].append(system.run(prompt, params))
    return Comparison(params, runs)
