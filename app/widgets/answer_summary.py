"""The summary of a finished answer as lines: who wrote it, tokens of each pass, the best step."""

from collections.abc import Sequence

from textual.content import Content
from textual.style import Style

from sequoia_core.errors import counted

from ..state.figures import accepted_words
from ..state.sanitize import fit, quote_token
from ..state.summary import Summary
from .line import bar_chart, first_fitting, gauge, headline

_LABEL, _FIGURE = 11, 5
_INDEX = 4  # cells of the labels of a table
_LEAST_BAR = 8
_LEAST_ROWS = 3  # of a table, with its heading
_GO = Style.from_meta({"@click": "screen.best_step"})


def summary_lines(summary: Summary, width: int, height: int, key: str) -> list[Content]:
    """At most `height` lines; `key` is what goes to the best step."""
    lines = _lines(summary, width, height, key) if height > 3 else _few(summary, width, height, key)
    return [line.truncate(width) for line in lines]


def _few(summary: Summary, width: int, height: int, key: str) -> list[Content]:
    drafted = f" {share_drafted(summary):.0%} drafted"
    (chart,) = _passes(summary, width - len(drafted), 1)
    lines = [_headline(summary, width), _best(summary, width, key)]
    if height == 3:
        lines.insert(1, Content.assemble(chart, (drafted, "$rank-1")))
    return lines[:height]


def _lines(summary: Summary, width: int, height: int, key: str) -> list[Content]:
    roomy = height >= 6 + _LEAST_ROWS
    lines = [_headline(summary, width), _writers(summary, width)]
    lines += [*_passes(summary, width, 2 if roomy else 1), _best(summary, width, key)]
    left = height - len(lines)
    if left >= _LEAST_ROWS:
        lines += _tables(summary, width, left)
    elif left > 0:
        lengths = summary.totals.accepted_lengths
        forms = (
            f"{'accepted':<{_LABEL}}{accepted_words(lengths, most)}"
            for most in range(max(2, len(lengths)), 1, -1)
        )
        shown = first_fitting((Content.styled(form, "$notice") for form in forms), width)
        lines.append(shown)
    return lines


def summary_line(summary: Summary, width: int) -> Content:
    """Where there is a single line for it."""
    drafted = Content.styled(f"{share_drafted(summary):.0%} drafted", "$rank-1")
    best = _link(f"best step {summary.best_step}: {gave(summary)}")
    parts = headline(summary.totals, summary.speedup)
    forms = [[*parts, drafted, best], [*parts, best], [parts[0], best], parts, parts[:1]]
    return first_fitting((Content("   ").join(form) for form in forms), width)


def gave(summary: Summary) -> str:
    """What the best step gave, in words."""
    return counted(summary.best_tokens, "token")


def share_drafted(summary: Summary) -> float:
    return summary.drafted / max(1, summary.totals.tokens)


def _headline(summary: Summary, width: int) -> Content:
    totals = summary.totals
    parts = headline(totals, summary.speedup)
    rate = Content.styled(f"{totals.tokens_per_second:.1f} tokens/s", "$notice")
    tokens = Content.styled(counted(totals.tokens, "token"), "$notice")
    forms = [[*parts, rate, tokens], [*parts, rate], parts, parts[:1]]
    return first_fitting((Content("   ").join(form) for form in forms), width)


def _writers(summary: Summary, width: int) -> Content:
    """Who wrote the tokens, in the colours of the tints."""
    own = summary.totals.tokens - summary.drafted
    words = (f" {summary.drafted} draft", "$rank-1"), (f" + {own} target's own", "$bonus")
    room = width - _LABEL - sum(len(text) for text, _ in words)
    cells = room if room >= _LEAST_BAR else 0
    drafted = round(cells * share_drafted(summary))
    return Content.assemble(
        (fit("written by", _LABEL), "$notice"),
        ("█" * drafted, "$rank-1"),
        ("▓" * (cells - drafted), "$bonus"),
        *words,
    )


def _passes(summary: Summary, width: int, rows: int) -> list[Content]:
    """Tokens of each pass from the first to the last, as a bar chart."""
    cells = max(0, width - _LABEL - _FIGURE)
    labels = ["tokens of", "each pass"] if rows > 1 else ["each pass"]
    most = max(summary.tokens, default=0)
    return [
        Content.assemble(
            (fit(label, _LABEL), "$notice"),
            (bars, "$accepted"),
            (f"{most if at == 0 else '':>{_FIGURE}}", "$foreground"),
        )
        for at, (label, bars) in enumerate(
            zip(labels, bar_chart(summary.tokens, cells, rows), strict=True)
        )
    ]


def _best(summary: Summary, width: int, key: str) -> Content:
    """The best step and its text; a click goes to it."""
    step = f"{summary.best_step}: {gave(summary)}"
    room = width - _LABEL - len(step) - len(key) - 2
    text = fit(quote_token(summary.best_text), max(0, room))
    return Content.assemble(
        (fit("best step", _LABEL), "$notice"),
        _link(step),
        (f" {text}", "bold $accepted"),
        (f" {key}", "bold $primary"),
    )


def _link(text: str) -> Content:
    return Content.styled(text, "bold $foreground").stylize(_GO)


def _tables(summary: Summary, width: int, rows: int) -> list[Content]:
    """The histogram of accepted lengths, and acceptance by position, side by side."""
    totals, half = summary.totals, (width - 2) // 2
    counts = list(totals.accepted_lengths)
    most = max(counts, default=0) or 1
    if len(counts) >= rows:  # the last row has all longer ones
        counts[rows - 2 :] = [sum(counts[rows - 2 :])]
    more = "+" if len(counts) < len(totals.accepted_lengths) else ""
    lengths = [
        (f"{at}{more if at == len(counts) - 1 else ''}", count / most, str(count))
        for at, count in enumerate(counts)
    ]
    per_pos = totals.num_accepted_tokens_per_pos
    rates = [each / totals.num_drafts for each in per_pos]
    positions = [(str(at), rate, f"{rate:.2f}") for at, rate in enumerate(rates, 1)]
    left = _table("accepted in a pass", "times", lengths, half, rows)
    right = _table("accepted at position", "rate", positions, half, rows)
    return [Content.assemble(a, "  ", b) for a, b in zip(left, right, strict=True)]


def _table(
    title: str, what: str, entries: Sequence[tuple[str, float, str]], width: int, rows: int
) -> list[Content]:
    """A heading and entries, each with a bar, in exactly so many rows."""
    cells = max(0, width - _INDEX - _FIGURE - 1)
    lines = [Content.styled(fit(title, max(0, width - 6)) + f"{what:>6}", "$notice")]
    lines += [
        Content.assemble(
            (f"{label:<{_INDEX}}", "$notice"),
            (gauge(share, cells), "$accepted"),
            (f"{figure:>{_FIGURE + 1}}", "$foreground"),
        )
        for label, share, figure in entries[: rows - 1]
    ]
    lines += [Content("")] * (rows - len(lines))
    return [line.truncate(max(0, width), pad=True) for line in lines]
