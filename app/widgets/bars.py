"""Bars of text, and lines with a left and a right part."""

from collections.abc import Sequence

from textual.content import Content

_SPARKS = "▁▂▃▄▅▆▇█"
_EIGHTHS = " ▏▎▍▌▋▊▉█"


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


def spread(left: Content, right: Content, width: int) -> Content:
    """Both at the ends of a line; the left part alone where there is no room for both."""
    gap = width - left.cell_length - right.cell_length - 1
    return Content.assemble(left, " " * gap, right) if gap > 0 else left
