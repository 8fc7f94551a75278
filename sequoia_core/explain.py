"""Finds out what a judged step can say about itself; what that is, is `insight`.

Only reads: neither the models, the verdict nor any generator is touched. Of what lies on the
device everything is packed into one tensor and read at once, so a step waits once more and not
once per node. Shapes: `R` rows asked for, `V` vocabulary, `V_draft` draft columns.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from sequoia_core.insight import Insight, Opinion, Ranking, TrialRecord
from sequoia_core.text import TextCodec
from sequoia_core.token_tree import ScoredTree
from sequoia_core.verify import Verdict

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
            _top(_rows_of(scored.probs, rows), None),
            _top(
                _rows_of(scored.tree.draft_probs, [read[node] for node in drafted]),
                scored.tree.vocab_ids,
            ),
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
    final = {id(left.outside): left for left in verdict.residuals.values()}  # the last of each
    outside = {
        key: _top(left.outside[None], None)[0].tolist()
        for key, left in final.items()
        if left.outside is not None and left.outside_mass > 0
    }
    records: list[TrialRecord] = []
    for node, trial in verdict.trials.items():
        if trial.draw is None:
            continue
        left, ranking = verdict.residuals.get(node), None
        if left is not None:
            row = _top(left.inside[None], left.vocab_ids)[0].tolist()
            key = id(left.outside)
            if key in outside:  # it was only ever scaled since, so its order was the same
                row = _merged(row, outside[key], left.outside_mass / final[key].outside_mass)
            ranking = _ranking(row, codec)
        records.append(TrialRecord(node, trial.p, trial.q, ranking))
    return tuple(records)


def _top(probs: Tensor, ids: Tensor | None) -> Tensor:
    """Ids and probabilities of the most probable tokens of each row: float64 [R, 2 x TOP].

    Args:
        probs: [R, V] or [R, V_draft].
        ids: the target's id of each column; None when they agree.
    """
    values, columns = probs.topk(min(TOP, probs.shape[1]), dim=-1)
    tokens = columns if ids is None else ids[columns]
    packed = probs.new_zeros((probs.shape[0], 2, TOP), dtype=torch.float64)  # holds an id exactly
    packed[:, 0, : tokens.shape[1]] = tokens
    packed[:, 1, : tokens.shape[1]] = values
    return packed.flatten(1)


def _merged(row: Sequence[float], other: Sequence[float], scale: float) -> list[float]:
    """The top of two packed rows together, the other's probabilities scaled."""
    pairs = [*zip(row[:TOP], row[TOP:], strict=True)]
    pairs += [(token, prob * scale) for token, prob in zip(other[:TOP], other[TOP:], strict=True)]
    best = sorted(pairs, key=lambda pair: -pair[1])[:TOP]
    return [*(token for token, _ in best), *(prob for _, prob in best)]


def _ranking(row: Sequence[float], codec: TextCodec) -> Ranking:
    probs = [round(prob, _DECIMALS) for prob in row[TOP:]]
    known = [at for at, prob in enumerate(probs) if prob > 0]
    token_ids = tuple(int(row[at]) for at in known)
    return Ranking(
        token_ids=token_ids,
        texts=tuple(map(codec.token_text, token_ids)),
        probs=tuple(probs[at] for at in known),
    )


def _rows_of(probs: Tensor, rows: Sequence[int]) -> Tensor:
    """Some of the rows, in this order."""
    if list(rows) == list(range(len(probs))):
        return probs
    return probs[torch.tensor(rows, dtype=torch.int64, device=probs.device)]
