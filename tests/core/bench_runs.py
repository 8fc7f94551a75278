"""Stand-ins for the benchmark: systems of known speed, and comparisons made of them."""

from collections.abc import Sequence

from sequoia_core.bench.runs import ComparisonSet, NoSpeedError, PeerError, Run, compare
from sequoia_core.config import SamplingParams
from sequoia_core.events import StepTimings


def run_at(speed: float, tokens: int = 7, **changes: object) -> Run:
    """A run of so many tokens a second."""
    values: dict[str, object] = {
        "token_ids": (1,) * (tokens + 1),
        "tokens": tokens,
        "seconds": tokens / speed,
        "steps": tokens,
        "first_seconds": 0.05,
    }
    return Run(**(values | changes))  # type: ignore[arg-type]


class FixedSystem:
    """Takes the same time for every token, and logs the name and temperature of every run.

    It `fails_at` so many runs of all systems, and takes `most_at_once` tokens in a single step.
    """

    def __init__(self, name: str, speed: float, log: list[str], **misfit: int) -> None:
        self.name = name
        self._speed, self._log, self._steps = speed, log, misfit.get("steps", 7)
        self._fails_at, self._at_once = misfit.get("fails_at"), misfit.get("most_at_once", 0)

    def __call__(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        self._log.append(f"{self.name}{params.temperature:g}")
        if self._fails_at is not None and len(self._log) > self._fails_at:
            raise PeerError("it fell over")
        if params.max_new_tokens <= self._at_once:
            raise NoSpeedError("a single step")
        return run_at(
            self._speed,
            params.max_new_tokens - 1,
            token_ids=tuple(prompt_ids),
            steps=self._steps,
            tree="4x2",
            parts=StepTimings(1.0, 2.0, 1.0),
        )


def compared(*systems: FixedSystem, prompts: int = 2, tokens: int = 8) -> ComparisonSet:
    """Systems compared on prompts of one token, greedily and sampling."""
    samplings = [SamplingParams(each, max_new_tokens=tokens) for each in (0.0, 0.6)]
    named = {system.name: system for system in systems}
    return compare(named, [[at] for at in range(prompts)], samplings, lambda *_: None)
