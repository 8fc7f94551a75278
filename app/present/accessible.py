"""Accessible mode: ASCII instead of box drawing, and sentences instead of columns and bars."""

from collections.abc import Sequence

from rich.segment import Segment
from textual.color import Color
from textual.content import Content
from textual.dom import DOMNode
from textual.filter import LineFilter
from typing_extensions import override

from sequoia_core.errors import counted
from sequoia_core.events import Step

from ..state.answer import Rate, Statistics, step_speedup
from ..state.figures import accepted_words, figures, speed_words
from ..state.sanitize import quote_token
from ..state.summary import Summary
from .tree_rows import NodeVerdict, TreeRow

ACCESSIBLE = "-accessible"  # class of the app while the mode is on

_BOXES, _BLOCKS, _AFTER = 0x2500, 0x2580, 0x25A0
_PLAIN = (
    dict.fromkeys(range(_BOXES, _BLOCKS), "+")
    | dict.fromkeys(range(_BLOCKS, _AFTER), "#")
    | dict.fromkeys(map(ord, "▌▍▎▏▐▕"), " ")  # marks in front of notes
    | dict.fromkeys(map(ord, "─━┄┅┈┉╌╍═╴╶╸╺╼╾"), "-")
    | dict.fromkeys(map(ord, "│┃┆┇┊┋╎╏║╵╷╹╻╽╿"), "|")
    | dict(zip(map(ord, "▸▾▼"), ">vv", strict=True))  # a chosen row, folds, more below
)


def is_accessible(node: DOMNode) -> bool:
    return node.app.has_class(ACCESSIBLE)


class PlainFrames(LineFilter):
    """Replaces box drawing, block elements and marks by ASCII, in an answer's tables too."""

    @override
    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        return [
            segment
            if segment.text.isascii()
            else Segment(segment.text.translate(_PLAIN), segment.style, segment.control)
            for segment in segments
        ]


def row_in_words(row: TreeRow) -> str:
    if row.verdict is NodeVerdict.ROOT:
        return f"root {row.token}"
    if row.folded:
        return f"depth {row.depth}, {row.token}, {'listed next' if row.opened else 'not listed'}"
    words = f"depth {row.depth}, {row.verdict.words}: {row.token}"
    if row.looked_up:
        words += ", looked up"
    elif row.draft_prob is not None:
        words += f", draft {row.draft_prob:.2f}"
    return words if row.target_prob is None else f"{words}, target {row.target_prob:.2f}"


def step_in_words(step: Step) -> str:
    times = step.timings
    outcome = f"{step.accepted} accepted and 1 of the target's own"
    if step.baseline:
        outcome = "plain step, to measure what plain decoding takes"
    words = (
        f"{outcome}: {counted(len(step.token_ids), 'token')} in "
        f"{times.total_ms:.1f} ms: draft {times.draft_ms:.1f}, target {times.verify_ms:.1f}, "
        f"rest {times.bookkeeping_ms:.1f}"
    )
    speedup = step_speedup(step)
    return words if speedup is None else f"{words}; {speed_words(speedup)}"


def summary_in_words(summary: Summary) -> list[str]:
    """A finished answer in sentences."""
    totals = summary.totals
    by_position = "; ".join(
        f"{at}: {count / totals.num_drafts:.0%}"
        for at, count in enumerate(totals.num_accepted_tokens_per_pos, 1)
    )
    return [
        f"the answer: {', '.join(figures(totals, summary.speedup))}",
        f"of {counted(totals.tokens, 'token')} the draft wrote {summary.drafted}, the target "
        f"{totals.tokens - summary.drafted}",
        f"best step {summary.best_step}: {counted(summary.best_tokens, 'token')}, "
        f"{quote_token(summary.best_text)}",
        f"accepted guesses: {accepted_words(totals.accepted_lengths)}",
        f"accepted at position: {by_position or 'nothing'}",
    ]


def summary_rows(summary: Summary, width: int, height: int) -> list[Content]:
    """As many of its first sentences as fit into so many rows as a whole, or the first in short."""
    words = summary_in_words(summary)
    for many in range(len(words), 0, -1):
        rows = list(Content(". ".join(words[:many])).wrap(width))
        if len(rows) <= height:
            return rows
    parts = figures(summary.totals, summary.speedup)
    forms = (Content(", ".join(parts[:many])) for many in range(len(parts), 0, -1))
    return [next((form for form in forms if form.cell_length <= width), Content(parts[0]))]


def whole_lines(words: Sequence[str], width: int, height: int) -> list[Content]:
    """As many of these from the first on as fit as a whole, each from the start of a line."""
    rows: list[Content] = []
    for each in words:
        more = list(Content(each).wrap(max(1, width)))
        if rows and len(rows) + len(more) > height:
            break
        rows += more
    return rows[:height]


def rates_in_words(what: str, rates: tuple[Rate, ...], expected: tuple[float, ...]) -> str:
    """Acceptance rates with the expected ones, such as "1: 62%, 55% expected"."""
    words = []
    for at in range(max(len(rates), len(expected))):
        share = rates[at].value if at < len(rates) else None
        words.append(f"{at + 1}: " + ("none" if share is None else f"{share:.0%}"))
        if at < len(expected):
            words[-1] += f", {expected[at]:.0%} expected"
    return f"accepted {what}: " + ("; ".join(words) or "nothing yet")


def statistics_in_words(statistics: Statistics) -> str:
    totals = statistics.totals
    if not totals.steps:
        return "no step yet"
    last = " ".join(f"{value:g}" for value in statistics.accepted[-8:])
    words = ", ".join(figures(totals, statistics.speedup))
    return f"{words}; accepted in the last steps: {last}"
