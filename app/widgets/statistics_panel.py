"""The statistics of an answer up to a step: speeds, acceptance rates, and why this tree."""

import textwrap
from collections.abc import Callable, Sequence

from rich.cells import cell_len
from textual.content import Content
from textual.reactive import reactive
from typing_extensions import override

from ..present.accessible import (
    is_accessible,
    rates_in_words,
    statistics_in_words,
    summary_in_words,
    whole_lines,
)
from ..present.words import ordinal
from ..state.answer import Chosen, Rate, Statistics
from ..state.sanitize import fit, visible
from ..state.summary import Summary
from .answer_summary import summary_lines
from .line import Line, first_fitting, gauge, headline, indented, sparkline

_LABEL = 10
_FIGURE = 5
_RATE_LABEL, _RATES = 5, 16  # cells in front of a rate's bar, and of the two figures behind it
_FRAMED_LINES = 5  # of the statistics in their frame, where there is no room for rates


class StatisticsPanel(Line):
    """As many lines as there is height for: figures, two sparklines, why this tree, the rates.

    Once an answer is finished, its summary.
    """

    ID = "statistics"
    BORDER_TITLE = "Statistics"
    statistics: reactive[Statistics | None] = reactive(None)
    chosen: reactive[Chosen | None] = reactive(None, init=False)
    summary: reactive[Summary | None] = reactive(None, init=False)  # None while steps come
    best_key = ""  # goes to the best step

    def watch_summary(self) -> None:
        self.border_title = "Statistics" if self.summary is None else "This answer"
        self._place_reason()

    def watch_chosen(self) -> None:
        self._place_reason()

    def on_resize(self) -> None:
        self._place_reason()

    def _place_reason(self) -> None:
        """Write the reason into the border where there is no line for it, or make lines for it."""
        roomy = is_accessible(self) or self.screen.has_class("-roomy")
        has_line = is_accessible(self) or (roomy and self.summary is None)
        reason = "" if has_line else self._reason()
        fits = cell_len(reason) <= self.size.width - 2
        self.border_subtitle = Content(reason) if reason and fits else None
        lines = 0 if fits or roomy else len(self._reason_lines(self.size.width - 2))
        self.styles.height = _FRAMED_LINES + lines if lines else None

    @override
    def render(self) -> Content:
        statistics = self.statistics or Statistics()
        tree = self.chosen.tree if self.chosen is not None else None
        by_depth, by_rank = (tree.expected_by_depth, tree.expected_by_rank) if tree else ((), ())
        if self.summary is not None:
            return self._summed_up(self.summary)
        if is_accessible(self):
            words = [
                statistics_in_words(statistics),
                f"tree {self._reason()}",
                rates_in_words("by depth", statistics.by_depth, by_depth),
                rates_in_words("by guess", statistics.by_rank, by_rank),
            ]
            return self._wrapped(words)
        width = self.size.width - 2
        lines = [
            _headline(statistics, width),
            _spark_line("accepted", statistics.accepted, "$accepted", width),
            _spark_line("speed-up", statistics.speedups, "$speedup", width),
        ]
        lines += self._reason_lines(width)[: self.size.height - len(lines)]
        room = self.size.height - len(lines) - 1
        if room > 0:
            half = (width - 2) // 2
            left = _rate_table("by depth", str, statistics.by_depth, by_depth, half, room)
            right = _rate_table("by guess", ordinal, statistics.by_rank, by_rank, half, room)
            lines += [Content.assemble(a, "  ", b) for a, b in zip(left, right, strict=True)]
        return indented(lines)

    def _summed_up(self, summary: Summary) -> Content:
        if is_accessible(self):
            return self._wrapped([*summary_in_words(summary), f"tree {self._reason()}"])
        lines = summary_lines(summary, self.size.width - 2, self.size.height, self.best_key)
        return indented(lines)

    def _wrapped(self, words: Sequence[str]) -> Content:
        return indented(whole_lines(words, self.size.width - 2, self.size.height))

    def _reason(self) -> str:
        """Where the tree comes from, and since which step if it changed within the answer."""
        if self.chosen is None:
            return ""
        since = f"step {self.chosen.since}: " if self.chosen.since > 1 else ""
        return since + visible(self.chosen.tree.reason)

    def _reason_lines(self, width: int) -> list[Content]:
        lines = textwrap.wrap(self._reason(), max(1, width - _LABEL)) or [""]
        return [
            Content.assemble((fit("" if at or not line else "tree", _LABEL), "$notice"),
                             (line, "$foreground"))
            for at, line in enumerate(lines)
        ]  # fmt: skip


def _headline(statistics: Statistics, width: int) -> Content:
    totals = statistics.totals
    if not totals.steps:
        return Content.styled("no step yet", "$notice")
    parts = headline(totals, statistics.speedup)
    rate = Content.styled(f"{totals.tokens_per_second:.1f} tokens/s", "$notice")
    forms = (Content("   ").join(form) for form in ([*parts, rate], parts, parts[:1]))
    return first_fitting(forms, width)


def _spark_line(label: str, values: Sequence[float], style: str, width: int) -> Content:
    cells = max(0, width - _LABEL - _FIGURE - 1)
    last = ""
    if values:  # three digits, fewer where they do not fit into the column
        forms = [f"{values[-1]:{precision}}" for precision in (".3g", ".2f", ".0f")]
        last = next((form for form in forms if len(form) <= _FIGURE), forms[-1])
    return Content.assemble(
        (fit(label, _LABEL), "$notice"),
        (fit(sparkline(values, cells), cells), style),
        f" {last:>{_FIGURE}}" if last else " ",
    )


def _rate_table(
    title: str,
    label: Callable[[int], str],
    rates: Sequence[Rate],
    expected: Sequence[float],
    width: int,
    rows: int,
) -> list[Content]:
    """A heading and `rows` lines of exactly `width` cells: label, bar, actual, expected."""
    heading = fit(title, max(0, width - _RATES)) + f" {'actual':>6} {'expected':>8}"
    lines = [Content.styled(fit(heading, width), "$notice")]
    for at in range(rows):
        rate = rates[at].value if at < len(rates) else None
        wanted = expected[at] if at < len(expected) else None
        line = Content("")
        if rate is not None or wanted is not None:
            style = "$accepted" if wanted is None or (rate or 0.0) >= wanted else "$bonus"
            actual, exp = ("–" if share is None else f"{share:.2f}" for share in (rate, wanted))
            line = Content.assemble(
                (f"{label(at + 1):<{_RATE_LABEL}}", "$notice"),
                (gauge(rate, max(0, width - _RATE_LABEL - _RATES)), style),
                (f" {actual:>6} {exp:>8}", "$foreground"),
            )
        lines.append(line.truncate(max(0, width), pad=True))
    return lines
