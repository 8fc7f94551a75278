"""A verified step as plain values for its event: its nodes, and the reasons for its outcome."""

from collections.abc import Iterable, Sequence
from contextlib import suppress

import torch

from sequoia_core.errors import MemoryFullError
from sequoia_core.events import Insight, Opinion, Origin, Ranking, TreeNode, TrialRecord
from sequoia_core.model.loading.memory_plan import memory_errors
from sequoia_core.speculate.remainders import left_most_probable
from sequoia_core.speculate.residual import TOP, Remainder
from sequoia_core.speculate.sampling import most_probable, to_host
from sequoia_core.speculate.scored_tree import ScoredTree
from sequoia_core.speculate.verify import Verdict
from sequoia_core.text.detokenizer import TextCodec

MOST_NODES = 48  # nodes that are explained: beyond it a step's record would be mostly this
_DECIMALS = 6


def step_nodes(scored: ScoredTree, verdict: Verdict, codec: TextCodec) -> tuple[TreeNode, ...]:
    """Every node with both models' probabilities and its outcome."""
    growmap, attempts, appended = scored.growmap, verdict.attempts, scored.tree.appended
    nodes, outcomes = scored.nodes, verdict.outcomes(scored.growmap)
    return tuple(
        TreeNode(
            token_id=nodes.token_ids[node],
            text=codec.token_text(nodes.token_ids[node]),
            parent=growmap.parents[node],
            depth=growmap.depths[node],
            rank=growmap.ranks[node],
            draft_prob=nodes.draft_prob[node] if node and node not in appended else None,
            target_prob=scored.target_prob(node) if node else None,
            outcome=outcomes[node],
            accept_prob=attempts[node].accept_prob if node in attempts else None,
            draw=attempts[node].draw if node in attempts else None,
            origin=Origin.LOOKUP if node in appended else Origin.DRAFT,
        )
        for node in range(growmap.size)
    )


def explained(scored: ScoredTree, verdict: Verdict, codec: TextCodec) -> Insight | None:
    """The step's `Insight`; None where memory does not suffice, since the step stands."""
    with suppress(MemoryFullError), memory_errors(lambda: "the step cannot be explained"):
        return explain(scored, verdict, codec)
    return None


@torch.inference_mode()
def explain(scored: ScoredTree, verdict: Verdict, codec: TextCodec) -> Insight:
    """What both models preferred, and how each attempt went. Reads the tree's logits."""
    rows = explained_nodes(scored, verdict)
    read, ids = scored.tree.inner_rows, scored.tree.vocab_ids
    values, tokens = most_probable(scored.logits, [scored.rows[node] for node in rows], TOP)
    totals = [scored.summary.log_totals[node] for node in rows]
    shifts = torch.tensor(totals, dtype=torch.float64, device=values.device)[:, None]
    probs = (values / (scored.params.temperature or 1.0) - shifts).exp()
    drafted = [node for node in rows if node in read]
    draft_rows = [read[node] for node in drafted]
    draft_probs, columns = most_probable(scored.tree.draft_probs, draft_rows, TOP)
    residuals = [each.residual for each in verdict.attempts.values()]
    remainders = [each for each in residuals if isinstance(each, Remainder)]
    more = left_most_probable(scored, remainders, TOP) if remainders else ()
    best, shares, known, stated, *left = to_host(tokens, probs, columns, draft_probs, *more)
    if ids is not None:
        known = ids[torch.tensor(known, dtype=torch.int64)].tolist()
    targets = _rankings(best, shares, len(rows), codec)
    drafts = dict(zip(drafted, _rankings(known, stated, len(drafted), codec), strict=True))
    lefts = iter(_rankings(left[0], left[1], len(remainders), codec) if left else [])
    return Insight(
        opinions=tuple(
            Opinion(node, target, drafts.get(node))
            for node, target in zip(rows, targets, strict=True)
        ),
        trials=tuple(
            TrialRecord(
                node,
                each.p,
                each.q,
                next(lefts)
                if isinstance(each.residual, Remainder)
                else _ranking(each.residual.top(), codec)
                if each.residual
                else None,
                each.above,
            )
            for node, each in verdict.attempts.items()
            if each.draw is not None
        ),
    )


def explained_nodes(scored: ScoredTree, verdict: Verdict) -> list[int]:
    """Nodes with children and the path's end, ascending; the path first where they are many."""
    children = scored.growmap.children
    inner = [node for node in range(scored.growmap.size) if children[node]]
    return sorted(list(dict.fromkeys((*verdict.path, *inner)))[:MOST_NODES])


def _rankings(
    tokens: Sequence[float], probs: Sequence[float], rows: int, codec: TextCodec
) -> list[Ranking]:
    """Of as many tokens in each of so many rows, one row after the other."""
    count = len(tokens) // max(rows, 1)
    pairs = list(zip(tokens, probs, strict=True))
    return [_ranking(pairs[at * count : (at + 1) * count], codec) for at in range(rows)]


def _ranking(pairs: Iterable[tuple[float, float]], codec: TextCodec) -> Ranking:
    """Of tokens and their probabilities, in order."""
    rounded = [(int(token), round(prob, _DECIMALS)) for token, prob in pairs]
    token_ids = tuple(token for token, prob in rounded if prob > 0)
    probs = tuple(prob for _, prob in rounded if prob > 0)
    return Ranking(token_ids, tuple(map(codec.token_text, token_ids)), probs)
