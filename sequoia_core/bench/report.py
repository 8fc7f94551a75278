"""A comparison as a table for people and as plain values for machines.

Owns the statistics: medians with spread, and ratios taken prompt by prompt. Measures nothing.
"""

from dataclasses import asdict, dataclass
from statistics import median

from sequoia_core.bench.runner import Comparison
from sequoia_core.bench.systems import Run


@dataclass(frozen=True, slots=True)
class Row:
    """One system's figures over all prompts; speeds are (lowest, median, highest).

    Attributes:
        name: the system.
        tokens_per_second: decoding speed.
        ratio: its speed over the first system's on the same prompt.
        tokens_per_step: median.
        draft_ms: median of the mean per step.
        verify_ms: likewise.
        bookkeeping_ms: likewise.
        bookkeeping_share: of a step's wall time, median; None where it is not known.
        same_text: prompts on which the tokens equal the first system's.
    """

    name: str
    tokens_per_second: tuple[float, float, float]
    ratio: tuple[float, float, float]
    tokens_per_step: float
    draft_ms: float
    verify_ms: float
    bookkeeping_ms: float
    bookkeeping_share: float | None
    same_text: int


def rows(comparison: Comparison) -> list[Row]:
    """Summarise; the first system is the baseline."""
    baseline = next(iter(comparison.runs.values()))
    return [_row(name, runs, baseline) for name, runs in comparison.runs.items()]


def _row(name: str, runs: list[Run], baseline: list[Run]) -> Row:
    pairs = list(zip(runs, baseline, strict=True))
    return Row(
        name=name,
        tokens_per_second=_spread([run.tokens_per_second for run in runs]),
        ratio=_spread([run.tokens_per_second / base.tokens_per_second for run, base in pairs]),
        tokens_per_step=median(run.tokens / run.steps for run in runs),
        draft_ms=median(run.draft_ms for run in runs),
        verify_ms=median(run.verify_ms for run in runs),
        bookkeeping_ms=median(run.bookkeeping_ms for run in runs),
        bookkeeping_share=_share(runs),
        same_text=sum(run.token_ids == base.token_ids for run, base in pairs),
    )


def _share(runs: list[Run]) -> float | None:
    known = [run for run in runs if run.verify_ms]
    if not known:
        return None
    return median(
        run.bookkeeping_ms / (run.draft_ms + run.verify_ms + run.bookkeeping_ms) for run in known
    )


def _spread(values: list[float]) -> tuple[float, float, float]:
    return min(values), median(values), max(values)


def table(comparison: Comparison) -> str:
    """Markdown."""
    count = len(next(iter(comparison.runs.values())))
    lines = [
        f"{count} prompts, {comparison.params.max_new_tokens} new tokens, "
        f"temperature {comparison.params.temperature:g}; median (lowest to highest)",
        "",
        "| system | tokens/s | ratio | tokens/step | draft ms | verify ms | rest ms | rest "
        "| same text |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows(comparison):
        low, middle, high = row.tokens_per_second
        ratio = f"{row.ratio[1]:.2f}x ({row.ratio[0]:.2f} to {row.ratio[2]:.2f})"
        split = ("", "", "", "")
        if row.bookkeeping_share is not None:
            split = (
                f"{row.draft_ms:.2f}", f"{row.verify_ms:.2f}", f"{row.bookkeeping_ms:.2f}",
                f"{row.bookkeeping_share:.1%}",
            )  # fmt: skip
        cells = (
            row.name, f"{middle:.1f} ({low:.1f} to {high:.1f})", ratio,
            f"{row.tokens_per_step:.2f}", *split, f"{row.same_text} of {count}",
        )  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def as_values(comparison: Comparison) -> dict[str, object]:
    """For JSON."""
    return {
        "params": asdict(comparison.params),
        "rows": [asdict(row) for row in rows(comparison)],
        "runs": {name: [asdict(run) for run in runs] for name, runs in comparison.runs.items()},
    }
