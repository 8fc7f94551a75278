"""Stand-ins for the benchmark: systems of known speed, and comparisons made of them."""

from collections.abc import Sequence

from sequoia_core.bench.runner import Comparison, Outcome, compare
from sequoia_core.bench.runs import NoSpeedError, PeerError, Run, StepParts
from sequoia_core.config import SamplingParams


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
    """Takes the same time for every token, and writes down when it ran.

    Args:
        name: for the report.
        speed: tokens a second.
        log: gets the name and temperature of every run.
        **misfit: `steps` it says it takes, after how many runs of all it `fails_at`, and tokens
            that are `most_at_once`, taken in a single step.
    """

    def __init__(self, name: str, speed: float, log: list[str], **misfit: int) -> None:
        self.name = name
        self._speed, self._log, self._steps = speed, log, misfit.get("steps", 7)
        self._fails_at, self._at_once = misfit.get("fails_at"), misfit.get("most_at_once", 0)

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
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
            parts=StepParts(1.0, 2.0, 1.0),
        )


def outcome_of(*systems: FixedSystem, prompts: int = 2, tokens: int = 8) -> Outcome:
    """Systems compared on prompts of one token, greedily and sampling."""
    samplings = [SamplingParams(each, max_new_tokens=tokens) for each in (0.0, 0.6)]
    return compare(systems, [[at] for at in range(prompts)], samplings, lambda *_: None)


def comparison_of(temperature: float, **speeds: Sequence[float]) -> Comparison:
    """Runs at these speeds, prompt by prompt; underscores in names stand for blanks."""
    runs = {name.replace("_", " "): [run_at(v) for v in each] for name, each in speeds.items()}
    return Comparison(SamplingParams(temperature, max_new_tokens=8), runs)
