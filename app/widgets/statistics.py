"""The statistics panel: speed, sparklines, and acceptance rates next to the expected ones."""

import textwrap
from collections.abc import Sequence

from rich.cells import cell_len
from textual.content import Content
from textual.reactive import reactive
from typing_extensions import override

from ..present.accessible import is_accessible, rates_in_words, statistics_in_words
from ..state.answer import Chosen
from ..state.sanitize import fit, visible
from ..state.stats import Rate, Statistics
from .bars import gauge, sparkline
from .line import Line

_LABEL = 10
_FIGURE = 5
_FRAMED_LINES = 5
"""Of the panel in its frame, where there is no room for rates."""


class StatisticsPanel(Line):
    """As many lines as there is height for: summary, two sparklines, why this tree, the rates.

    Attributes:
        statistics: the figures after a step.
        chosen: the tree shape of the step, with the rates it was made for.
    """

    statistics: reactive[Statistics | None] = reactive(None)
    chosen: reactive[Chosen | None] = reactive(None, init=False)

    def __init__(self) -> None:
        super().__init__(id="statistics")

    def watch_chosen(self) -> None:
        """Show another reason for the tree."""
        self._place_reason()

    def on_resize(self) -> None:
        """Move the reason to where there is room for it."""
        self._place_reason()

    def _place_reason(self) -> None:
        """Write the reason into the border where there is no line for it, or make lines for it."""
        roomy = is_accessible(self) or self.screen.has_class("-roomy")
        reason = "" if roomy else self._reason()
        fits = cell_len(reason) <= self.size.width - 2
        self.border_subtitle = Content(reason) if reason and fits else None
        lines = 0 if fits else len(self._reason_lines(self.size.width - 2))
        self.styles.height = _FRAMED_LINES + lines if lines else None

    @override
    def render(self) -> Content:
        statistics = self.statistics or Statistics()
        if is_accessible(self):
            return self._in_words(statistics)
        width = self.size.width - 2
        lines = [
            _summary(statistics),
            _spark_line("accepted", statistics.accepted, "$accepted", width),
            _spark_line("speed-up", statistics.speedups, "$speedup", width),
        ]
        lines += self._reason_lines(width)[: self.size.height - len(lines)]
        rows = self.size.height - len(lines) - 1
        if rows > 0:
            by_depth, by_rank = self._expected
            half = (width - 2) // 2
            left = _rate_table("by depth", statistics.by_depth, by_depth, half, rows)
            right = _rate_table("by child rank", statistics.by_rank, by_rank, half, rows)
            lines += [Content.assemble(a, "  ", b) for a, b in zip(left, right, strict=True)]
        return Content("\n").join(Content.assemble(" ", line) for line in lines)

    def _in_words(self, statistics: Statistics) -> Content:
        by_depth, by_rank = self._expected
        lines = [
            statistics_in_words(statistics),
            f"tree {self._reason()}",
            rates_in_words("by depth", statistics.by_depth, by_depth),
            rates_in_words("by child rank", statistics.by_rank, by_rank),
        ]
        width = max(1, self.size.width - 1)
        return Content("\n").join(row for line in lines for row in Content(f" {line}").wrap(width))

    @property
    def _expected(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Rates by depth and by rank that the tree was made for."""
        if self.chosen is None:
            return (), ()
        return self.chosen.tree.expected_by_depth, self.chosen.tree.expected_by_rank

    def _reason(self) -> str:
        """Where the tree comes from, and since which step if it changed within the answer."""
        if self.chosen is None:
            return ""
        since = f"step {self.chosen.since}: " if self.chosen.since > 1 else ""
        return since + visible(self.chosen.tree.reason)

    def _reason_lines(self, width: int) -> list[Content]:
        lines = textwrap.wrap(self._reason(), max(1, width - _LABEL)) or [""]
        labels = ["tree" if lines[0] else "", *[""] * (len(lines) - 1)]
        return [
            Content.assemble((fit(label, _LABEL), "$notice"), (line, "$foreground"))
            for label, line in zip(labels, lines, strict=True)
        ]


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
        style = "$accepted" if wanted is None or (rate or 0.0) >= wanted else "$bonus"
        line = Content.assemble(
            (f"{at + 1:>2} ", "$notice"),
            (gauge(rate, max(0, width - 14)), style),
            (f" {_share(rate)}  {_share(wanted)}", "$foreground"),
        )
        lines.append(line.truncate(width, pad=True))
    return lines


def _share(value: float | None) -> str:
    return "   –" if value is None else f"{value:.2f}"
