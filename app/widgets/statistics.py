"""The statistics panel: speed, sparklines, and acceptance beside what the tree was made for."""

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len
from textual.content import Content

from ..present.accessible import is_accessible, rates_in_words, statistics_in_words
from ..state.answer import Chosen
from ..state.sanitize import fit, visible
from ..state.stats import Rate, Statistics
from .line import Line

_SPARKS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_LABEL = 10
_FIGURE = 5
_FRAMED_LINES = 5
"""Of the panel in its frame, where there is no room for rates."""


class StatisticsPanel(Line):
    """As many lines as there is height for: summary, two sparklines, why this tree, the rates."""

    def __init__(self) -> None:
        super().__init__(id="statistics")
        self._statistics: Statistics | None = None
        self._chosen: Chosen | None = None

    def show_statistics(self, statistics: Statistics | None) -> None:
        """Show the figures as they stood after a step."""
        if statistics is not self._statistics:
            self._statistics = statistics
            self.refresh()

    def show_expected(self, chosen: Chosen | None) -> None:
        """Show what the tree shape of the step was made for beside what happened."""
        if chosen != self._chosen:
            self._chosen = chosen
            self._name_reason()
            self.refresh()

    def on_resize(self) -> None:
        """Move the reason to where there is room for it."""
        self._name_reason()

    def _name_reason(self) -> None:
        """Write the reason into the border where there is no line for it, or make lines for it."""
        roomy = is_accessible(self) or self.screen.has_class("-roomy")
        reason = "" if roomy else self._reason()
        fits = cell_len(reason) <= self.size.width - 2
        self.border_subtitle = Content(reason) if reason and fits else None
        lines = 0 if fits else len(self._why(self.size.width - 2))
        self.styles.height = _FRAMED_LINES + lines if lines else None

    def render(self) -> Content:
        """As many lines as there is height for."""
        statistics = self._statistics or Statistics()
        width = self.size.width - 2
        if is_accessible(self):
            return self._in_words(statistics)
        lines = [
            _summary(statistics),
            _spark_line("accepted", statistics.accepted, "$accepted", width),
            _spark_line("speed-up", statistics.speedups, "$speedup", width),
        ]
        room = self.size.height - len(lines)
        lines += self._why(width)[:room]
        rows = self.size.height - len(lines) - 1
        if rows > 0:
            lines += self._rates(statistics, width, rows)
        return Content("\n").join(Content.assemble(" ", line) for line in lines)

    def _in_words(self, statistics: Statistics) -> Content:
        tree = self._chosen.tree if self._chosen else None
        depth, rank = (tree.expected_by_depth, tree.expected_by_rank) if tree else ((), ())
        lines = [
            statistics_in_words(statistics),
            f"tree {self._reason()}",
            rates_in_words("by depth", statistics.by_depth, depth),
            rates_in_words("by child rank", statistics.by_rank, rank),
        ]
        width = max(1, self.size.width - 1)
        return Content("\n").join(row for line in lines for row in Content(f" {line}").wrap(width))

    def _why(self, width: int) -> list[Content]:
        """Where the tree comes from, and since when if it was changed within the answer."""
        lines = textwrap.wrap(self._reason(), max(1, width - _LABEL)) or [""]
        label = ["tree" if lines[0] else "", *[""] * (len(lines) - 1)]
        return [
            Content.assemble((fit(name, _LABEL), "$notice"), (line, "$foreground"))
            for name, line in zip(label, lines, strict=True)
        ]

    def _reason(self) -> str:
        if self._chosen is None:
            return ""
        since = f"step {self._chosen.since}: " if self._chosen.since > 1 else ""
        return since + visible(self._chosen.tree.reason)

    def _rates(self, statistics: Statistics, width: int, rows: int) -> list[Content]:
        tree = self._chosen.tree if self._chosen else None
        expected_depth = tree.expected_by_depth if tree else ()
        expected_rank = tree.expected_by_rank if tree else ()
        half = (width - 2) // 2
        left = _rate_table("by depth", statistics.by_depth, expected_depth, half, rows)
        right = _rate_table("by child rank", statistics.by_rank, expected_rank, half, rows)
        return [Content.assemble(a, "  ", b) for a, b in zip(left, right, strict=True)]


def sparkline(values: Sequence[float], cells: int) -> str:
    """The last `cells` values as bars between 0 and their maximum."""
    shown = values[-cells:] if cells > 0 else ()
    top = max(shown, default=0.0)
    if top <= 0:
        return _SPARKS[0] * len(shown)
    return "".join(_SPARKS[round(value / top * (len(_SPARKS) - 1))] for value in shown)


def gauge(value: float | None, cells: int) -> str:
    """A share between 0 and 1 as a bar of exactly `cells` cells, to an eighth of a cell."""
    eighths = round(max(0.0, min(1.0, value or 0.0)) * cells * 8)
    whole, part = divmod(eighths, 8)
    return ("█" * whole + (_EIGHTHS[part] if part else "")).ljust(cells)


def _summary(statistics: Statistics) -> Content:
    totals = statistics.totals
    if not totals.steps:
        return Content.styled("no step yet", "$notice")
    parts = [
        Content.styled(f"{totals.tokens_per_second:.1f} tokens/s", "bold $foreground"),
        Content.styled(f"{totals.tokens_per_step:.2f} tokens/step", "bold $foreground"),
    ]
    if statistics.speedup is not None:
        parts.append(Content.styled(f"{statistics.speedup:.2f}x plain", "bold $speedup"))
    return Content("   ").join(parts)


def _spark_line(label: str, values: Sequence[float], style: str, width: int) -> Content:
    cells = max(0, width - _LABEL - _FIGURE - 1)
    last = f"{_figure(values[-1]):>{_FIGURE}}" if values else ""
    return Content.assemble(
        (fit(label, _LABEL), "$notice"), (fit(sparkline(values, cells), cells), style), f" {last}"
    )


def _figure(value: float) -> str:
    """Three digits, fewer where they do not fit into the column."""
    forms = (f"{value:.3g}", f"{value:.2f}", f"{value:.0f}")
    return next((form for form in forms if len(form) <= _FIGURE), forms[-1])


def _rate_table(
    title: str, rates: Sequence[Rate], expected: Sequence[float], width: int, rows: int
) -> list[Content]:
    """A heading and `rows` lines of exactly `width` cells: index, bar, measured, expected."""
    lines = [Content.styled(fit(fit(title, max(0, width - 10)) + "got   exp", width), "$notice")]
    for at in range(rows):
        rate = rates[at].value if at < len(rates) else None
        wanted = expected[at] if at < len(expected) else None
        if rate is None and wanted is None:
            lines.append(Content(" " * max(0, width)))
            continue
        bar = gauge(rate, max(0, width - 14))
        style = "$accepted" if wanted is None or (rate or 0.0) >= wanted else "$bonus"
        figures = f" {_share(rate)}  {_share(wanted)}"
        line = Content.assemble(
            (f"{at + 1:>2} ", "$notice"), (bar, style), (figures, "$foreground")
        )
        lines.append(line.truncate(width, pad=True))
    return lines


def _share(value: float | None) -> str:
    return "   –" if value is None else f"{value:.2f}"
