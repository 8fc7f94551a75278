"""Why a node came out as it did, in words and figures. Pure; knows no widget or colour.

Reads a step's own record. Where that is older than insight, or holds no more, it says so instead of
working anything out again.
"""

from dataclasses import dataclass

from sequoia_core.events import Opinion, Origin, Outcome, Ranking, Step, TreeNode, TrialRecord

from ..state.sanitize import quote_token
from .tree_rows import BONUS_NODE, Verdict, ordinal, verdict_of


@dataclass(frozen=True, slots=True)
class Figure:
    """One quantity: its symbol, what it is, its value and a remark."""

    symbol: str
    meaning: str
    value: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class Column:
    """The most probable tokens of a distribution."""

    title: str
    ranking: Ranking


@dataclass(frozen=True, slots=True)
class Why:
    """What there is to say about a node.

    Attributes:
        verdict: of the node.
        token: quoted.
        headline: what became of it.
        place: where in the tree it is.
        figures: the comparison, where there was one.
        reason: a sentence; "" where the figures say it all.
        heading: over the columns.
        columns: target, draft and what was left, as far as they are known.
        token_id: of the node, to be found in the columns.
    """

    verdict: Verdict
    token: str
    headline: str
    place: str
    figures: tuple[Figure, ...]
    reason: str
    heading: str
    columns: tuple[Column, ...]
    token_id: int


def why(step: Step, node: int) -> Why:
    """What there is to say about a node, or about the bonus token (`BONUS_NODE`)."""
    if node == BONUS_NODE:
        return _why_bonus(step)
    if step.nodes[node].parent < 0:
        return _why_root(step)
    return _why_child(step, node)


def _why_root(step: Step) -> Why:
    root = step.nodes[0]
    heading, columns = _columns(step, 0, None)
    return Why(
        verdict=Verdict.ROOT,
        token=quote_token(root.text),
        headline="the last token of the step before",
        place="the root of this step's tree",
        figures=(),
        reason="It was given, not judged.",
        heading=heading,
        columns=columns,
        token_id=root.token_id,
    )


def _why_child(step: Step, index: int) -> Why:
    node = step.nodes[index]
    trial = step.insight.trial(index) if step.insight else None
    left = _left_after(step, index) if node.outcome is Outcome.REJECTED else None
    met = _left_before(step, index)
    column = left or (met if node.outcome is Outcome.ACCEPTED else None)
    heading, columns = _columns(step, node.parent, column)
    return Why(
        verdict=verdict_of(node),
        token=quote_token(node.text),
        headline=node.outcome.value,
        place=_place(step, node),
        figures=_figures(node, trial),
        reason=_reason(step, index),
        heading=heading,
        columns=columns,
        token_id=node.token_id,
    )


def _why_bonus(step: Step) -> Why:
    end = step.path[-1]
    tried = [i for i in step.children[end] if step.nodes[i].outcome is Outcome.REJECTED]
    greedy = any(_is_greedy(step.nodes[i]) for i in tried)
    if step.baseline:
        reason = "Nothing was drafted: a plain step, which speed-ups are measured against."
    elif not tried:
        reason = "Nothing was drafted here: it comes from the target's own distribution."
    elif greedy:
        reason = "It is the target's most probable token, and no child was it."
    else:
        reason = f"{_all_of(len(tried))} rejected: drawn from what that left of the target."
    left = _left_after(step, tried[-1], "drawn from this") if tried else None
    heading, columns = _columns(step, end, left)
    shown = Figure(
        "p",
        "target's probability",
        _number(step.bonus_prob),
        "at first" if tried and not greedy else "",
    )
    return Why(
        verdict=Verdict.BONUS,
        token=quote_token(step.bonus_text),
        headline="the target's own token",
        place=f"after {quote_token(step.nodes[end].text)}, where the accepted path ends",
        figures=(shown,),
        reason=reason,
        heading=heading,
        columns=columns,
        token_id=step.bonus_token_id,
    )


def _all_of(count: int) -> str:
    whole = {1: "The only child was", 2: "Both children were"}
    return whole.get(count, f"All {count} children were")


def _place(step: Step, node: TreeNode) -> str:
    siblings = step.children[node.parent]
    who = "looked up in the conversation" if node.origin is Origin.LOOKUP else "drafted"
    parent = quote_token(step.nodes[node.parent].text)
    return f"{ordinal(node.rank)} of {len(siblings)} after {parent}, depth {node.depth}, {who}"


def _figures(node: TreeNode, trial: TrialRecord | None) -> tuple[Figure, ...]:
    """p, q, their ratio and the draw; what is not on record is left out."""
    lookup = node.origin is Origin.LOOKUP
    first_p = None if node.target_prob is None else _number(node.target_prob)
    if trial is None:
        found = [Figure("p", "target's probability", first_p)] if first_p else []
        if node.draft_prob is not None:
            found.append(Figure("q", "draft's probability", _number(node.draft_prob)))
    else:
        same = first_p is None or first_p == _number(trial.p)
        told = "" if same else f"at first {first_p}"
        certain = "proposed with certainty" if trial.q == 1.0 else ""
        before = None if lookup or node.draft_prob is None else _number(node.draft_prob)
        moved = before is not None and before != _number(trial.q) and not certain
        found = [
            Figure("p", "target's probability", _number(trial.p), told),
            Figure("q", "draft's probability", _number(trial.q),
                   f"at first {before}" if moved else certain),
        ]  # fmt: skip
    if node.draw is None or node.accept_prob is None:
        return tuple(found)
    ratio = f"{trial.p / trial.q:.4f}" if trial and trial.q > 0 else f"{node.accept_prob:.4f}"
    sign = "<" if node.outcome is Outcome.ACCEPTED else "not <"
    return (
        *found,
        Figure("p / q", "their ratio", ratio, f"accepted with probability {node.accept_prob:.4f}"),
        Figure("r", "random number", f"{node.draw:.4f}", f"{sign} p / q: {node.outcome.value}"),
    )


def _reason(step: Step, index: int) -> str:
    node = step.nodes[index]
    if node.outcome is Outcome.NOT_REACHED:
        if node.parent not in step.path:
            parent = step.nodes[node.parent]
            return f"Its parent {quote_token(parent.text)} was {parent.outcome.value}."
        chosen = next((i for i in step.path if step.nodes[i].parent == node.parent), None)
        if chosen is None:
            return "The walk ended before it."
        return f"{quote_token(step.nodes[chosen].text)} before it was accepted."
    if node.draw is not None:
        return ""
    if node.accept_prob is None:
        return "How it was tried was not recorded with this step."
    if node.outcome is Outcome.ACCEPTED:
        return "It is the target's most probable token, which is what greedy decoding takes."
    best = step.insight.opinion(node.parent) if step.insight else None
    named = f", {quote_token(best.target.texts[0])}" if best and best.target.texts else ""
    return f"Greedy decoding takes the target's most probable token{named}."


def _columns(step: Step, after: int, left: Column | None) -> tuple[str, tuple[Column, ...]]:
    """What comes after a node in both models' opinion, and a heading for it."""
    heading = f"after {quote_token(step.nodes[after].text)}"
    if step.insight is None:
        return "the models' most probable tokens were not recorded with this step", ()
    opinion: Opinion | None = step.insight.opinion(after)
    if opinion is None:
        return f"{heading}: kept only for the path and the first nodes of so large a tree", ()
    columns = [Column("target", opinion.target)]
    if opinion.draft is not None:
        columns.append(Column("draft", opinion.draft))
    return heading, (*columns, *([left] if left else []))


def _left_after(step: Step, index: int, title: str = "left of target") -> Column | None:
    trial = step.insight.trial(index) if step.insight else None
    return Column(title, trial.residual) if trial and trial.residual else None


def _left_before(step: Step, index: int) -> Column | None:
    """What the node was held against, when a sibling was rejected before it."""
    node = step.nodes[index]
    earlier = [i for i in step.children[node.parent] if step.nodes[i].rank < node.rank]
    return _left_after(step, earlier[-1], "held against") if earlier else None


def _is_greedy(node: TreeNode) -> bool:
    return node.draw is None and node.accept_prob is not None


def _number(value: float) -> str:
    return f"{value:.4f}"
