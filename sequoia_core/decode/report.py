"""Finds out what a judged step can say about itself; what that is, is `insight`.

Only reads: neither the models, the verdict nor any generator is touched. Of what lies on the
device everything is packed into one tensor and read at once, so a step waits once more and not
once per node. Shapes: `R` rows asked for, `V` vocabulary, `V_draft` draft columns.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sequoia_core.events import Insight, Opinion, Ranking, TrialRecord
from sequoia_core.speculate.sampling import most_probable
from sequoia_core.speculate.token_tree import ScoredTree
from sequoia_core.speculate.verify import Outside, Residual, Verdict
from sequoia_core.text.detokenizer import TextCodec

TOP = 10
"""Tokens of a ranking."""
MOST_NODES = 48
"""Nodes that are explained: beyond it a step's record would be mostly this."""
_DECIMALS = 6


@torch.inference_mode()
def explain(scored: ScoredTree, verdict: Verdict, codec: TextCodec) -> Insight:
    """What a step can say about itself.

    Args:
        scored: the tree, its logits not yet overwritten.
        verdict: of a rule on it.
        codec: how tokens read.
    """
    rows = explained_nodes(scored, verdict)
    read = scored.tree.inner_rows
    drafted = [node for node in rows if node in read]
    packed = torch.cat(
        (
            _top_of_target(scored, rows),
            _top(scored.tree.draft_probs, [read[node] for node in drafted], scored.tree.vocab_ids),
        )
    ).tolist()
    target = [_ranking(row, codec) for row in packed[: len(rows)]]
    draft: Mapping[int, Ranking] = {
        node: _ranking(row, codec) for node, row in zip(drafted, packed[len(rows) :], strict=True)
    }
    return Insight(
        opinions=tuple(
            Opinion(node, ranking, draft.get(node))
            for node, ranking in zip(rows, target, strict=True)
        ),
        trials=_trials(verdict, codec),
    )


def explained_nodes(scored: ScoredTree, verdict: Verdict) -> list[int]:
    """Nodes with children and the path's end, ascending; the path first where they are many."""
    wanted = dict.fromkeys(verdict.path)
    wanted |= dict.fromkeys(
        node for node in range(scored.growmap.size) if scored.growmap.children[node]
    )
    return sorted(list(wanted)[:MOST_NODES])


def _trials(verdict: Verdict, codec: TextCodec) -> tuple[TrialRecord, ...]:
    """The trials that compared probabilities; their tensors are on the CPU already."""
    left = _residuals(verdict.residuals)
    return tuple(
        TrialRecord(node, trial.p, trial.q, _ranking(left[node], codec) if node in left else None)
        for node, trial in verdict.trials.items()
        if trial.draw is not None
    )


def _residuals(residuals: Mapping[int, Residual]) -> dict[int, Sequence[float]]:
    """The packed top of what each rejection left."""
    packed: dict[int, Sequence[float]] = {}
    for nodes in _alike(residuals):
        first = residuals[nodes[0]]
        inside = torch.stack([residuals[node].inside for node in nodes])
        rows = _top(inside, range(len(nodes)), first.vocab_ids).tolist()
        packed.update(zip(nodes, rows, strict=True))
    tops: dict[Outside, tuple[list[int], list[float]]] = {}
    for node, left in residuals.items():
        if left.outside is None:
            continue
        if left.outside not in tops:
            tops[left.outside] = left.outside(TOP)
        packed[node] = _merged(packed[node], *tops[left.outside], left.outside_mass)
    return packed


def _alike(residuals: Mapping[int, Residual]) -> list[list[int]]:
    """Nodes by the columns of what they left, so that each kind is looked through at once."""
    kinds: dict[bool, list[int]] = {}
    for node, left in residuals.items():
        kinds.setdefault(left.vocab_ids is None, []).append(node)
    return list(kinds.values())


def _top_of_target(scored: ScoredTree, nodes: Sequence[int]) -> Tensor:
    """As `_top`, of the target's softmax at the temperature after some nodes."""
    values, tokens = most_probable(scored.logits, nodes, TOP)
    totals = [scored.summary.log_totals[node] for node in nodes]
    shifts = torch.tensor(totals, dtype=torch.float64, device=values.device)[:, None]
    return _packed(tokens, (values / (scored.params.temperature or 1.0) - shifts).exp())


def _top(probs: Tensor, rows: Sequence[int], ids: Tensor | None) -> Tensor:
    """Ids and probabilities of the most probable tokens of some rows: float64 [R, 2 x TOP].

    Args:
        probs: [N, V] or [N, V_draft].
        rows: which of the N rows.
        ids: the target's id of each column; None when they agree.
    """
    values, columns = most_probable(probs, rows, TOP)
    tokens = columns if ids is None else ids[columns]
    return _packed(tokens, values)


def _packed(tokens: Tensor, probs: Tensor) -> Tensor:
    """[R, count] each -> float64 [R, 2 x TOP], filled up with zeros."""
    packed = torch.cat((tokens.double(), probs.double().round(decimals=_DECIMALS)), dim=1)
    rows, count = tokens.shape
    if count == TOP:
        return packed
    padded = packed.new_zeros((rows, 2, TOP))
    padded[:, :, :count] = packed.view(rows, 2, count)
    return padded.flatten(1)


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
