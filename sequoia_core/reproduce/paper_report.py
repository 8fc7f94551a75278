"""A filled table as text, as values for machines and as a picture, published figures beside it.

Owns the wording of a cell. Measures nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sequoia_core.reproduce.paper_table import CellResult, Outcome, PaperCell

if TYPE_CHECKING:
    from sequoia_core.reproduce.paper_facts import Figure

NOTHING = "-"
_HALF = 0.19  # between the middles of the two bars of a cell, halved
_LONGEST_NAME = 40
"""Characters of a pair's name in a picture; of a longer one, as paths make it, the end is shown."""


def here_text(outcome: Outcome) -> str:
    """What was measured, or why nothing was."""
    if outcome.result is None:
        return f"skipped: {outcome.skipped}"
    result = outcome.result
    return " · ".join((
        result.tokens_per_step.text(),
        result.speedup.text(2, "x"),
        f"{result.tree_ms.middle:.1f} ms, plain {result.plain_ms.middle:.1f}",
    ))  # fmt: skip


def paper_text(figure: Figure | None) -> str:
    """What is published for a cell."""
    if figure is None:
        return NOTHING
    parts = [f"{figure.tokens:.2f}", f"{figure.speedup:.2f}x"]
    if figure.ms is not None:
        parts.append(f"{figure.ms:.1f} ms")
    return " · ".join(parts)


def data_text(cell: PaperCell) -> str:
    """A data set's name; of a file or folder the last part."""
    return Path(cell.dataset).name


def _label(cell: PaperCell) -> str:
    name = cell.pair if len(cell.pair) <= _LONGEST_NAME else f"…{cell.pair[-_LONGEST_NAME:]}"
    return f"{name}, {data_text(cell)}, T={cell.temperature:g}"


def tree_text(cell: PaperCell, result: CellResult | None) -> str:
    """The size of the tree that was decoded with; the name of one that was not."""
    if result is not None:
        return result.tree
    return NOTHING if cell.growmap is None else "/".join(Path(cell.growmap).parts[-2:])


def outcome_values(outcome: Outcome) -> dict[str, Any]:
    """One cell for JSON."""
    cell, result = outcome.cell, outcome.result
    return {
        "pair": cell.pair,
        "dataset": cell.dataset,
        "temperature": cell.temperature,
        "growmap": cell.growmap,
        "result": result.as_values() if result else None,
        "skipped": outcome.skipped or None,
        "paper": asdict(cell.figure) if cell.figure else None,
    }


def draw_paper(file: Path, outcomes: Sequence[Outcome]) -> None:
    """Tokens per step of each cell, measured beside published.

    Args:
        file: SVG or PNG to write.
        outcomes: at least one.

    Raises:
        OSError: the file cannot be written.
    """
    from sequoia_core.figures.picture import COLOURS, GREY, axes, save

    drawn = axes(1.2 + 0.3 * len(outcomes))
    measured = [(at, each.result) for at, each in enumerate(outcomes) if each.result]
    published = [(at, each.cell.figure) for at, each in enumerate(outcomes) if each.cell.figure]
    if measured:
        rates = [result.tokens_per_step for _, result in measured]
        whiskers = (
            [max(rate.value - rate.low, 0.0) for rate in rates],
            [max(rate.high - rate.value, 0.0) for rate in rates],
        )
        drawn.barh(
            [at - _HALF for at, _ in measured], [rate.value for rate in rates], 1.8 * _HALF,
            xerr=whiskers, ecolor=GREY, color=COLOURS[0], label="here",
        )  # fmt: skip
    if published:
        places = [at + _HALF for at, _ in published]
        tokens = [figure.tokens for _, figure in published]
        drawn.barh(places, tokens, 1.8 * _HALF, color=COLOURS[1], label="published")
    drawn.set_yticks(range(len(outcomes)), [_label(each.cell) for each in outcomes])
    drawn.invert_yaxis()
    drawn.set_xlim(left=0)
    drawn.set_xlabel("tokens per step")
    save(drawn, file)
