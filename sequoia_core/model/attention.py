"""How queries meet keys and values: the two ways of computing it, and the mask they share.

Knows nothing of layers, caches or trees. Shapes: `n` rows, `K` KV heads, `G` query heads of each,
`D` head dim, `span` keys. The `G` query heads of a KV head lie below each other as `G n` rows.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

Mix = Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]
"""Queries [1, K, G n, D], keys and values [1, K, span, D], bias [G n, span] -> [1, K, G n, D]."""


def mix(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """PyTorch's own fused attention. Its sums are in an order that depends on rows and span."""
    return functional.scaled_dot_product_attention(queries, keys, values, bias)


def mix_from_start(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Causal attention of the first rows of a text: no mask is made, and no later key is read.

    Args:
        queries: [1, K, G n, D].
        keys: [1, K, n, D].
        values: as `keys`.

    Returns:
        [1, K, G n, D].
    """
    rows, dim = keys.shape[2], keys.shape[3]
    heads = queries.reshape(1, -1, rows, dim)  # [1, H, n, D]
    mixed = functional.scaled_dot_product_attention(
        heads, keys, values, is_causal=True, enable_gqa=heads.shape[1] > keys.shape[1]
    )
    return mixed.reshape(queries.shape)


def mix_in_any_order(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """Attention that comes out the same whatever the rows beside and the masked keys between.

    A node of a tree sees its ancestors with other branches' keys between them, plain decoding sees
    them side by side, so sums run in another order. In float64 that moves them by parts in 10^16;
    what is left after rounding to bfloat16 (or float32) is the same number.
    """
    q, k, v = (each[0].double() for each in (queries, keys, values))
    scale = q.shape[-1] ** -0.5
    if bias is None:
        scores = torch.bmm(q, k.mT).mul_(scale)  # [K, G n, span]
    else:
        scores = torch.baddbmm(bias, q, k.mT, alpha=scale)
    return torch.bmm(scores.softmax(-1), v).to(queries.dtype)[None]


def additive(mask: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """A mask bool [n, span], True where a row may look, as something to add: [G n, span]."""
    bias = torch.zeros(mask.shape, device=mask.device, dtype=dtype)
    bias.masked_fill_(~mask, float("-inf"))
    return bias.repeat(groups, 1)
