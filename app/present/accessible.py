"""Accessible mode: no box drawing, no motion, linear text, verdicts in words.

Owns how a widget finds out about the mode, the words in place of signs, and that no frame whatever
is drawn. Whether it is on is the app's; what stands in place of frames is the style sheet's.
"""

from rich.segment import Segment
from textual.color import Color
from textual.dom import DOMNode
from textual.filter import LineFilter

from sequoia_core.events import Step

from ..state.stats import Rate, Statistics, step_speedup
from .tree_rows import Row, Verdict

ACCESSIBLE = "-accessible"
"""Class of the app while the mode is on."""

_BOXES, _BLOCKS, _AFTER = 0x2500, 0x2580, 0x25A0
_PLAIN = (
    dict.fromkeys(range(_BOXES, _BLOCKS), "+")
    | dict.fromkeys(range(_BLOCKS, _AFTER), "#")
    | dict.fromkeys(map(ord, "▌▍▎▏▐▕"), " ")  # marks beside notes
    | dict.fromkeys(map(ord, "─━┄┅┈┉╌╍═╴╶╸╺╼╾"), "-")
    | dict.fromkeys(map(ord, "│┃┆┇┊┋╎╏║╵╷╹╻╽╿"), "|")
)
"""ASCII in place of box drawing and block elements."""


def is_accessible(node: DOMNode) -> bool:
    """Whether the app around a widget is in accessible mode."""
    return node.app.has_class(ACCESSIBLE)


class PlainFrames(LineFilter):
    """Writes lines and blocks that are drawn anywhere, an answer's tables too, as ASCII."""

    def apply(self, segments: list[Segment], background: Color) -> list[Segment]:
        """The segments without box drawing."""
        del background
        return [
            segment
            if segment.text.isascii()
            else Segment(segment.text.translate(_PLAIN), segment.style, segment.control)
            for segment in segments
        ]


def row_in_words(row: Row, depth: int) -> str:
    """A row of the tree as a sentence that needs neither guides nor columns.

    Args:
        row: of the tree.
        depth: of its node below the root.
    """
    if row.verdict is Verdict.ROOT:
        return f"root {row.token}"
    told = f"depth {depth}, {row.verdict.value}: {row.token}"
    if row.looked_up:
        told += ", looked up"
    elif row.draft_prob is not None:
        told += f", draft {row.draft_prob:.2f}"
    if row.target_prob is not None:
        told += f", target {row.target_prob:.2f}"
    return told


def step_in_words(step: Step) -> str:
    """A step's outcome and times."""
    speedup = step_speedup(step)
    times = step.timings
    emitted = f"{len(step.token_ids)} token{'s' if len(step.token_ids) != 1 else ''}"
    made = f"{step.accepted} accepted and 1 bonus"
    if step.baseline:
        made = "plain step, which speed-ups are measured against"
    told = (
        f"{made}: {emitted} in "
        f"{times.total_ms:.1f} ms: draft {times.draft_ms:.1f}, verify {times.verify_ms:.1f}, "
        f"rest {times.bookkeeping_ms:.1f}"
    )
    return told if speedup is None else f"{told}; {speedup:.2f} times plain"


def rates_in_words(what: str, rates: tuple[Rate, ...], expected: tuple[float, ...]) -> str:
    """Acceptance rates with what was expected of them, such as "1: 62% of 55% expected"."""
    told = [
        f"{at + 1}: {_percent(rates[at].value if at < len(rates) else None)}"
        + (f" of {_percent(expected[at])} expected" if at < len(expected) else "")
        for at in range(max(len(rates), len(expected)))
    ]
    return f"accepted {what}: " + ("; ".join(told) or "nothing yet")


def statistics_in_words(statistics: Statistics) -> str:
    """Speed, tokens per step and what the last steps accepted."""
    totals = statistics.totals
    if not totals.steps:
        return "no step yet"
    last = " ".join(f"{value:g}" for value in statistics.accepted[-8:])
    told = (
        f"{totals.tokens_per_second:.1f} tokens a second, {totals.tokens_per_step:.2f} a step; "
        f"accepted in the last steps: {last}"
    )
    if statistics.speedup is None:
        return told
    return f"{told}; {statistics.speedup:.2f} times plain"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{share:.0%}"
