"""The most probable tokens of some rows of a distribution or of logits, for reports."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sequoia_core.model.native.rows import reader_of

_TOP_BLOCK = 128
_FEW_VALUES = 1 << 14  # values up to which a plain `topk` is as fast
_GATHERED = 4  # rows are copied out first where they are less than one in so many


def most_probable(probs: Tensor, rows: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
    """The largest of R rows of probabilities or logits [N, W]: values and columns [R, count].

    They lie in the blocks with the largest maxima, and maxima of all rows are found at the memory's
    speed; `topk` over a vocabulary takes twenty times as long a row.
    """
    width = probs.shape[1]
    if rows and (reader := reader_of(probs)) is not None:
        first, last = min(rows), max(rows) + 1  # those between are read, since copies cost more
        index = _index(rows, probs)
        columns = reader.top(probs[first:last], min(count, width))[index - first]
        return probs[index[:, None], columns], columns
    blocks = width // _TOP_BLOCK
    if len(rows) * width <= _FEW_VALUES or blocks <= count:
        found = probs[_index(rows, probs)].topk(min(count, width), dim=-1)
        return found.values, found.indices
    if len(rows) * _GATHERED < len(probs):
        probs, rows = probs[_index(rows, probs)], range(len(rows))
    index, even = _index(rows, probs), blocks * _TOP_BLOCK
    whole = probs[:, :even].view(len(probs), blocks, _TOP_BLOCK)
    best = whole.amax(-1)[index].topk(count, dim=-1).indices  # [R, count]
    candidates = whole[index[:, None], best].flatten(1)  # [R, count x _TOP_BLOCK]
    if even < width:
        candidates = torch.cat((candidates, probs[index, even:]), dim=1)
    values, at = candidates.topk(count, dim=-1)
    columns = best.gather(1, (at // _TOP_BLOCK).clamp(max=count - 1)) * _TOP_BLOCK + at % _TOP_BLOCK
    if even < width:
        columns = torch.where(at < count * _TOP_BLOCK, columns, at + (even - count * _TOP_BLOCK))
    return values, columns


def _index(rows: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64, device=like.device)
