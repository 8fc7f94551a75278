"""Dates in words."""

from datetime import datetime, timedelta

_WEEK_DAYS = 7
_LAST = 253_000_000_000.0
"""In the year 9987."""


def moment(value: object) -> float:
    """Seconds since the epoch from a file; 0 for anything that is no date."""
    known = isinstance(value, int | float) and 0.0 <= value <= _LAST
    return float(value) if known else 0.0  # type: ignore[arg-type]


def when(then: float, now: float) -> str:
    """A moment as seen from another, both in seconds since the epoch: "today 14:03", "3 Nov"."""
    past, present = datetime.fromtimestamp(then), datetime.fromtimestamp(now)
    days = (present.date() - past.date()).days
    if days == 0:
        return f"today {past:%H:%M}"
    if days == 1:
        return f"yesterday {past:%H:%M}"
    if 0 < days < _WEEK_DAYS:
        return f"{past:%a %H:%M}"
    if past.year == present.year or present - past < timedelta(days=90):
        return f"{past.day} {past:%b}"
    return f"{past.day} {past:%b %Y}"
