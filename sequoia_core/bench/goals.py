"""The goals for the embedded pair on two cores, compared with what was measured.

A goal whose system did not take part is shown as not measured.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from sequoia_core.bench import names
from sequoia_core.bench.comparison import SpeedComparison
from sequoia_core.bench.conditions import busy_name, prefill_speeds
from sequoia_core.bench.findings import BenchFindings
from sequoia_core.bench.summary import best_tree, fastest, ratio, summarize
from sequoia_core.measure.spread import Spread

EMBEDDED_TARGET = "SmolLM2-135M-Instruct"
"""Name of the target that the goals are for."""
MOST_MEMORY = 420e6
MOST_CHAT_MEMORY = 500e6
_NONE = "not measured"


@dataclass(frozen=True, slots=True)
class Score:
    """One line of the table of goals.

    Attributes:
        what: the comparison.
        measured: its result.
        wanted: the goal; "" where there is none.
        reached: None where it was not measured, or there is no goal.
    """

    what: str
    measured: str
    wanted: str = ""
    reached: bool | None = None


def scores(findings: BenchFindings) -> Iterator[Score]:
    """Every goal; pairs other than the embedded one have results without goals."""
    embedded = findings.pair.target == EMBEDDED_TARGET and findings.pair.device == "cpu"
    for score in _all_scores(findings):
        yield score if embedded else Score(score.what, score.measured)


def _all_scores(findings: BenchFindings) -> Iterator[Score]:
    tree = best_tree(findings.comparisons) or names.ADAPTIVE_LOOKUP
    for comparison in findings.comparisons:
        yield from _speeds(comparison, tree)
    for comparison in findings.comparisons:
        yield from _texts(comparison)
    conditions = findings.conditions
    yield _ratio(
        conditions.avx2, names.AVX2, names.FLOAT32_AVX2, 8.0,
        "AVX2 only: plain / plain by PyTorch in float32",
    )  # fmt: skip
    yield _bytes(
        "peak memory of an answer, without a screen", findings.memory.get(tree), MOST_MEMORY
    )
    yield _bytes(
        "memory of the whole chat, once it has measured the machine",
        findings.chat_memory,
        MOST_CHAT_MEMORY,
    )
    yield _prefill(conditions.prefill, conditions.prefill_tokens)
    for name, wanted in ((names.PLAIN, 0.55), (tree, None), (names.LLAMA_CPP, None)):
        what = f"{name}: with a process that keeps one core busy / alone"
        yield _ratio(conditions.busy, busy_name(name), name, wanted, what)


def _speeds(comparison: SpeedComparison, tree: str) -> Iterator[Score]:
    greedy = comparison.params.temperature == 0.0
    at = f", T = {comparison.params.temperature:g}"
    llama = fastest(comparison, names.LLAMA_CPP_PLAIN) or names.LLAMA_CPP
    if greedy:
        yield _ratio(comparison, names.PLAIN, llama, 2.0, f"plain / {llama}, same file{at}")
        quick = fastest(comparison, names.LLAMA_CPP_REQUANTISED) or names.LLAMA_CPP_Q4_0
        yield _ratio(comparison, names.PLAIN, quick, None, f"plain / {quick}{at}")
        yield _ratio(comparison, names.PLAIN, names.HF_PLAIN, 9.0, f"plain / {names.HF_PLAIN}{at}")
        yield _ratio(comparison, names.PLAIN, names.PYTORCH, None, f"plain / plain by PyTorch{at}")
    wanted = {0.0: 1.65, 0.6: 1.5}.get(comparison.params.temperature)
    yield _ratio(comparison, tree, names.PLAIN, wanted, f"best tree ({tree}) / plain{at}")
    if greedy:
        yield _ratio(comparison, tree, llama, 3.3, f"best tree / {llama}, same file{at}")
        drafting = fastest(comparison, names.LLAMA_CPP_SPECULATING) or names.LLAMA_CPP_LOOKUP
        yield _ratio(comparison, tree, drafting, None, f"best tree / {drafting}{at}")


def _ratio(
    comparison: SpeedComparison | None, faster: str, slower: str, wanted: float | None, what: str
) -> Score:
    found = None
    if comparison is not None and {faster, slower} <= comparison.runs.keys():
        found = ratio(comparison.runs[faster], comparison.runs[slower])
    return _at_least(what, found, wanted)


def _at_least(what: str, found: Spread | None, wanted: float | None) -> Score:
    goal = "" if wanted is None else f"{wanted:g}x"
    if found is None:
        return Score(what, _NONE, goal)
    reached = None if wanted is None else found.middle >= wanted
    return Score(what, found.text(2, "x"), goal, reached)


def _texts(comparison: SpeedComparison) -> Iterator[Score]:
    """Whether every way to speculate gives plain decoding's texts at temperature 0."""
    trees = [each for each in summarize(comparison) if each.name in names.TREES]
    if comparison.params.temperature == 0.0 and trees:
        prompts = len(comparison.runs[names.PLAIN])
        fewest = min(each.same_text for each in trees)
        what = "texts equal to plain decoding's, T = 0, the fewest of all trees"
        yield Score(what, f"{fewest} of {prompts}", f"{prompts} of {prompts}", fewest == prompts)


def _bytes(what: str, used: int | None, most: float) -> Score:
    goal = f"at most {megabytes(most)}"
    if used is None:
        return Score(what, _NONE, goal)
    return Score(what, megabytes(used), goal, used <= most)


def _prefill(comparison: SpeedComparison | None, tokens: int) -> Score:
    found = None
    if comparison is not None and {names.PLAIN, names.PYTORCH} <= comparison.runs.keys():
        speeds = prefill_speeds(comparison, tokens)
        pairs = zip(speeds[names.PLAIN], speeds[names.PYTORCH], strict=True)
        found = Spread.of([own / other for own, other in pairs])
    return _at_least(f"reading {tokens:,} tokens / the same by PyTorch", found, 1.6)


def megabytes(size: float) -> str:
    """`427 MB`."""
    return f"{size / 1e6:.0f} MB"
