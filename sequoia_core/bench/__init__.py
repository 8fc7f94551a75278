"""Side-by-side timing of ways to decode: prompts, systems, an interleaving runner and a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sequoia_core.bench.runner import Comparison
    from sequoia_core.pair import Pair


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What to measure.

    Attributes:
        prompts: a file, see `bench.prompts`; None is the built-in set.
        count: how many of its prompts.
        tokens: new tokens per prompt.
        temperature: of all systems.
        hugging_face: also time `generate`.
        source: where the target's weights come from; None is the embedded target.
    """

    prompts: str | None
    count: int
    tokens: int
    temperature: float
    hugging_face: bool
    source: str | None


def measure(
    pair: Pair, plan: BenchPlan, progress: Callable[[str, float | None], None]
) -> tuple[str, dict[str, object]]:
    """Measure a pair; returns a table for people and values for machines."""
    from sequoia_core.bench import report
    from sequoia_core.bench.prompts import load_prompts
    from sequoia_core.bench.runner import compare
    from sequoia_core.bench.systems import HuggingFaceSystem, own_systems
    from sequoia_core.chat_template import ChatTemplate
    from sequoia_core.config import Mode, SamplingParams
    from sequoia_core.measure.tuning import Tuner

    texts = load_prompts(plan.prompts, plan.count)
    tuner = Tuner(pair)
    if not tuner.measured:
        for message, fraction in tuner.measure():
            progress(message, fraction)
    modes = [Mode.AR] if pair.draft is None else [Mode.AR, Mode.SEQUOIA, Mode.CHAIN]
    systems = own_systems(pair, tuner, modes)
    if plan.hugging_face:
        systems.append(HuggingFaceSystem(pair, plan.source))
    template = ChatTemplate(pair.tokenizer, None)
    prompt_ids = [template.whole([], text) for text in texts]
    params = SamplingParams(plan.temperature, seed=17, max_new_tokens=plan.tokens)
    comparison = compare(systems, prompt_ids, params, progress)
    lines = [_headline(pair), tuner.summary(), report.table(comparison)]
    if plan.temperature == 0.0:
        lines += ["", *_partings(pair, prompt_ids, comparison)]
    return "\n".join(lines), report.as_values(comparison)


def _headline(pair: Pair) -> str:
    described = pair.description
    return (
        f"{described.target} <- {described.draft or 'no draft'}, "
        f"{described.device} {described.dtype}"
    )


def _partings(pair: Pair, prompt_ids: list[list[int]], comparison: Comparison) -> Iterator[str]:
    from sequoia_core.bench.parting import describe_partings, find_parting

    baseline = next(iter(comparison.runs.values()))
    for name, runs in list(comparison.runs.items())[1:]:
        found = [
            find_parting(pair.target, ids, base.token_ids, run.token_ids)
            for ids, base, run in zip(prompt_ids, baseline, runs, strict=True)
        ]
        yield describe_partings(name, found)
