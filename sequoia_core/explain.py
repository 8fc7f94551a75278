"""Finds out what a judged step can say about itself; what that is, is `insight`.

Only reads: neither the models, the verdict nor any generator is touched. Of what lies on the
device everything is packed into one tensor and read at once, so a step waits once more and not
once per node. Shapes: `R` rows asked for, `V` vocabulary, `V_draft` draft columns.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from sequoia_core.insight import Insight, Opinion, Ranking, TrialRecord
from sequoia_core.text import TextCodec
from sequoia_core.token_tree import ScoredTree
from sequoia_core.verify import Residual, Verdict

TOP = 10
"""Tokens of a ranking."""
MOST_NODES = 48
"""Nodes that are explained: beyond it a step's record would be mostly this."""
_DECIMALS = 6
_BLOCK = 128
_FEW = 1 << 14
"""Values up to which a plain `topk` is as fast."""
_GATHERED = 4
"""Rows are copied out first where they are less than one in so many."""


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
            _top(scored.some_probs(_index(rows, scored.logits)), range(len(rows)), None),
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
    tops: dict[Callable[[], Tensor], tuple[list[float], float]] = {}
    for node, left in residuals.items():
        if left.outside is None:
            continue
        if left.outside not in tops:
            outside = left.outside()
            tops[left.outside] = _top(outside[None], [0], None)[0].tolist(), float(outside.sum())
        top, mass = tops[left.outside]
        if mass > 0:
            packed[node] = _merged(packed[node], top, left.outside_mass / mass)
    return packed


def _alike(residuals: Mapping[int, Residual]) -> list[list[int]]:
    """Nodes by the columns of what they left, so that each kind is looked through at once."""
    kinds: dict[bool, list[int]] = {}
    for node, left in residuals.items():
        kinds.setdefault(left.vocab_ids is None, []).append(node)
    return list(kinds.values())


def _top(probs: Tensor, rows: Sequence[int], ids: Tensor | None) -> Tensor:
    """Ids and probabilities of the most probable tokens of some rows: float64 [R, 2 x TOP].

    Args:
        probs: [N, V] or [N, V_draft].
        rows: which of the N rows.
        ids: the target's id of each column; None when they agree.
    """
    values, columns = most_probable(probs, rows, TOP)
    tokens = columns if ids is None else ids[columns]
    packed = torch.cat((tokens.double(), values.double().round(decimals=_DECIMALS)), dim=1)
    if columns.shape[1] == TOP:
        return packed
    padded = packed.new_zeros((len(rows), 2, TOP))
    padded[:, :, : columns.shape[1]] = packed.view(len(rows), 2, columns.shape[1])
    return padded.flatten(1)


def most_probable(probs: Tensor, rows: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
    """The `count` largest of some rows [N, W] in order: values [R, count] and columns [R, count].

    The largest values lie in the blocks with the largest maxima, and maxima of all rows are found
    at the memory's speed; `topk` over a vocabulary takes twenty times as long a row.
    """
    width = probs.shape[1]
    every = len(rows) == len(probs) and list(rows) == list(range(len(probs)))
    blocks = width // _BLOCK
    if len(rows) * width <= _FEW or blocks <= count:
        chosen = probs if every else probs[_index(rows, probs)]
        found = chosen.topk(min(count, width), dim=-1)
        return found.values, found.indices
    if len(rows) * _GATHERED < len(probs):
        probs, rows = probs[_index(rows, probs)], range(len(rows))
    index, even = _index(rows, probs), blocks * _BLOCK
    whole = probs[:, :even].view(len(probs), blocks, _BLOCK)
    best = whole.amax(-1)[index].topk(count, dim=-1).indices  # [R, count]
    candidates = whole[index[:, None], best].flatten(1)  # [R, count x _BLOCK]
    if even < width:
        candidates = torch.cat((candidates, probs[index, even:]), dim=1)
    values, at = candidates.topk(count, dim=-1)
    columns = best.gather(1, (at // _BLOCK).clamp(max=count - 1)) * _BLOCK + at % _BLOCK
    if even < width:
        columns = torch.where(at < count * _BLOCK, columns, at + (even - count * _BLOCK))
    return values, columns


def _merged(row: Sequence[float], other: Sequence[float], scale: float) -> list[float]:
    """The top of two packed rows together, the other's probabilities scaled."""
    pairs = [*zip(row[:TOP], row[TOP:], strict=True)]
    pairs += [
        (token, round(prob * scale, _DECIMALS))
        for token, prob in zip(other[:TOP], other[TOP:], strict=True)
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


def _index(rows: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64, device=like.device)
