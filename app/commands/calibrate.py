"""`sequoia calibrate`: measure the pair on this machine now instead of between answers."""

import shutil
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..engine import build
from .console import progress_line
from .options import MODEL_OPTIONS, with_only

if TYPE_CHECKING:
    from rich.console import RenderableType

    from sequoia_core.measure.calibration import Calibration
    from sequoia_core.measure.grid import GridComparison

_WIDEST, _HEIGHT = 88, 14


@with_only(*MODEL_OPTIONS, "temperature")
def calibrate(
    ctx: typer.Context,  # noqa: ARG001 read by the decorator
    flags: dict[str, Any],
    grid: Annotated[
        bool,
        typer.Option("--grid", help="Also decode with trees of many sizes, to check; minutes."),
    ] = False,
) -> None:
    """Measure forward times and acceptance of the pair, and keep the figures.

    Acceptance is counted at temperature 0 and at the chosen one.
    """
    from ..config.load import load_settings

    settings = load_settings(flags)
    temperature = settings.sampling().temperature
    shown: list[RenderableType] = []
    with progress_line() as progress:
        from sequoia_core.measure.tuner import Tuner

        pair = build.load_chosen(settings, progress)
        tuner = Tuner(pair)
        for message, fraction in tuner.measure(temperature):
            progress(message, fraction)
        if tuner.calibration is not None:
            shown += _figures(tuner.calibration, temperature)
        if grid and tuner.online is not None and tuner.online.calibration.drafts:
            from sequoia_core.measure.grid import compare
            from sequoia_core.measure.online_advisor import TYPICAL_CONTEXT

            model = tuner.online.speed_model(temperature, TYPICAL_CONTEXT)
            shown += _compared(compare(pair, model, temperature, progress))
    _print(shown)
    typer.echo(tuner.summary(temperature))


def _print(shown: "list[RenderableType]") -> None:
    from rich.console import Console

    console = Console(width=_width(), highlight=False)
    for each in shown:
        console.print(each)


def _width() -> int:
    """Columns to draw in, at most those of the terminal."""
    return min(_WIDEST, shutil.get_terminal_size((_WIDEST, 24)).columns)


def _figures(calibration: "Calibration", temperature: float) -> "list[RenderableType]":
    """The curve t(n), the cost of drafting, and acceptance by depth and rank."""
    from .terminal_chart import Series, chart

    target, draft = calibration.times.target, calibration.times.draft
    curves = zip(target.contexts, target.curves, strict=True)
    series = [
        Series(f"{context} tokens", list(zip(curve.rows, curve.milliseconds, strict=True)))
        for context, curve in curves
    ]
    shown: list[RenderableType] = [
        *chart(series, width=_width(), height=_HEIGHT, x_name="rows of a forward", y_name="ms"),
        "",
    ]
    if not calibration.drafts:
        return shown
    overhead = calibration.times.overhead(temperature)
    passes = ", ".join(
        f"{n}: {draft.at(0)(n) + overhead.level_ms:.2f}" for n in draft.curves[0].rows
    )
    shown.append(f"draft forward, ms by rows   {passes}")
    shown.append(
        f"overhead of a step, ms   {overhead.base_ms:.2f} + {overhead.node_ms:.3f} per node; of a "
        f"plain step {overhead.plain_ms:.2f}"
    )
    shown.append("accepted at")
    for each in dict.fromkeys((0.0, temperature)):
        record = calibration.record(each)
        for depth, rates in enumerate((record.rates, *record.deeper), start=1):
            ranks = " ".join(f"{rate:.3f}" for rate in rates)
            shown.append(f"temperature {each:g}, depth {depth}, by rank   {ranks}")
    return shown


def _compared(comparison: "GridComparison") -> "list[RenderableType]":
    """Predicted against measured, as a chart over nodes and as a table."""
    from rich.table import Table

    from .terminal_chart import Series, chart

    trees = sorted(
        (cell for cell in comparison.cells if cell.tree.size > 1),
        key=lambda cell: (cell.tree.size, cell.tree.depth),
    )
    series = []
    for depth in sorted({cell.tree.depth for cell in trees}):
        row = [cell for cell in trees if cell.tree.depth == depth]
        series.append(Series(f"depth {depth}", [(c.tree.size, c.predicted) for c in row]))
    measured = [(cell.tree.size, cell.measured) for cell in trees]
    series.append(Series("● measured", measured, mark="●"))
    table = Table("nodes", "depth", "predicted", "measured", "tokens/step", "step / plain step")
    for cell in trees:
        best = "best" if cell is comparison.best else ""
        picked = "picked" if cell is comparison.picked else ""
        table.add_row(
            str(cell.tree.size),
            str(cell.tree.depth),
            f"{cell.predicted:.2f}x",
            f"{cell.measured:.2f}x {best} {picked}".rstrip(),
            f"{cell.tokens_per_step:.2f}",
            f"{cell.step_ratio:.2f}",
        )
    return [
        *chart(series, width=_width(), height=_HEIGHT, x_name="nodes", y_name="speed-up"),
        table,
        f"the picked tree ({_shape(comparison.picked.tree.size, comparison.picked.tree.depth)}) is "
        f"{comparison.seeming_shortfall:.1%} below the best of the grid "
        f"({_shape(comparison.best.tree.size, comparison.best.tree.depth)}), or "
        f"{comparison.shortfall:.1%} below what is best on half of the prompts where both are "
        f"judged on the other half; predictions are off by {comparison.error:.1%} on average",
    ]


def _shape(nodes: int, depth: int) -> str:
    return "plain decoding" if nodes == 1 else f"{nodes} nodes, depth {depth}"
