"""A picture of a tree search: predicted speed-up over nodes, a line for each depth."""

from collections.abc import Sequence
from pathlib import Path

from sequoia_core.figures.picture import GREY, axes, save
from sequoia_core.tree.budget_search import Candidate, SearchResult

_LINES = "viridis"
_ROUNDING = 1e-9


def draw_search(file: Path, result: SearchResult) -> None:
    """Speed-up of every candidate that uses its depth; the choice is ringed.

    Args:
        file: SVG or PNG to write.
        result: of the search.

    Raises:
        OSError: the file cannot be written.
    """
    from matplotlib import colormaps

    drawn = axes(3.6)
    candidates = _as_deep_as_named(result.candidates)
    levels = sorted({each.levels for each in candidates})
    for at, level in enumerate(levels):
        own = sorted(
            (each for each in candidates if each.levels == level),
            key=lambda each: each.nodes,
        )
        colour = colormaps[_LINES](at / max(len(levels) - 1, 1))
        speeds = [result.speedup(each) for each in own]
        drawn.plot(
            [each.nodes for each in own],
            speeds,
            marker="o",
            markersize=3,
            linewidth=1,
            color=colour,
            label=f"depth {level - 1}",
        )
    best = result.best
    drawn.plot(
        [best.nodes], [result.speedup(best)], "o", markersize=10, fillstyle="none", color=GREY,
        label="chosen", linestyle="none",
    )  # fmt: skip
    drawn.axhline(1.0, color=GREY, linewidth=1, linestyle=":")
    if max(each.nodes for each in result.candidates) > 1:
        drawn.set_xscale("log", base=2)
    drawn.xaxis.set_major_formatter(lambda nodes, _: f"{nodes:g}")
    drawn.set_ylim(bottom=0)
    drawn.set_xlabel("nodes of the tree")
    drawn.set_ylabel("predicted speed-up")
    drawn.legend(frameon=False, labelcolor=GREY, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(drawn, file)


def _as_deep_as_named(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Without those that another level adds nothing to: the same tree at a higher price."""
    known: dict[int, float] = {}
    kept = []
    for each in sorted(candidates, key=lambda each: each.levels):
        if each.expected_tokens > known.get(each.nodes, 0.0) * (1 + _ROUNDING):
            known[each.nodes] = each.expected_tokens
            kept.append(each)
    return kept
