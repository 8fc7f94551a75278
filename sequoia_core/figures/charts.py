"""Charts of speeds, of a tree search and of an acceptance vector, in SVG or PNG files.

An OSError is let through.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from sequoia_core.figures.picture import COLOURS, GREY, save
from sequoia_core.figures.picture import axes as new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sequoia_core.measure.acceptance import AcceptanceVector
    from sequoia_core.measure.spread import Spread
    from sequoia_core.tree.budget_search import Candidate, SearchResult

_ROUNDING = 1e-9


def draw_bars(
    file: Path, names: Sequence[str], groups: Mapping[str, Sequence[Spread | None]], label: str
) -> None:
    """Horizontal bars with whiskers, a row for each name, a colour for each group.

    A group has a spread for each name, None for no bar; `label` is that of the axis.
    """
    height = 0.8 / max(len(groups), 1)
    axes = new_axes(0.6 + len(names) * (0.18 + 0.2 * len(groups)))
    for at, (group, spreads) in enumerate(groups.items()):
        shown = [(place, spread) for place, spread in enumerate(spreads) if spread is not None]
        axes.barh(
            [place + at * height for place, _ in shown], [spread.middle for _, spread in shown],
            height, label=group, color=COLOURS[at % len(COLOURS)],
            xerr=_whiskers([spread for _, spread in shown]),
            error_kw={"ecolor": GREY, "elinewidth": 1},
        )  # fmt: skip
    axes.set_yticks([place + (len(groups) - 1) * height / 2 for place in range(len(names))], names)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(label)
    save(axes, file)


def draw_sizes(file: Path, speeds: Mapping[str, Mapping[int, Spread]]) -> None:
    """Speed over the number of nodes, one line a way of sampling; one node is plain decoding."""
    axes = new_axes(3.4)
    for at, (label, by_size) in enumerate(speeds.items()):
        sizes = sorted(by_size)
        shown = [by_size[size] for size in sizes]
        axes.errorbar(
            sizes, [spread.middle for spread in shown], yerr=_whiskers(shown), marker="o",
            label=label, color=COLOURS[at % len(COLOURS)], capsize=2,
        )  # fmt: skip
    axes.set_xscale("log", base=2)
    _label_nodes(axes, "tokens/s")
    save(axes, file)


def _whiskers(spreads: Sequence[Spread]) -> tuple[list[float], list[float]]:
    below = [spread.middle - spread.low for spread in spreads]
    return below, [spread.high - spread.middle for spread in spreads]


def _label_nodes(axes: Axes, what: str) -> None:
    axes.xaxis.set_major_formatter(lambda nodes, _: f"{nodes:g}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("nodes of the tree")
    axes.set_ylabel(what)


def draw_search(file: Path, result: SearchResult) -> None:
    """Predicted speed-up over nodes, a line for each depth; the chosen tree is ringed."""
    from matplotlib import colormaps

    axes = new_axes(3.6)
    candidates = sorted(_using_their_depth(result.candidates), key=lambda each: each.nodes)
    levels = sorted({each.levels for each in candidates})
    for at, level in enumerate(levels):
        own = [each for each in candidates if each.levels == level]
        axes.plot(
            [each.nodes for each in own], [result.speedup(each) for each in own], marker="o",
            markersize=3, linewidth=1, label=f"depth {level - 1}",
            color=colormaps["viridis"](at / max(len(levels) - 1, 1)),
        )  # fmt: skip
    best = result.best
    axes.plot(
        [best.nodes], [result.speedup(best)], "o", markersize=10, fillstyle="none", color=GREY,
        label="chosen", linestyle="none",
    )  # fmt: skip
    axes.axhline(1.0, color=GREY, linewidth=1, linestyle=":")
    if max(each.nodes for each in result.candidates) > 1:
        axes.set_xscale("log", base=2)
    _label_nodes(axes, "predicted speed-up")
    axes.legend(frameon=False, labelcolor=GREY, loc="center left", bbox_to_anchor=(1.0, 0.5))
    save(axes, file)


def _using_their_depth(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Without those that are the tree of a smaller depth at a higher cost."""
    known: dict[int, float] = {}
    kept = []
    for each in sorted(candidates, key=lambda each: each.levels):
        if each.expected_tokens > known.get(each.nodes, 0.0) * (1 + _ROUNDING):
            known[each.nodes] = each.expected_tokens
            kept.append(each)
    return kept


def draw_vector(file: Path, vector: AcceptanceVector) -> None:
    """Acceptance rate by rank, on a logarithmic scale; ranks never accepted are left out."""
    axes = new_axes(3.4)
    seen = [at for at, rate in enumerate(vector.rates) if rate > 0]
    ranks = [at + 1 for at in seen]
    rates = [vector.rates[at] for at in seen]
    axes.plot(ranks, rates, marker="o", markersize=4, color=COLOURS[0], label="a_k")
    if vector.intervals:
        within = [vector.intervals[at] for at in seen]
        below = [max(rate - low, 0.0) for rate, (low, _) in zip(rates, within, strict=True)]
        above = [max(high - rate, 0.0) for rate, (_, high) in zip(rates, within, strict=True)]
        axes.errorbar(
            ranks, rates, yerr=(below, above), fmt="none", ecolor=GREY, elinewidth=1, capsize=2,
            label=f"95 % over {vector.prompts} prompts, resampled",
        )  # fmt: skip
    if seen:
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(bottom=min(rates) / 2)
    axes.set_xlim(0.5, len(vector.rates) + 0.5)
    axes.set_xlabel("rank of the child, in drawn order")
    axes.set_ylabel("probability that it is the accepted one")
    save(axes, file)
