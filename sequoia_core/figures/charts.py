"""Charts as SVG or PNG files, drawn by matplotlib; an OSError is let through."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sequoia_core.errors import ParameterError
from sequoia_core.measure.spread import Spread

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sequoia_core.measure.acceptance import AcceptanceVector
    from sequoia_core.tree.budget_search import SearchResult

STYLE = Path(__file__).with_name("sequoia.mplstyle")
GREY = "#6b6b6b"  # of its text and axes
ENDINGS = (".svg", ".png")


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def check_picture(file: Path) -> None:
    """Refuse a picture that could not be drawn, before its figures are measured: ParameterError."""
    if file.suffix not in ENDINGS:
        raise ParameterError(f"{file}: a picture's name must end in {' or '.join(ENDINGS)}")
    if not can_draw():
        raise ParameterError(f"{file}: pictures are drawn by matplotlib; pip install matplotlib")


@contextmanager
def picture(file: Path, height: float, panels: int = 1) -> Iterator[list[Axes]]:
    """Axes in a row over one range of y, `height` inches high, written when the block ends.

    They get a legend if they have none yet. The same figures give the same file.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    with rc_context(fname=STYLE):
        figure = Figure(figsize=(8, height))
        row = list(figure.subplots(1, panels, sharey=True, squeeze=False)[0])
        yield row
        if row[0].get_legend() is None and row[0].get_legend_handles_labels()[1]:
            row[0].legend()
        dated = {"Software": None} if file.suffix == ".png" else {"Date": None}
        figure.savefig(file, format=file.suffix.removeprefix("."), metadata=dated)


def plot_spreads(axes: Axes, at: Sequence[float], spreads: Sequence[Spread], **look: Any) -> None:
    """A line through the middles, each with whiskers from its low to its high."""
    middles = [each.middle for each in spreads]
    axes.errorbar(at, middles, yerr=_whiskers(spreads), marker="o", **look)


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
    with picture(file, 0.6 + len(names) * (0.18 + 0.2 * len(groups))) as (axes,):
        for at, (group, spreads) in enumerate(groups.items()):
            shown = {place: each for place, each in enumerate(spreads) if each is not None}
            axes.barh(
                [place + at * height for place in shown], [each.middle for each in shown.values()],
                height, label=group, xerr=_whiskers([*shown.values()]),
                error_kw={"ecolor": GREY, "elinewidth": 1, "capsize": 0},
            )  # fmt: skip
        middle = (len(groups) - 1) * height / 2
        axes.set_yticks([place + middle for place in range(len(names))], names)
        axes.invert_yaxis()
        axes.set_xlim(left=0)
        axes.set_xlabel(label)


def draw_sizes(file: Path, speeds: Mapping[str, Mapping[int, Spread]]) -> None:
    """Speed over the number of nodes, one line a way of sampling; one node is plain decoding."""
    with picture(file, 3.4) as (axes,):
        for label, by_size in speeds.items():
            sizes = sorted(by_size)
            plot_spreads(axes, sizes, [by_size[size] for size in sizes], label=label)
        axes.set_xscale("log", base=2)
        _label_nodes(axes, "tokens/s")


def _label_nodes(axes: Axes, what: str) -> None:
    axes.xaxis.set_major_formatter(lambda nodes, _: f"{nodes:g}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("nodes of the tree")
    axes.set_ylabel(what)


def draw_search(file: Path, result: SearchResult) -> None:
    """Predicted speed-up over nodes, a line for each depth; the chosen tree is ringed."""
    from matplotlib import colormaps

    # those of fewer nodes than levels are the tree of a smaller depth at a higher cost
    deep = (each for each in result.candidates if each.nodes >= each.levels)
    candidates = sorted(deep, key=lambda each: each.nodes)
    levels = sorted({each.levels for each in candidates})
    best = result.best
    with picture(file, 3.6) as (axes,):
        for at, level in enumerate(levels):
            own = [each for each in candidates if each.levels == level]
            axes.plot(
                [each.nodes for each in own], [result.speedup(each) for each in own], marker="o",
                markersize=3, linewidth=1, label=f"depth {level - 1}",
                color=colormaps["viridis"](at / max(len(levels) - 1, 1)),
            )  # fmt: skip
        axes.plot(
            [best.nodes], [result.speedup(best)], "o", markersize=10, fillstyle="none", color=GREY,
            label="chosen", linestyle="none",
        )  # fmt: skip
        axes.axhline(1.0, color=GREY, linewidth=1, linestyle=":")
        if max(each.nodes for each in result.candidates) > 1:
            axes.set_xscale("log", base=2)
        _label_nodes(axes, "predicted speed-up")
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))


def draw_vector(file: Path, vector: AcceptanceVector) -> None:
    """Acceptance rate by rank, on a logarithmic scale; ranks never accepted are left out."""
    intervals = vector.intervals or [(rate, rate) for rate in vector.rates]
    ranked = enumerate(zip(vector.rates, intervals, strict=True), start=1)
    seen = {rank: Spread(low, rate, high) for rank, (rate, (low, high)) in ranked if rate > 0}
    label = "a_k"
    if vector.intervals:
        label += f", 95 % over {vector.prompts} prompts, resampled"
    with picture(file, 3.4) as (axes,):
        plot_spreads(axes, [*seen], [*seen.values()], markersize=4, label=label)
        if seen:
            axes.set_yscale("log", nonpositive="clip")
            axes.set_ylim(bottom=min(each.middle for each in seen.values()) / 2)
        axes.set_xlim(0.5, len(vector.rates) + 0.5)
        axes.set_xlabel("rank of the child, in drawn order")
        axes.set_ylabel("probability that it is the accepted one")
