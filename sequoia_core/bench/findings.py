"""Results of a benchmark as plain values, and their statistics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from statistics import geometric_mean, median
from typing import TYPE_CHECKING, NamedTuple

import torch

from sequoia_core.bench import names
from sequoia_core.bench.runs import Run, SpeedComparison, averaged
from sequoia_core.events import PairDescription, StepTimings
from sequoia_core.measure.spread import Spread

if TYPE_CHECKING:
    from sequoia_core.model.interface import LanguageModel

PREFILL_TOKENS = 1400


@dataclass(slots=True)
class BenchFindings:
    """The results of a benchmark so far; a comparison that was not made is None."""

    pair: PairDescription
    threads: int
    peer_dtype: str = ""  # of Hugging Face's models and PyTorch's forward
    weights: int = 0  # bytes of both models' weights in bfloat16
    tuned: str = ""  # what the measured machine predicted before anything was compared, one line
    comparisons: tuple[SpeedComparison, ...] = ()  # plain decoding is the first system
    divergences: tuple[str, ...] = ()  # where greedy texts diverge from plain decoding's
    prefill: SpeedComparison | None = None  # reading a long prompt
    prefill_tokens: int = PREFILL_TOKENS
    busy: SpeedComparison | None = None  # with a busy process and without
    avx2: SpeedComparison | None = None
    memory: dict[str, int] = field(default_factory=dict)  # bytes at the peak by system
    chat_memory: int | None = None  # bytes of the chat with its screen, the machine measured
    absent: dict[str, str] = field(default_factory=dict)  # why a system, or its memory, is missing
    interrupted: bool = False  # parts are missing


@dataclass(frozen=True, slots=True)
class SystemSummary:
    name: str
    tokens_per_second: Spread
    ratio: Spread  # over the first system's speed on the same prompt
    tokens_per_step: float
    first_ms: float  # until the first tokens; no part of the speed
    tree: str  # the most frequent one; "" where it has no name
    parts: StepTimings | None  # of a step, where they are known
    same_text: int  # prompts on which the tokens equal the first system's


def summarize(comparison: SpeedComparison) -> list[SystemSummary]:
    """Figures of every system; the first one is the baseline."""
    baseline = next(iter(comparison.runs.values()))
    return [_summary(name, runs, baseline) for name, runs in comparison.runs.items()]


def _summary(name: str, runs: Sequence[Run], baseline: Sequence[Run]) -> SystemSummary:
    parts = [run.parts for run in runs if run.parts is not None]
    texts = zip(runs, baseline, strict=True)
    return SystemSummary(
        name=name,
        tokens_per_second=Spread.of([run.tokens_per_second for run in runs]),
        ratio=ratio(runs, baseline),
        tokens_per_step=median(run.tokens / run.steps for run in runs),
        first_ms=1e3 * median(run.first_seconds for run in runs),
        tree=Counter(run.tree for run in runs).most_common(1)[0][0],
        parts=averaged(parts, median) if parts else None,
        same_text=sum(run.token_ids == base.token_ids for run, base in texts),
    )


def speeds(comparison: SpeedComparison) -> dict[str, Spread]:
    """Tokens per second by system."""
    return {each.name: each.tokens_per_second for each in summarize(comparison)}


def ratio(
    runs: Sequence[Run],
    others: Sequence[Run],
    speed: Callable[[Run], float] = attrgetter("tokens_per_second"),
) -> Spread:
    """How much faster one system is than another, prompt by prompt."""
    pairs = zip(runs, others, strict=True)
    return Spread.of([speed(run) / speed(other) for run, other in pairs])


def ranked_trees(comparisons: Sequence[SpeedComparison]) -> list[tuple[str, float]]:
    """This engine's ways to speculate and their speed over plain decoding, fastest first.

    The speed is the geometric mean over ways of sampling of the medians over prompts.
    """
    means = {
        name: geometric_mean(
            ratio(each.runs[name], each.runs[names.PLAIN]).middle for each in comparisons
        )
        for name in names.TREES
        if all(name in each.runs for each in comparisons)
    }
    return sorted(means.items(), key=lambda item: -item[1])


def best_tree(comparisons: Sequence[SpeedComparison]) -> str | None:
    """The first of `ranked_trees`; None without a draft."""
    return next((name for name, _ in ranked_trees(comparisons)), None)


class Divergence(NamedTuple):
    """The first token that differs, and the target's logits there in a one-row forward.

    In bfloat16 a tree's forward rounds differently from a single row's, so greedy texts may diverge
    at a near-tie.
    """

    position: int  # tokens that both texts share
    margin: float  # between the two highest logits
    highest: float


def find_divergence(
    target: LanguageModel, prompt_ids: Sequence[int], one: Sequence[int], other: Sequence[int]
) -> Divergence | None:
    """Compare two continuations of a prompt; None where one begins the other."""
    shared = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if shared is None:
        return None
    ids = torch.tensor([*prompt_ids, *one[:shared]], device=target.device)
    cache = target.new_cache()
    if len(ids) > 1:
        target.extend(ids[:-1], cache)
    position = torch.tensor([len(ids) - 1], device=target.device)
    best, second = target.forward(ids[-1:], position, None, cache)[0].topk(2).values.tolist()
    return Divergence(shared, best - second, best)


def describe_divergences(
    target: LanguageModel,
    prompts: Sequence[Sequence[int]],
    comparisons: Sequence[SpeedComparison],
) -> Iterator[str]:
    """A line of the report for each system but the first, of its greedy texts on all prompts."""
    for comparison in comparisons:
        if comparison.params.temperature > 0.0:
            continue
        (_, baseline), *others = comparison.runs.items()
        for name, runs in others:
            texts = zip(prompts, baseline, runs, strict=False)  # an interrupt leaves prompts out
            yield _described(name, [
                find_divergence(target, ids, base.token_ids, run.token_ids)
                for ids, base, run in texts
            ])  # fmt: skip


def _described(name: str, divergences: Sequence[Divergence | None]) -> str:
    found = [each for each in divergences if each is not None]
    if not found:
        return f"{name}: the same text on all {len(divergences)} prompts"
    positions = sorted(each.position for each in found)
    margins = sorted(each.margin for each in found)
    return (
        f"{name}: differs from the first system's text on {len(found)} of {len(divergences)} "
        f"prompts, after {positions[0]} to {positions[-1]} tokens; there the target's two best "
        f"logits are {margins[len(margins) // 2]:.3f} apart (median; largest {margins[-1]:.3f}, "
        f"at logits of about {found[0].highest:.0f})"
    )
