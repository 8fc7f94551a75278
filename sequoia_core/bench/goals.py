"""The goals for the embedded pair on two cores, compared with what was measured.

A goal whose system did not take part is shown as not measured.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter

from sequoia_core.bench import names
from sequoia_core.bench.conditions import busy_name
from sequoia_core.bench.findings import BenchFindings, best_tree, fastest, ratio, summarize
from sequoia_core.bench.runs import Run, SpeedComparison

EMBEDDED_TARGET = "SmolLM2-135M-Instruct"  # name of the target that the goals are for
MOST_MEMORY = 420e6
MOST_CHAT_MEMORY = 500e6
_NONE = "not measured"


@dataclass(frozen=True, slots=True)
class Score:
    what: str
    measured: str
    wanted: str = ""  # "" where there is no goal
    reached: bool | None = None  # None where it was not measured, or there is no goal


def scores(findings: BenchFindings) -> Iterator[Score]:
    """Every goal; pairs other than the embedded one have results without goals."""
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
        yield _ratio(what, findings.busy, busy_name(name), name, wanted)


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
