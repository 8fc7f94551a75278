"""Why a node was accepted or not, from the step's record, and the panel that shows it."""

import textwrap
from typing import NamedTuple

from textual.content import Content
from textual.reactive import reactive
from typing_extensions import override

from sequoia_core.errors import counted
from sequoia_core.events import Origin, Outcome, Ranking, Step, TreeNode, TrialRecord

from ..present.tree_rows import (
    BONUS_NODE,
    GLYPHS,
    NodeVerdict,
    fold_index,
    is_fold,
    subtree_sizes,
    verdict_of,
)
from ..present.words import ordinal
from ..state.sanitize import fit, quote_token, spelt_token
from .line import Line, indented

_STYLES = {verdict: f"bold ${verdict.color}" for verdict in NodeVerdict}
_STYLES[NodeVerdict.NOT_REACHED] = "bold $foreground"
_SYMBOL, _MEANING, _VALUE, _REMARK = 6, 22, 8, 30
_PROB = 7
_LEAST_TOKEN = 8


class Quantity(NamedTuple):
    symbol: str
    meaning: str
    value: str
    remark: str = ""


class NodeExplanation(NamedTuple):
    verdict: NodeVerdict
    token: str  # quoted
    token_id: int
    headline: str
    place: str
    heading: str  # over the rankings
    rankings: dict[str, Ranking]  # of target, draft and residual, as far as they are known
    quantities: tuple[Quantity, ...] = ()
    reason: str = ""  # a sentence; "" where the quantities say it all


class WhyPanel(Line):
    """Covers the chat, next to the tree."""

    ID = "why"
    BORDER_TITLE = "Why"
    BORDER_SUBTITLE = r"esc closes · up down node · \[ ] step"
    explanation: reactive[NodeExplanation | None] = reactive(None)  # None before the first step

    def explain(
        self, step: Step | None, node: int, title: str, folded: tuple[int, ...] = ()
    ) -> None:
        """Explain a node, or the fold below a node that stands for these and all below them."""
        if step is not None and is_fold(node):
            self.explanation = explain_fold(step, fold_index(node), folded)
        else:
            self.explanation = explain_node(step, node) if step is not None else None
        if str(self.border_title or "") != f"Why · {title}":
            self.border_title = Content(f"Why · {title}")

    @override
    def render(self) -> Content:
        if self.explanation is None:
            return Content.styled(" no step yet", "$notice")
        width, height = self.size.width - 2, self.size.height
        lines = _head(self.explanation, width)
        lines += _rankings(self.explanation, width, height - len(lines))
        return indented(lines[:height])


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
    cells = width // max(1, len(why.rankings))
    if not why.rankings or cells < _PROB + _LEAST_TOKEN:
        return lines
    titles = (Content.styled(fit(title, cells), "bold $primary") for title in why.rankings)
    lines.append(Content("").join(titles))
    longest = max(len(ranking.probs) for ranking in why.rankings.values())
    for at in range(min(longest, rows - len(lines))):
        ranked = (_ranked(each, at, cells, why.token_id) for each in why.rankings.values())
        lines.append(Content("").join(ranked))
    return lines


def _ranked(ranking: Ranking, at: int, cells: int, token_id: int) -> Content:
    """A token of a distribution with its probability."""
    if at >= len(ranking.probs):
        return Content(" " * cells)
    chosen = ranking.token_ids[at] == token_id
    token = fit(quote_token(ranking.texts[at]), cells - _PROB - 3)
    text = f"{'▸' if chosen else ' '}{token} {ranking.probs[at]:.4f}"
    return Content.styled(fit(text, cells), "bold $foreground" if chosen else "$notice")


def _named(text: str) -> str:
    """The token, with the model's own spelling where it is shown in words."""
    shown, spelt = quote_token(text), spelt_token(text)
    return shown if shown == spelt else f"{shown}, {spelt}"


def explain_node(step: Step, index: int) -> NodeExplanation:
    """Explain a node, or the bonus token (`BONUS_NODE`)."""
    if index == BONUS_NODE:
        return _explain_bonus(step)
    node = step.nodes[index]
    known = verdict_of(node), _named(node.text), node.token_id
    if node.parent < 0:
        return NodeExplanation(
            *known, "the last token of the step before", "the root of this step's tree",
            *_distributions(step, 0, {}), reason="Certain before this step: nothing to judge.",
        )  # fmt: skip
    siblings = step.children[node.parent]
    earlier = [each for each in siblings if step.nodes[each].rank < node.rank]
    residual: dict[str, Ranking] = {}
    if node.outcome is Outcome.REJECTED:
        residual = _residual(step, index, "residual after")
    elif node.outcome is Outcome.ACCEPTED and earlier:
        residual = _residual(step, earlier[-1], "residual before")
    origin = "looked up in the conversation" if node.origin is Origin.LOOKUP else "drafted"
    parent = quote_token(step.nodes[node.parent].text)
    rank = f"{ordinal(node.rank)} guess of {len(siblings)}"
    return NodeExplanation(
        *known,
        node.outcome.value,
        f"{rank} after {parent}, depth {node.depth}, {origin}",
        *_distributions(step, node.parent, residual),
        quantities=tuple(_quantities(node, step.insight.trial(index) if step.insight else None)),
        reason=_reason(step, node),
    )


def explain_fold(step: Step, above: int, folded: tuple[int, ...]) -> NodeExplanation:
    """Why these children of a node, and all nodes below them, were not tried."""
    sizes, parent = subtree_sizes(step), step.nodes[above]
    count = sum(sizes[node] for node in folded)
    if above not in step.path:
        reason = f"None was tried, since {quote_token(parent.text)} was {parent.outcome.value}."
    else:
        chosen = next((at for at in step.path if step.nodes[at].parent == above), None)
        reason = "None was tried: verification ended before them."
        if chosen is not None:
            reason = f"None was tried, since {quote_token(step.nodes[chosen].text)} was accepted."
    return NodeExplanation(
        NodeVerdict.NOT_REACHED,
        counted(count, "node"),
        parent.token_id,
        "not reached, folded into one row",
        f"after {quote_token(parent.text)}, from depth {parent.depth + 1}",
        "Enter or a click opens and closes it", {}, reason=reason,
    )  # fmt: skip


def _explain_bonus(step: Step) -> NodeExplanation:
    end = step.path[-1]
    tried = [at for at in step.children[end] if step.nodes[at].outcome is Outcome.REJECTED]
    greedy = any(_is_greedy(step.nodes[at]) for at in tried)
    if step.baseline:
        reason = "Nothing was drafted: a plain step, to measure what plain decoding takes."
    elif not tried:
        reason = "Nothing was drafted here: it comes from the target's own distribution."
    elif greedy:
        reason = "It is the target's most probable token, and no guess was that token."
    else:
        reason = "Every guess was rejected: drawn from the residual, what is left of the target."
    residual = _residual(step, tried[-1], "residual") if tried else {}
    remark = "before rejections" if tried and not greedy else ""
    return NodeExplanation(
        NodeVerdict.BONUS,
        _named(step.bonus_text),
        step.bonus_token_id,
        "the target's own token",
        f"after {quote_token(step.nodes[end].text)}, where the accepted path ends",
        *_distributions(step, end, residual),
        quantities=(Quantity("p", "target's probability", _number(step.bonus_prob), remark),),
        reason=reason,
    )


def _quantities(node: TreeNode, trial: TrialRecord | None) -> list[Quantity]:
    """p, q, their ratio and the random number, as far as they are recorded."""
    found = []
    at_first = (node.target_prob, None if node.origin is Origin.LOOKUP else node.draft_prob)
    shown = (trial.p, trial.q) if trial is not None else (node.target_prob, node.draft_prob)
    for symbol, whose, first, value in zip("pq", ("target", "draft"), at_first, shown, strict=True):
        if value is None:
            continue
        remark = ""
        if symbol == "q" and trial is not None and value == 1.0:
            remark = "proposed with certainty"
        elif first is not None and _number(first) != _number(value):
            remark = f"{_number(first)} before rejections"
        found.append(Quantity(symbol, f"{whose}'s probability", _number(value), remark))
    if node.draw is not None and node.accept_prob is not None:
        found += _test(node, trial, node.accept_prob, node.draw)
    return found


def _test(
    node: TreeNode, trial: TrialRecord | None, accept_prob: float, draw: float
) -> list[Quantity]:
    """What the random number was compared with: p / q, or in the mode `traverse` the reach."""
    chance = _number(accept_prob)
    ratio = _number(trial.p / trial.q) if trial and trial.q > 0 else chance
    sign = "<" if node.outcome is Outcome.ACCEPTED else "not <"
    if trial is None or trial.above is None:
        verdict = f"{sign} p / q: {node.outcome.value}"
        return [
            Quantity("p / q", "their ratio", ratio, f"accepted with probability {chance}"),
            Quantity("r", "random number", _number(draw), verdict),
        ]
    first = min(1.0, trial.above * (trial.p / trial.q if trial.q > 0 else float(trial.p > 0)))
    fell = f"{_number(first)} before rejections" if _number(first) != chance else ""
    return [
        Quantity("p / q", "their ratio", ratio, f"times {_number(trial.above)}, w above it"),
        Quantity("w", "chance of the sequence", chance, fell or "at most 1"),
        Quantity("r", "random number", _number(draw), f"{sign} w: {node.outcome.value}"),
    ]


def _reason(step: Step, node: TreeNode) -> str:
    if node.outcome is Outcome.NOT_REACHED:
        if node.parent not in step.path:
            parent = step.nodes[node.parent]
            return f"Its parent {quote_token(parent.text)} was {parent.outcome.value}."
        chosen = next((at for at in step.path if step.nodes[at].parent == node.parent), None)
        if chosen is None:
            return "Verification ended before it."
        return f"{quote_token(step.nodes[chosen].text)} before it was accepted."
    if node.draw is not None:
        return ""
    if not _is_greedy(node):
        end = step.nodes[step.path[-1]]
        if node.outcome is Outcome.ACCEPTED and end.draw is not None:  # from the leaves up
            return f"Accepted with the whole sequence, which ends at {quote_token(end.text)}."
        return "How it was judged was not recorded with this step."
    if node.outcome is Outcome.ACCEPTED:
        return "It is the target's most probable token, which is what greedy decoding takes."
    best = step.insight.opinion(node.parent) if step.insight else None
    named = f", {quote_token(best.target.texts[0])}" if best and best.target.texts else ""
    return f"Greedy decoding takes the target's most probable token{named}."


def _distributions(
    step: Step, after: int, residual: dict[str, Ranking]
) -> tuple[str, dict[str, Ranking]]:
    """A heading and the distributions after a node."""
    heading = f"after {quote_token(step.nodes[after].text)}"
    if step.insight is None:
        return "the models' most probable tokens were not recorded with this step", {}
    opinion = step.insight.opinion(after)
    if opinion is None:
        return f"{heading}: kept only for the path and the first nodes of so large a tree", {}
    draft = {"draft": opinion.draft} if opinion.draft is not None else {}
    return heading, {"target": opinion.target, **draft, **residual}


def _residual(step: Step, index: int, title: str) -> dict[str, Ranking]:
    """What the rejection of a node left of the target's distribution, under a title."""
    trial = step.insight.trial(index) if step.insight else None
    return {title: trial.residual} if trial and trial.residual else {}


def _is_greedy(node: TreeNode) -> bool:
    return node.draw is None and node.accept_prob is not None


def _number(value: float) -> str:
    return f"{value:.4f}"
