"""Why a node was accepted or not, in words and figures.

Everything comes from the step's record; where it holds no more, that is said instead of computing
anything again.
"""

from dataclasses import dataclass

from sequoia_core.events import Origin, Outcome, Ranking, Step, TreeNode, TrialRecord

from ..state.sanitize import quote_token
from .tree_rows import BONUS_NODE, NodeVerdict, ordinal, verdict_of


@dataclass(frozen=True, slots=True)
class Quantity:
    """One quantity: its symbol, what it is, its value and a remark."""

    symbol: str
    meaning: str
    value: str
    remark: str = ""


@dataclass(frozen=True, slots=True)
class RankingColumn:
    """The most probable tokens of a distribution."""

    title: str
    ranking: Ranking


@dataclass(frozen=True, slots=True)
class NodeExplanation:
    """What is known about a node.

    Attributes:
        verdict: of verification.
        token: quoted.
        headline: the verdict in words.
        place: in the tree.
        quantities: that were compared, if any.
        reason: a sentence; "" where the quantities say it all.
        heading: over the columns.
        columns: target, draft and residual distribution, as far as they are known.
        token_id: of the node, to be found in the columns.
    """

    verdict: NodeVerdict
    token: str
    headline: str
    place: str
    quantities: tuple[Quantity, ...]
    reason: str
    heading: str
    columns: tuple[RankingColumn, ...]
    token_id: int


def explain_node(step: Step, node: int) -> NodeExplanation:
    """Explain a node, or the bonus token (`BONUS_NODE`)."""
    if node == BONUS_NODE:
        return _explain_bonus(step)
    if step.nodes[node].parent < 0:
        return _explain_root(step)
    return _explain_child(step, node)


def _explain_root(step: Step) -> NodeExplanation:
    root = step.nodes[0]
    heading, columns = _columns(step, 0, None)
    return NodeExplanation(
        verdict=NodeVerdict.ROOT,
        token=quote_token(root.text),
        headline="the last token of the step before",
        place="the root of this step's tree",
        quantities=(),
        reason="It was given, not judged.",
        heading=heading,
        columns=columns,
        token_id=root.token_id,
    )


def _explain_child(step: Step, index: int) -> NodeExplanation:
    node = step.nodes[index]
    siblings = step.children[node.parent]
    earlier = [each for each in siblings if step.nodes[each].rank < node.rank]
    residual = None
    if node.outcome is Outcome.REJECTED:
        residual = _residual(step, index, "left of target")
    elif node.outcome is Outcome.ACCEPTED and earlier:
        residual = _residual(step, earlier[-1], "held against")
    heading, columns = _columns(step, node.parent, residual)
    origin = "looked up in the conversation" if node.origin is Origin.LOOKUP else "drafted"
    parent = quote_token(step.nodes[node.parent].text)
    rank = f"{ordinal(node.rank)} of {len(siblings)}"
    return NodeExplanation(
        verdict=verdict_of(node),
        token=quote_token(node.text),
        headline=node.outcome.value,
        place=f"{rank} after {parent}, depth {node.depth}, {origin}",
        quantities=_quantities(node, step.insight.trial(index) if step.insight else None),
        reason=_reason(step, index),
        heading=heading,
        columns=columns,
        token_id=node.token_id,
    )


def _explain_bonus(step: Step) -> NodeExplanation:
    end = step.path[-1]
    children = step.children[end]
    tried = [each for each in children if step.nodes[each].outcome is Outcome.REJECTED]
    greedy = any(_is_greedy(step.nodes[each]) for each in tried)
    if step.baseline:
        reason = "Nothing was drafted: a plain step, which speed-ups are measured against."
    elif not tried:
        reason = "Nothing was drafted here: it comes from the target's own distribution."
    elif greedy:
        reason = "It is the target's most probable token, and no child was it."
    else:
        few = {1: "The only child was", 2: "Both children were"}
        children_were = few.get(len(tried), f"All {len(tried)} children were")
        reason = f"{children_were} rejected: drawn from what that left of the target."
    residual = _residual(step, tried[-1], "drawn from this") if tried else None
    heading, columns = _columns(step, end, residual)
    remark = "at first" if tried and not greedy else ""
    return NodeExplanation(
        verdict=NodeVerdict.BONUS,
        token=quote_token(step.bonus_text),
        headline="the target's own token",
        place=f"after {quote_token(step.nodes[end].text)}, where the accepted path ends",
        quantities=(Quantity("p", "target's probability", _number(step.bonus_prob), remark),),
        reason=reason,
        heading=heading,
        columns=columns,
        token_id=step.bonus_token_id,
    )


def _quantities(node: TreeNode, trial: TrialRecord | None) -> tuple[Quantity, ...]:
    """p, q, their ratio and the random number, as far as they are recorded."""
    first_p = None if node.target_prob is None else _number(node.target_prob)
    first_q = None if node.draft_prob is None else _number(node.draft_prob)
    p, q, p_remark, q_remark = first_p, first_q, "", ""
    if trial is not None:
        p, q = _number(trial.p), _number(trial.q)
        if first_p is not None and first_p != p:
            p_remark = f"at first {first_p}"
        if trial.q == 1.0:
            q_remark = "proposed with certainty"
        elif node.origin is not Origin.LOOKUP and first_q is not None and first_q != q:
            q_remark = f"at first {first_q}"
    found: list[Quantity] = []
    if p is not None:
        found.append(Quantity("p", "target's probability", p, p_remark))
    if q is not None:
        found.append(Quantity("q", "draft's probability", q, q_remark))
    if node.draw is not None and node.accept_prob is not None:
        chance = _number(node.accept_prob)
        ratio = _number(trial.p / trial.q) if trial and trial.q > 0 else chance
        sign = "<" if node.outcome is Outcome.ACCEPTED else "not <"
        verdict = f"{sign} p / q: {node.outcome.value}"
        found += [
            Quantity("p / q", "their ratio", ratio, f"accepted with probability {chance}"),
            Quantity("r", "random number", _number(node.draw), verdict),
        ]
    return tuple(found)


def _reason(step: Step, index: int) -> str:
    node = step.nodes[index]
    if node.outcome is Outcome.NOT_REACHED:
        if node.parent not in step.path:
            parent = step.nodes[node.parent]
            return f"Its parent {quote_token(parent.text)} was {parent.outcome.value}."
        chosen = next((i for i in step.path if step.nodes[i].parent == node.parent), None)
        if chosen is None:
            return "Verification ended before it."
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


def _columns(
    step: Step, after: int, residual: RankingColumn | None
) -> tuple[str, tuple[RankingColumn, ...]]:
    """The distributions after a node, and a heading for them."""
    heading = f"after {quote_token(step.nodes[after].text)}"
    if step.insight is None:
        return "the models' most probable tokens were not recorded with this step", ()
    opinion = step.insight.opinion(after)
    if opinion is None:
        return f"{heading}: kept only for the path and the first nodes of so large a tree", ()
    columns = [RankingColumn("target", opinion.target)]
    if opinion.draft is not None:
        columns.append(RankingColumn("draft", opinion.draft))
    return heading, (*columns, *([residual] if residual else []))


def _residual(step: Step, index: int, title: str) -> RankingColumn | None:
    """What the rejection of a node left of the target's distribution."""
    trial = step.insight.trial(index) if step.insight else None
    return RankingColumn(title, trial.residual) if trial and trial.residual else None


def _is_greedy(node: TreeNode) -> bool:
    return node.draw is None and node.accept_prob is not None


def _number(value: float) -> str:
    return f"{value:.4f}"
