"""Charts as SVG or PNG files, drawn by matplotlib; an OSError is let through.

Text stays text in an SVG, and the same figures give the same file.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sequoia_core.errors import ParameterError
from sequoia_core.measure.spread import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sequoia_core.measure.acceptance import AcceptanceVector
    from sequoia_core.tree.budget_search import Candidate, SearchResult

COLOURS = ("#2f6f8f", "#c8783c", "#5b8a57", "#8a5a8f")
GREY = "#6b6b6b"
"""Readable on white and on black alike."""
ENDINGS = (".svg", ".png")
_ROUNDING = 1e-9

def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def check_picture(file: Path) -> None:
    """Refuse a picture that could not be drawn, before its figures are measured: ParameterError."""
    if file.suffix not in ENDINGS:
        raise ParameterError(f"{file}: a picture's name must end in {' or '.join(ENDINGS)}")
    if not can_draw():
        raise ParameterError(f"{file}: pictures are drawn by matplotlib; pip install matplotlib")


def new_axes(height: float) -> Axes:
    """Axes of a new picture, `height` inches high."""
    return panels(height, 1)[0]


def panels(height: float, count: int) -> list[Axes]:
    """Axes of a new picture, in a row over one range of y; any of them saves the whole."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, height), layout="constrained")
    made = list(figure.subplots(1, count, sharey=True, squeeze=False)[0])
    for each in made:
        each.tick_params(colors=GREY)
        for text in (each.xaxis.label, each.yaxis.label, each.title):
            text.set_color(GREY)
        for side, spine in each.spines.items():
            spine.set(visible=side in ("left", "bottom"), color=GREY)
    return made


def save(axes: Axes, file: Path) -> None:
    """Write a picture, with a legend if it has none yet, in the format of its name's ending."""
    from matplotlib import rc_context

    if axes.get_legend() is None and axes.get_legend_handles_labels()[1]:
        axes.legend(frameon=False, labelcolor=GREY)
    figure = axes.get_figure(root=True)
    assert figure is not None
    kind = file.suffix.removeprefix(".") or "svg"
    dated = {"Date": None} if kind == "svg" else {"Software": None}
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "sequoia"}):
        figure.savefig(file, format=kind, transparent=True, metadata=dated)


def plot_spreads(axes: Axes, at: Sequence[float], spreads: Sequence[Spread], **look: Any) -> None:
    """A line through the middles, each with whiskers from its low to its high."""
    middles = [each.middle for each in spreads]
    axes.errorbar(at, middles, yerr=_whiskers(spreads), marker="o", capsize=2, **look)


def _whiskers(spreads: Sequence[Spread]) -> tuple[list[float], list[float]]:
    """Lengths below and above each middle."""
    below = [max(each.middle - each.low, 0.0) for each in spreads]
    return below, [max(each.high - each.middle, 0.0) for each in spreads]


def draw_bars(
    file: Path, names: Sequence[str], groups: Mapping[str, Sequence[Spread | None]], label: str
) -> None:
    """Horizontal bars with whiskers, a row for each name, a colour for each group.

    A group has a spread for each name, None for no bar; `label` is that of the axis.
    """
    height = 0.8 / max(len(groups), 1)
    axes = new_axes(0.6 + len(names) * (0.18 + 0.2 * len(groups)))
    for at, (group, spreads) in enumerate(groups.items()):
        shown = {place: each for place, each in enumerate(spreads) if each is not None}
        axes.barh(
            [place + at * height for place in shown], [each.middle for each in shown.values()],
            height, label=group, color=COLOURS[at % len(COLOURS)],
            xerr=_whiskers([*shown.values()]), error_kw={"ecolor": GREY, "elinewidth": 1},
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
        spreads = [by_size[size] for size in sizes]
        plot_spreads(axes, sizes, spreads, label=label, color=COLOURS[at % len(COLOURS)])
    axes.set_xscale("log", base=2)
    _label_nodes(axes, "tokens/s")
    save(axes, file)


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
    intervals = vector.intervals or [(rate, rate) for rate in vector.rates]
    seen = {
        rank: Spread(low, rate, high)
        for rank, (rate, (low, high)) in enumerate(zip(vector.rates, intervals, strict=True), 1)
        if rate > 0
    }
    label = "a_k"
    if vector.intervals:
        label += f" and 95 % over {vector.prompts} prompts, resampled"
    plot_spreads(axes, [*seen], [*seen.values()], color=COLOURS[0], markersize=4, label=label)
    if seen:
        axes.set_yscale("log", nonpositive="clip")
        axes.set_ylim(bottom=min(each.middle for each in seen.values()) / 2)
    axes.set_xlim(0.5, len(vector.rates) + 0.5)
    axes.set_xlabel("rank of the child, in drawn order")
    axes.set_ylabel("probability that it is the accepted one")
    save(axes, file)
