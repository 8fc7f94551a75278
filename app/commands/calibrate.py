"""`sequoia calibrate`: measure the pair on this machine now, and draw what was found."""

from collections.abc import Iterator, Sequence
from itertools import count, cycle
from typing import TYPE_CHECKING, Annotated, NamedTuple

from ..config import model_choice
from ..config.settings import Settings
from .console import progress_line
from .options import MODEL_OPTIONS, flag, with_settings

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from sequoia_core.measure.calibration import Calibration
    from sequoia_core.measure.grid import GridComparison
    from sequoia_core.tree.growmap import GrowMap

_WIDEST, _HEIGHT = 88, 14
_AXIS, _NAME = 8, 14
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a braille cell by row and column."""
_STYLES = ("cyan", "green", "yellow", "magenta", "blue", "red")


@with_settings(*MODEL_OPTIONS, "temperature")
def calibrate(
    settings: Settings,
    grid: Annotated[
        bool, flag("--grid", "Also decode with trees of many sizes, to check; minutes.")
    ] = False,
) -> None:
    """Measure forward times and acceptance of the pair, and keep the figures.

    Acceptance is counted at temperature 0 and at the chosen one.
    """
    temperature = settings.sampling().temperature
    comparison = None
    with progress_line() as progress:
        from sequoia_core.measure.tuner import Tuner

        pair = model_choice.load_chosen(settings, progress)
        tuner = Tuner(pair)
        for message, fraction in tuner.measure(temperature):
            progress(message, fraction)
        if grid and tuner.online is not None and tuner.online.calibration.drafts:
            from sequoia_core.measure.grid import compare
            from sequoia_core.measure.tuner import TYPICAL_CONTEXT

            model = tuner.online.speed_model(temperature, TYPICAL_CONTEXT)
            comparison = compare(pair, model, temperature, progress)
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(_WIDEST, console.width)
    if tuner.calibration is not None:
        console.print(*_figures(tuner.calibration, temperature, console.width), sep="\n")
    if comparison is not None:
        console.print(*_compared(comparison, console.width), sep="\n")
    console.print(tuner.summary(temperature), markup=False)


def _figures(
    calibration: "Calibration", temperature: float, width: int
) -> "Iterator[RenderableType]":
    """The curve t(n), the cost of drafting, and acceptance by depth and rank."""
    target, draft = calibration.times.target, calibration.times.draft
    series = [
        Series(f"{context} tokens", list(zip(curve.rows, curve.milliseconds, strict=True)))
        for context, curve in zip(target.contexts, target.curves, strict=True)
    ]
    yield from chart(series, "rows of a forward", "ms", width)
    yield ""
    if not calibration.drafts:
        return
    overhead = calibration.times.overhead(temperature)
    rows = draft.curves[0].rows
    passes = ", ".join(f"{n}: {draft.at(0)(n) + overhead.level_ms:.2f}" for n in rows)
    yield f"draft forward, ms by rows   {passes}"
    yield (
        f"overhead of a step, ms   {overhead.base_ms:.2f} + {overhead.node_ms:.3f} per node; of a "
        f"plain step {overhead.plain_ms:.2f}"
    )
    yield "accepted at"
    for each in dict.fromkeys((0.0, temperature)):
        record = calibration.record(each)
        for depth, rates in enumerate((record.rates, *record.deeper), start=1):
            ranks = " ".join(f"{rate:.3f}" for rate in rates)
            yield f"temperature {each:g}, depth {depth}, by rank   {ranks}"


def _compared(comparison: "GridComparison", width: int) -> "Iterator[RenderableType]":
    """Predicted against measured, as a chart over nodes and as a table."""
    from rich.table import Table

    cells = [cell for cell in comparison.cells if cell.tree.size > 1]
    cells.sort(key=lambda cell: (cell.tree.size, cell.tree.depth))
    lines: dict[int, list[tuple[float, float]]] = {}
    table = Table("nodes", "depth", "predicted", "measured", "tokens per pass", "step / plain step")
    for cell in cells:
        size, depth = cell.tree.size, cell.tree.depth
        lines.setdefault(depth, []).append((size, cell.predicted))
        best = "best" if cell is comparison.best else ""
        picked = "picked" if cell is comparison.picked else ""
        table.add_row(
            str(size),
            str(depth),
            f"{cell.predicted:.2f}x",
            f"{cell.measured:.2f}x {best} {picked}".rstrip(),
            f"{cell.tokens_per_step:.2f}",
            f"{cell.step_ratio:.2f}",
        )
    series = [Series(f"depth {depth}", lines[depth]) for depth in sorted(lines)]
    measured = [(cell.tree.size, cell.measured) for cell in cells]
    series.append(Series("● measured", measured, mark="●"))
    yield from chart(series, "nodes", "speed-up", width)
    yield table
    yield (
        f"the picked tree ({_shape(comparison.picked.tree)}) is "
        f"{comparison.seeming_shortfall:.1%} below the best of the grid "
        f"({_shape(comparison.best.tree)}), or "
        f"{comparison.shortfall:.1%} below what is best on half of the prompts where both are "
        f"judged on the other half; predictions are off by {comparison.error:.1%} on average"
    )


def _shape(tree: "GrowMap") -> str:
    return "plain decoding" if tree.size == 1 else f"{tree.size} nodes, depth {tree.depth}"


class Series(NamedTuple):
    """Points of a chart, x ascending, joined by a line or each drawn as a mark."""

    name: str
    points: Sequence[tuple[float, float]]
    mark: str = ""


def chart(
    series: Sequence[Series], x_name: str, y_name: str, width: int, height: int = _HEIGHT
) -> "list[Text]":
    """Lines of text with all series in braille dots over common axes; y begins at 0 or below.

    Every line is named at its end, so that they differ without colour. Marks come last. The width
    is in cells, the height in lines without the axes.
    """
    from rich.text import Text

    across = max(8, width - _AXIS - _NAME - 2)
    xs, ys = zip(*(point for each in series for point in each.points), strict=True)
    left, right, bottom, top = min(xs), max(xs), min(0.0, *ys), max(ys)

    def dot(x: float, y: float) -> tuple[int, int]:
        """Column and row from the top left; a cell has two by four."""
        column = (x - left) / ((right - left) or 1.0) * (2 * across - 1)
        row = (top - y) / ((top - bottom) or 1.0) * (4 * height - 1)
        return round(column), round(row)

    cells: dict[tuple[int, int], tuple[str, str]] = {}
    names: dict[int, tuple[str, str]] = {}
    for each, style in zip(series, cycle(_STYLES), strict=False):
        dots = [dot(*point) for point in each.points]
        for column, row in dots if each.mark else _joined(dots):
            cell = column // 2, row // 4
            before, _ = cells.get(cell, ("\u2800", ""))
            cells[cell] = each.mark or chr(ord(before) | _DOTS[row % 4][column % 2]), style
        place = next(row for row in count(dots[-1][1] // 4) if row not in names)
        names[place] = f" {each.name}", style
    lines = [Text(f"{y_name:>{_AXIS}}")]
    for row in range(max(height, max(names) + 1)):
        label = " " * _AXIS + ("│" if row < height else " ")
        if row < height and (row % 4 == 0 or row == height - 1):
            label = f"{top - (top - bottom) * row / max(height - 1, 1):>{_AXIS - 1}.4g} ┤"
        drawn = (cells.get((column, row), " ") for column in range(across))
        lines.append(Text.assemble(label, *drawn, names.get(row, "")))
    ends = f"{left:g}", f"{right:g}"
    middle = x_name.center(max(0, across - sum(map(len, ends))))
    lines.append(Text(" " * _AXIS + "└" + "─" * across))
    lines.append(Text(" " * (_AXIS + 1) + ends[0] + middle + ends[1]))
    return lines


def _joined(dots: Sequence[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Every dot of the lines from one to the next."""
    for (x, y), (to_x, to_y) in zip(dots, dots[1:] or dots, strict=False):
        length = max(abs(to_x - x), abs(to_y - y), 1)
        for at in range(length + 1):
            yield x + round((to_x - x) * at / length), y + round((to_y - y) * at / length)
