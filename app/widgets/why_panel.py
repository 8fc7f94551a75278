"""The panel that explains the outcome of a node."""

import textwrap

from textual.content import Content
from textual.reactive import reactive
from typing_extensions import override

from ..present.node_explanation import NodeExplanation, Quantity, RankingColumn
from ..present.tree_rows import GLYPHS, NodeVerdict
from ..state.sanitize import fit, quote_token
from .line import Line

_STYLES = {verdict: f"bold ${verdict.value}" for verdict in NodeVerdict}
_STYLES[NodeVerdict.NOT_REACHED] = "bold $foreground"
_SYMBOL, _MEANING, _VALUE, _REMARK = 6, 22, 8, 30
_PROB = 7
_LEAST_TOKEN = 8


class WhyPanel(Line):
    """Covers the chat, next to the tree."""

    ID = "why"
    BORDER_TITLE = "Why"
    BORDER_SUBTITLE = r"esc closes · up down node · \[ ] step"
    explanation: reactive[NodeExplanation | None] = reactive(None)  # None before the first step

    def explain(self, explanation: NodeExplanation | None, title: str) -> None:
        self.explanation = explanation
        if str(self.border_title or "") != f"Why · {title}":
            self.border_title = Content(f"Why · {title}")

    @override
    def render(self) -> Content:
        if self.explanation is None:
            return Content.styled(" no step yet", "$notice")
        width, height = self.size.width - 2, self.size.height
        lines = _head(self.explanation, width)
        lines += _rankings(self.explanation, width, height - len(lines))
        return Content("\n").join(Content.assemble(" ", line) for line in lines[:height])


def _head(why: NodeExplanation, width: int) -> list[Content]:
    title = f"{GLYPHS[why.verdict]} {why.token} {why.headline}"
    return [
        Content.styled(fit(title, width), _STYLES[why.verdict]),
        Content.styled(fit(why.place, width), "$notice"),
        *(_quantity(quantity, width) for quantity in why.quantities),
        *(Content.styled(fit(line, width), "$foreground")
          for line in textwrap.wrap(why.reason, max(1, width))),
    ]  # fmt: skip


def _quantity(quantity: Quantity, width: int) -> Content:
    meaning = _MEANING if width >= _SYMBOL + _MEANING + _VALUE + _REMARK else 0
    return Content.assemble(
        (fit(quantity.symbol, _SYMBOL), "bold $primary"),
        (fit(quantity.meaning, meaning), "$notice"),
        (fit(quantity.value, _VALUE), "bold $foreground"),
        (fit(quantity.remark, width - _SYMBOL - meaning - _VALUE), "$notice"),
    )


def _rankings(why: NodeExplanation, width: int, rows: int) -> list[Content]:
    """A heading, then the distributions side by side, as many of their tokens as fit."""
    lines = [Content(""), Content.styled(fit(why.heading, width), "$notice")]
    cells = width // max(1, len(why.columns))
    if not why.columns or cells < _PROB + _LEAST_TOKEN:
        return lines
    titles = (Content.styled(fit(each.title, cells), "bold $primary") for each in why.columns)
    lines.append(Content("").join(titles))
    longest = max(len(column.ranking.probs) for column in why.columns)
    for at in range(min(longest, rows - len(lines))):
        ranked = (_ranked(column, at, cells, why.token_id) for column in why.columns)
        lines.append(Content("").join(ranked))
    return lines


def _ranked(column: RankingColumn, at: int, cells: int, token_id: int) -> Content:
    """A token of a distribution with its probability."""
    ranking = column.ranking
    if at >= len(ranking.probs):
        return Content(" " * cells)
    chosen = ranking.token_ids[at] == token_id
    token = fit(quote_token(ranking.texts[at]), cells - _PROB - 3)
    text = f"{'▸' if chosen else ' '}{token} {ranking.probs[at]:.4f}"
    return Content.styled(fit(text, cells), "bold $foreground" if chosen else "$notice")
