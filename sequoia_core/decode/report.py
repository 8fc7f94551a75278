"""A verified step as plain values for its event: its nodes, and the reasons for its outcome.

What lies on the device is packed into one tensor and read at once. Shapes: `R` rows asked for, `V`
vocabulary, `V_draft` draft columns.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sequoia_core.events import Insight, Opinion, Origin, Ranking, TreeNode, TrialRecord
from sequoia_core.speculate.token_tree import ScoredTree
from sequoia_core.speculate.top_tokens import most_probable
from sequoia_core.speculate.verify import Outside, Residual, Verdict
from sequoia_core.text.detokenizer import TextCodec

TOP = 10  # tokens of a ranking
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


@torch.inference_mode()
def explain(scored: ScoredTree, verdict: Verdict, codec: TextCodec) -> Insight:
    """What both models preferred, and how each attempt went. Reads the tree's logits."""
    rows = explained_nodes(scored, verdict)
    read = scored.tree.inner_rows
    drafted = [node for node in rows if node in read]
    values, tokens = most_probable(scored.logits, rows, TOP)
    totals = [scored.summary.log_totals[node] for node in rows]
    shifts = torch.tensor(totals, dtype=torch.float64, device=values.device)[:, None]
    probs = (values / (scored.params.temperature or 1.0) - shifts).exp()
    drafts = [read[node] for node in drafted]
    of_draft = _top(scored.tree.draft_probs, drafts, scored.tree.vocab_ids)
    packed = torch.cat((_packed(tokens, probs), of_draft)).tolist()
    rankings = [_ranking(row, codec) for row in packed]
    draft = dict(zip(drafted, rankings[len(rows) :], strict=True))
    return Insight(
        opinions=tuple(
            Opinion(node, ranking, draft.get(node))
            for node, ranking in zip(rows, rankings, strict=False)
        ),
        trials=_trials(verdict, codec),
    )


def explained_nodes(scored: ScoredTree, verdict: Verdict) -> list[int]:
    """Nodes with children and the path's end, ascending; the path first where they are many."""
    children = scored.growmap.children
    inner = [node for node in range(scored.growmap.size) if children[node]]
    return sorted(list(dict.fromkeys((*verdict.path, *inner)))[:MOST_NODES])


def _trials(verdict: Verdict, codec: TextCodec) -> tuple[TrialRecord, ...]:
    """The attempts that compared probabilities; their tensors are on the CPU already."""
    tops = _residual_tops(verdict.residuals)
    return tuple(
        TrialRecord(node, each.p, each.q, _ranking(tops[node], codec) if node in tops else None)
        for node, each in verdict.attempts.items()
        if each.draw is not None
    )


def _residual_tops(residuals: Mapping[int, Residual]) -> dict[int, Sequence[float]]:
    """The packed top of the residual after each rejection."""
    packed: dict[int, Sequence[float]] = {}
    for whole in (False, True):  # residuals of the same columns are looked through at once
        nodes = [node for node, each in residuals.items() if (each.vocab_ids is None) == whole]
        if nodes:
            inside = torch.stack([residuals[node].inside for node in nodes])
            rows = _top(inside, range(len(nodes)), residuals[nodes[0]].vocab_ids).tolist()
            packed.update(zip(nodes, rows, strict=True))
    outside: dict[Outside, tuple[list[int], list[float]]] = {}
    for node, each in residuals.items():
        if each.outside is None:
            continue
        if each.outside not in outside:
            outside[each.outside] = each.outside(TOP)
        packed[node] = _merged(packed[node], *outside[each.outside], each.outside_mass)
    return packed


def _top(probs: Tensor, rows: Sequence[int], ids: Tensor | None) -> Tensor:
    """Ids and probabilities of the most probable tokens of R rows: float64 [R, 2 x TOP].

    `ids` is the target's of each column of `probs` [N, V or V_draft]; None when they agree.
    """
    values, columns = most_probable(probs, rows, TOP)
    return _packed(columns if ids is None else ids[columns], values)


def _packed(tokens: Tensor, probs: Tensor) -> Tensor:
    """[R, count] each -> float64 [R, 2 x TOP], filled up with zeros."""
    short = (0, TOP - tokens.shape[1])
    pad = torch.nn.functional.pad
    return torch.cat(
        (pad(tokens.double(), short), pad(probs.double().round(decimals=_DECIMALS), short)), dim=1
    )


def _merged(
    row: Sequence[float], tokens: Sequence[int], shares: Sequence[float], mass: float
) -> list[float]:
    """The top of a packed row and of other tokens together, which have shares of a mass."""
    pairs = [*zip(row[:TOP], row[TOP:], strict=True)]
    pairs += [
        (token, round(share * mass, _DECIMALS)) for token, share in zip(tokens, shares, strict=True)
    ]
    best = sorted(pairs, key=lambda pair: -pair[1])[:TOP]
    return [*(token for token, _ in best), *(prob for _, prob in best)]


def _ranking(row: Sequence[float], codec: TextCodec) -> Ranking:
    known = TOP
    while known and row[TOP + known - 1] <= 0:  # they are in order
        known -= 1
    token_ids = tuple(map(int, row[:known]))
    texts = tuple(map(codec.token_text, token_ids))
    return Ranking(token_ids, texts, tuple(row[TOP : TOP + known]))
