"""Attention of a forward's rows over the keys and values of a cache.

The `G = H / K` query heads of a KV head lie below each other as `G n` rows. Only kernels without a
mask divide a long context among a GPU's multiprocessors. Rows of a tree need a mask for the last
keys only, so the keys before them can take such a kernel; the two parts are merged by the
logarithms of their sums of exponentials, as in flash decoding.
"""

from dataclasses import dataclass
from enum import StrEnum
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 256  # keys: parts begin at multiples of it, which kernels want of the address of a mask

MOST_SCORES = 1 << 24  # that `MATH` makes: 64 MiB; larger ones take the other kernel

_ATEN = torch.ops.aten


class MaskedKernel(StrEnum):
    """What computes attention under a mask."""

    EFFICIENT = "efficient"  # the memory-efficient one; off CUDA, PyTorch's own choice
    MATH = "math"  # products and a softmax


@dataclass(frozen=True, slots=True)
class AttentionChoice:
    """Which kernels a device is fastest with."""

    masked: MaskedKernel = MaskedKernel.EFFICIENT
    # keys visible to all rows, from which on it pays to let a kernel without a mask take them
    split_from: int | None = None

    def whole(self, visible: int) -> int:
        """Of so many first keys that all rows see, those for a kernel without a mask."""
        if self.split_from is None or visible < self.split_from:
            return 0
        # one stays, so that no row sees nothing of the other part
        return (visible - 1) // BLOCK * BLOCK

    def __str__(self) -> str:
        split = "" if self.split_from is None else f", split from {self.split_from} keys"
        return f"{self.masked.value} attention{split}"


@dataclass(frozen=True, slots=True)
class Scores:
    """How the product of a query and a key becomes a score, before a mask is added."""

    scale: float | None = None  # None is 1 / sqrt(D)
    softcap: float | None = None  # softcap * tanh(score / softcap); one kernel alone computes it


def attend(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor | None,
    groups: int,
    masked: MaskedKernel = MaskedKernel.EFFICIENT,
    scores: Scores = Scores(),
) -> Tensor:
    """Mix the values that each row attends to.

    Args:
        queries: rotated, [1, K, G n, D].
        keys: [1, K, span, D], those of the new rows included.
        values: of the same shape.
        bias: additive, of the last keys [G n, at most span]; those before are visible to all rows,
            and taken by a kernel without a mask. None for a single row, which attends to all keys,
            and for the first n rows of a text.
        groups: query heads of a KV head, `G`.
        masked: what takes the keys under the mask.
        scores: how they are computed; with a softcap only rows of a text of one need no `bias`.

    Returns:
        [n, H D].
    """
    kv_heads, dim = keys.shape[1], keys.shape[3]
    attention = partial(functional.scaled_dot_product_attention, scale=scores.scale)
    if scores.softcap is not None:
        assert bias is not None or queries.shape[2] == groups
        mixed, _ = _by_math(queries, keys, values, bias, scores)
    elif bias is None and queries.shape[2] > groups:  # the first rows of a text
        heads = queries.reshape(1, -1, keys.shape[2], dim)  # [1, H, n, D]
        mixed = attention(heads, keys, values, is_causal=True, enable_gqa=groups > 1)
    elif bias is not None and (whole := keys.shape[2] - bias.shape[1]):
        first = _without_mask(queries, keys[:, :, :whole], values[:, :, :whole], scores)
        others = keys[:, :, whole:], values[:, :, whole:]
        mixed = merged(first, _under_mask(queries, *others, bias, masked, scores))
    elif bias is not None and _takes_math(queries, bias, masked):
        mixed, _ = _by_math(queries, keys, values, bias, scores)
    else:  # the order of its sums depends on the numbers of rows and keys
        mixed = attention(queries, keys, values, bias)
    mixed = mixed.view(kv_heads, groups, -1, dim).permute(2, 0, 1, 3)  # [n, K, G, D]
    return mixed.reshape(mixed.shape[0], -1)


Part = tuple[Tensor, Tensor]
"""Attention over some of the keys [1, K, G n, D], and the logarithm of each row's sum of
exponentials, float32 [1, K, G n]."""


def merged(first: Part, second: Part) -> Tensor:
    """Attention over the keys of both parts, [1, K, G n, D]."""
    (mixed, log_sums), (others, other_log_sums) = first, second
    share = torch.sigmoid(log_sums - other_log_sums).unsqueeze(-1)  # of the first part
    mixed_here, mixed_there = mixed.to(share.dtype), others.to(share.dtype)
    return torch.lerp(mixed_there, mixed_here, share).to(mixed.dtype)


def within_window(bias: Tensor, window: int) -> Tensor:
    """An additive mask [n, span] of all keys, of which each row sees only the last `window` ones.

    A row sees one key of each position, in order: counting visible keys counts positions, also in
    a tree, where neighbouring rows are not neighbours in the text.
    """
    seen = (bias == 0).cumsum(-1)
    return bias.masked_fill(seen[:, -1:] - seen >= window, float("-inf"))


def _without_mask(queries: Tensor, keys: Tensor, values: Tensor, scores: Scores) -> Part:
    if queries.is_cuda:
        flash = _ATEN._scaled_dot_product_flash_attention.default
    else:
        flash = _ATEN._scaled_dot_product_flash_attention_for_cpu.default
    found = flash(queries, keys, values, scale=scores.scale)
    return found[0], found[1]


def _under_mask(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    bias: Tensor,
    masked: MaskedKernel,
    scores: Scores,
) -> Part:
    if _takes_math(queries, bias, masked):
        return _by_math(queries, keys, values, bias, scores)
    if not queries.is_cuda:
        flash = _ATEN._scaled_dot_product_flash_attention_for_cpu.default
        mixed, log_sums = flash(queries, keys, values, attn_mask=bias, scale=scores.scale)
        return mixed, log_sums
    heads = bias.expand(1, queries.shape[1], -1, -1)
    efficient = _ATEN._scaled_dot_product_efficient_attention.default
    mixed, log_sums = efficient(queries, keys, values, heads, True, scale=scores.scale)[:2]
    return mixed, log_sums[:, :, : queries.shape[2]]  # they are padded to whole tiles


def _takes_math(queries: Tensor, bias: Tensor, masked: MaskedKernel) -> bool:
    return masked is MaskedKernel.MATH and queries.shape[1] * bias.numel() <= MOST_SCORES


def _by_math(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, scores: Scores
) -> Part:
    """In float32, whatever the dtype: a score rounded to 16 bits is off by as much as 1 in 256."""
    scale = queries.shape[-1] ** -0.5 if scores.scale is None else scores.scale
    found = (queries.float() * scale) @ keys.float().transpose(-2, -1)
    if (softcap := scores.softcap) is not None:
        found = found.div_(softcap).tanh_().mul_(softcap)
    if bias is not None:
        found = found.add_(bias)
    log_sums = found.logsumexp(-1)
    weights = found.sub_(log_sums.unsqueeze(-1)).exp_()
    return (weights @ values.float()).to(queries.dtype), log_sums
