"""Pictures of speeds: by system, and by the number of a tree's nodes.

A terminal gets bars of characters from the report instead.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from sequoia_core.figures.picture import COLOURS, GREY, can_draw, save
from sequoia_core.figures.picture import axes as new_axes
from sequoia_core.measure.spread import Spread

__all__ = ["can_draw", "draw_sizes", "draw_systems"]


def draw_systems(file: Path, speeds: Mapping[str, Sequence[tuple[str, Spread]]]) -> None:
    """Horizontal bars, one group a system, one colour a way of sampling.

    Args:
        file: SVG to write.
        speeds: tokens/s by system, by the label of a way of sampling.
    """
    systems = list(dict.fromkeys(name for each in speeds.values() for name, _ in each))
    height = 0.8 / len(speeds)
    axes = new_axes(0.6 + len(systems) * (0.18 + 0.2 * len(speeds)))
    for at, (label, each) in enumerate(speeds.items()):
        spreads = dict(each)
        there = [place for place, name in enumerate(systems) if name in spreads]
        shown = [spreads[systems[place]] for place in there]
        axes.barh(
            [place + at * height for place in there],
            [spread.middle for spread in shown],
            height,
            label=label,
            color=COLOURS[at % len(COLOURS)],
            xerr=_whiskers(shown),
            error_kw={"ecolor": GREY, "elinewidth": 1},
        )
    axes.set_yticks([place + (len(speeds) - 1) * height / 2 for place in range(len(systems))])
    axes.set_yticklabels(systems)
    axes.invert_yaxis()
    axes.set_xlabel("tokens/s, median with lowest and highest")
    save(axes, file)


def draw_sizes(file: Path, speeds: Mapping[str, Mapping[int, Spread]]) -> None:
    """Speed over the number of nodes, one line a way of sampling; one node is plain decoding."""
    axes = new_axes(3.4)
    for at, (label, by_size) in enumerate(speeds.items()):
        sizes = sorted(by_size)
        shown = [by_size[size] for size in sizes]
        colour = COLOURS[at % len(COLOURS)]
        middles = [spread.middle for spread in shown]
        axes.errorbar(
            sizes, middles, yerr=_whiskers(shown), marker="o", label=label, color=colour, capsize=2
        )
    axes.set_xscale("log", base=2)
    axes.xaxis.set_major_formatter(lambda size, _: f"{size:g}")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("nodes of the tree")
    axes.set_ylabel("tokens/s")
    save(axes, file)


def _whiskers(spreads: Sequence[Spread]) -> tuple[list[float], list[float]]:
    below = [spread.middle - spread.low for spread in spreads]
    return below, [spread.high - spread.middle for spread in spreads]
