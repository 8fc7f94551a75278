"""The panel that tells why a node came out as it did; what it says is `why`."""

import textwrap
from collections.abc import Sequence

from textual.content import Content

from ..present.node_explanation import Column, Figure, Why
from ..present.tree_rows import GLYPHS, Verdict
from ..state.sanitize import fit, quote_token
from .line import Line

_STYLES = {
    Verdict.ROOT: "bold $root",
    Verdict.ACCEPTED: "bold $accepted",
    Verdict.REJECTED: "bold $rejected",
    Verdict.NOT_REACHED: "bold $foreground",
    Verdict.BONUS: "bold $bonus",
}
_SYMBOL, _MEANING, _VALUE = 6, 22, 8
_PROB = 7
_LEAST_TOKEN = 8
CLOSING = "esc closes · up down node · [ ] step"


class WhyPanel(Line):
    """Over the chat, beside the tree whose node it tells of."""

    def __init__(self) -> None:
        super().__init__(id="why")
        self._why: Why | None = None

    def on_mount(self) -> None:
        """How to leave stands on the border."""
        self.border_title = "Why"
        self.border_subtitle = Content(CLOSING)

    @property
    def shown(self) -> Why | None:
        """What it says."""
        return self._why

    def tell(self, why: Why | None, title: str) -> None:
        """Say why, or that there is nothing yet; `title` names the step."""
        if why != self._why:
            self._why = why
            self.refresh()
        if str(self.border_title or "") != f"Why · {title}":
            self.border_title = Content(f"Why · {title}")

    def render(self) -> Content:
        """Words, figures, and of the rankings as much as there is height for."""
        if self._why is None:
            return Content.styled(" no step yet", "$notice")
        width, height = self.size.width - 2, self.size.height
        lines = _head(self._why, width)
        lines += _rankings(self._why, width, height - len(lines))
        return Content("\n").join(Content.assemble(" ", line) for line in lines[:height])


def _head(why: Why, width: int) -> list[Content]:
    title = f"{GLYPHS[why.verdict]} {why.token} {why.headline}"
    lines = [
        Content.styled(fit(title, width), _STYLES[why.verdict]),
        Content.styled(fit(why.place, width), "$notice"),
    ]
    lines += [_figure(figure, width) for figure in why.figures]
    reason = textwrap.wrap(why.reason, max(1, width))
    return lines + [Content.styled(fit(line, width), "$foreground") for line in reason]


def _figure(figure: Figure, width: int) -> Content:
    """Symbol, meaning where there is room for it, value, remark."""
    meaning = _MEANING if width >= _SYMBOL + _MEANING + _VALUE + 30 else 0
    rest = max(0, width - _SYMBOL - meaning - _VALUE)
    return Content.assemble(
        (fit(figure.symbol, _SYMBOL), "bold $primary"),
        (fit(figure.meaning, meaning), "$notice"),
        (fit(figure.value, _VALUE), "bold $foreground"),
        (fit(figure.remark, rest), "$notice"),
    )


def _rankings(why: Why, width: int, rows: int) -> list[Content]:
    """A heading, then the distributions side by side, as many of their tokens as fit."""
    lines = [Content(""), Content.styled(fit(why.heading, width), "$notice")]
    if not why.columns:
        return lines
    cells = width // len(why.columns)
    if cells < _PROB + _LEAST_TOKEN:
        return lines
    lines.append(
        Content("").join(
            Content.styled(fit(column.title, cells), "bold $primary") for column in why.columns
        )
    )
    longest = max(len(column.ranking.probs) for column in why.columns)
    for at in range(min(longest, rows - len(lines))):
        lines.append(_rank(why.columns, at, cells, why.token_id))
    return lines


def _rank(columns: Sequence[Column], at: int, cells: int, token_id: int) -> Content:
    parts: list[Content] = []
    for column in columns:
        ranking = column.ranking
        if at >= len(ranking.probs):
            parts.append(Content(" " * cells))
            continue
        chosen = ranking.token_ids[at] == token_id
        token = fit(quote_token(ranking.texts[at]), cells - _PROB - 3)
        text = f"{'▸' if chosen else ' '}{token} {ranking.probs[at]:.4f}"
        parts.append(Content.styled(fit(text, cells), "bold $foreground" if chosen else "$notice"))
    return Content("").join(parts)
