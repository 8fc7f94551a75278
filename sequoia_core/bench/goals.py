"""What this engine is meant to reach with the embedded pair on two cores, and what was measured.

Owns the list of goals and their wording. A goal whose system did not take part is shown as such.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from sequoia_core.bench import names
from sequoia_core.bench.conditions import busy_name, prefill_speeds
from sequoia_core.bench.findings import Findings
from sequoia_core.bench.report import best_tree, fastest, ratio, rows
from sequoia_core.bench.runner import Comparison
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
        what: is compared with what.
        measured: in words.
        wanted: in words; "" is nothing in particular.
        reached: None where it was not measured, or nothing is wanted.
    """

    what: str
    measured: str
    wanted: str = ""
    reached: bool | None = None


def scores(findings: Findings) -> Iterator[Score]:
    """Every goal; what is wanted is left out for other pairs than the embedded one."""
    own = findings.pair.target == EMBEDDED_TARGET and findings.pair.device == "cpu"
    for score in _all_scores(findings):
        yield score if own else Score(score.what, score.measured)


def score_lines(findings: Findings) -> Iterator[str]:
    """A table in Markdown."""
    yield "| | measured | wanted | reached |"
    yield "|---|---|---|---|"
    for score in scores(findings):
        verdict = {None: "", True: "yes", False: "no"}[score.reached]
        yield f"| {score.what} | {score.measured} | {score.wanted} | {verdict} |"


def memory_lines(used: Mapping[str, int], weights: int) -> Iterator[str]:
    """A table of peak memory.

    Args:
        used: bytes by system.
        weights: bytes of both models in bfloat16.
    """
    yield (
        "Peak memory of a process of its own, interpreter and libraries included. Both models' "
        f"weights in bfloat16 are {_mb(weights)}."
    )
    yield ""
    yield "| system | peak |"
    yield "|---|---|"
    for name, peak in used.items():
        yield f"| {name} | {_mb(peak)} |"


def _all_scores(findings: Findings) -> Iterator[Score]:
    tree = best_tree(findings.comparisons) or names.ADAPTIVE_LOOKUP
    for comparison in findings.comparisons:
        yield from _speeds(comparison, tree)
    yield from _texts(findings)
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
    yield _prefill(findings)
    for name, wanted in ((names.PLAIN, 0.55), (tree, None), (names.LLAMA_CPP, None)):
        what = f"{name}: with a process that keeps one core busy / alone"
        yield _ratio(conditions.busy, busy_name(name), name, wanted, what)


def _speeds(comparison: Comparison, tree: str) -> Iterator[Score]:
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
    comparison: Comparison | None, faster: str, slower: str, wanted: float | None, what: str
) -> Score:
    words = "" if wanted is None else f"{wanted:g}x"
    if comparison is None or not {faster, slower} <= comparison.runs.keys():
        return Score(what, _NONE, words)
    found = ratio(comparison.runs[faster], comparison.runs[slower])
    return _at_least(what, found, wanted, words)


def _at_least(what: str, found: Spread, wanted: float | None, words: str) -> Score:
    reached = None if wanted is None else found.middle >= wanted
    return Score(what, found.text(2, "x"), words, reached)


def _texts(findings: Findings) -> Iterator[Score]:
    """Whether every way to speculate gives plain decoding's texts at temperature 0."""
    for comparison in findings.comparisons:
        own = [row for row in rows(comparison) if row.name in names.TREES]
        if comparison.params.temperature == 0.0 and own:
            prompts = len(comparison.runs[names.PLAIN])
            fewest = min(row.same_text for row in own)
            what = "texts equal to plain decoding's, T = 0, the fewest of all trees"
            every = f"{prompts} of {prompts}"
            yield Score(what, f"{fewest} of {prompts}", every, fewest == prompts)


def _bytes(what: str, used: int | None, most: float) -> Score:
    words = f"at most {_mb(most)}"
    if used is None:
        return Score(what, _NONE, words)
    return Score(what, _mb(used), words, used <= most)


def _prefill(findings: Findings) -> Score:
    comparison, tokens = findings.conditions.prefill, findings.conditions.prefill_tokens
    what = f"reading {tokens:,} tokens / the same by PyTorch"
    if comparison is None or not {names.PLAIN, names.PYTORCH} <= comparison.runs.keys():
        return Score(what, _NONE, "1.6x")
    speeds = prefill_speeds(comparison, tokens)
    pairs = zip(speeds[names.PLAIN], speeds[names.PYTORCH], strict=True)
    return _at_least(what, Spread.of([own / other for own, other in pairs]), 1.6, "1.6x")


def _mb(size: float) -> str:
    return f"{size / 1e6:.0f} MB"
