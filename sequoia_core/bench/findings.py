"""Results of a benchmark as plain values, their statistics, and goals to compare them with."""

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

EMBEDDED_TARGET = "SmolLM2-135M-Instruct"  # name of the target that the goals are for
PREFILL_TOKENS = 1400
MOST_MEMORY = 420e6
MOST_CHAT_MEMORY = 500e6
_NONE = "not measured"


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
        tokens_per_second=_speed(runs),
        ratio=ratio(runs, baseline),
        tokens_per_step=median(run.tokens / run.steps for run in runs),
        first_ms=1e3 * median(run.first_seconds for run in runs),
        tree=Counter(run.tree for run in runs).most_common(1)[0][0],
        parts=averaged(parts, median) if parts else None,
        same_text=sum(run.token_ids == base.token_ids for run, base in texts),
    )


def _speed(runs: Sequence[Run]) -> Spread:
    return Spread.of([run.tokens_per_second for run in runs])


def speeds(comparison: SpeedComparison) -> dict[str, Spread]:
    """Tokens per second by system."""
    return {name: _speed(runs) for name, runs in comparison.runs.items()}


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


def fastest(comparison: SpeedComparison, systems: Sequence[str]) -> str:
    """The one of these systems with the highest median speed; the first if none took part."""
    known = [name for name in systems if name in comparison.runs]
    return max(known, key=lambda name: _speed(comparison.runs[name]).middle, default=systems[0])


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


@dataclass(frozen=True, slots=True)
class Score:
    what: str
    measured: str
    wanted: str = ""  # "" where there is no goal
    reached: bool | None = None  # None where it was not measured, or there is no goal


def scores(findings: BenchFindings) -> Iterator[Score]:
    """Every goal, for the embedded pair on two cores; other pairs have results without goals."""
    embedded = findings.pair.target == EMBEDDED_TARGET and findings.pair.device == "cpu"
    for score in _all_scores(findings):
        yield score if embedded else Score(score.what, score.measured)


def _all_scores(findings: BenchFindings) -> Iterator[Score]:
    tree = best_tree(findings.comparisons) or names.ADAPTIVE_LOOKUP
    for comparison in findings.comparisons:
        for faster, slower, wanted, what in _speed_goals(comparison, tree):
            yield _ratio(f"{what}, {comparison.label}", comparison, faster, slower, wanted)
    for comparison in findings.comparisons:
        same = [each.same_text for each in summarize(comparison) if each.name in names.TREES]
        if comparison.params.temperature == 0.0 and same:
            fewest, prompts = min(same), len(comparison.runs[names.PLAIN])
            what = "texts equal to plain decoding's, T = 0, the fewest of all trees"
            every = f"{prompts} of {prompts}"
            yield Score(what, f"{fewest} of {prompts}", every, fewest == prompts)
    what = "AVX2 only: plain / plain by PyTorch in float32"
    yield _ratio(what, findings.avx2, names.AVX2, names.FLOAT32_AVX2, 8.0)
    what = "peak memory of an answer, without a screen"
    yield _at_most(what, findings.memory.get(tree), MOST_MEMORY)
    what = "memory of the whole chat, once it has measured the machine"
    yield _at_most(what, findings.chat_memory, MOST_CHAT_MEMORY)
    what = f"reading {findings.prefill_tokens:,} tokens / the same by PyTorch"
    reading = (names.PLAIN, names.PYTORCH, 1.6, lambda run: 1 / run.first_seconds)
    yield _ratio(what, findings.prefill, *reading)
    for name, wanted in ((names.PLAIN, 0.55), (tree, None), (names.LLAMA_CPP, None)):
        what = f"{name}: with a process that keeps one core busy / alone"
        yield _ratio(what, findings.busy, names.busy(name), name, wanted)


def _speed_goals(
    comparison: SpeedComparison, tree: str
) -> list[tuple[str, str, float | None, str]]:
    """The faster system, the slower one, the ratio that is wanted, and how it is called."""
    plain, temperature = names.PLAIN, comparison.params.temperature
    wanted = {0.0: 1.65, 0.6: 1.5}.get(temperature)
    best = (tree, plain, wanted, f"best tree ({tree}) / plain")
    if temperature:
        return [best]
    llama = fastest(comparison, names.LLAMA_CPP_PLAIN)
    quick = fastest(comparison, names.LLAMA_CPP_REQUANTISED)
    drafting = fastest(comparison, names.LLAMA_CPP_SPECULATING)
    return [
        (plain, llama, 2.0, f"plain / {llama}, same file"),
        (plain, quick, None, f"plain / {quick}"),
        (plain, names.HF_PLAIN, 9.0, f"plain / {names.HF_PLAIN}"),
        (plain, names.PYTORCH, None, "plain / plain by PyTorch"),
        best,
        (tree, llama, 3.3, f"best tree / {llama}, same file"),
        (tree, drafting, None, f"best tree / {drafting}"),
    ]


def _ratio(
    what: str, comparison: SpeedComparison | None, faster: str, slower: str, wanted: float | None,
    speed: Callable[[Run], float] = attrgetter("tokens_per_second"),
) -> Score:  # fmt: skip
    goal = "" if wanted is None else f"{wanted:g}x"
    if comparison is None or not {faster, slower} <= comparison.runs.keys():
        return Score(what, _NONE, goal)
    found = ratio(comparison.runs[faster], comparison.runs[slower], speed)
    reached = None if wanted is None else found.middle >= wanted
    return Score(what, found.text(2, "x"), goal, reached)


def _at_most(what: str, used: int | None, most: float) -> Score:
    goal = f"at most {megabytes(most)}"
    if used is None:
        return Score(what, _NONE, goal)
    return Score(what, megabytes(used), goal, used <= most)


def megabytes(size: float) -> str:
    """`427 MB`."""
    return f"{size / 1e6:.0f} MB"
