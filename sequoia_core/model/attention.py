"""How queries meet keys and values, with and without a mask.

Knows nothing of layers, caches or trees. Shapes: `n` rows, `K` KV heads, `G` query heads of each,
`D` head dim, `span` keys. The `G` query heads of a KV head lie below each other as `G n` rows.
"""

import torch
from torch import Tensor
from torch.nn import functional


def mix(queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None) -> Tensor:
    """PyTorch's own fused attention. Its sums are in an order that depends on rows and span.

    Args:
        queries: [1, K, G n, D].
        keys: [1, K, span, D].
        values: as `keys`.
        bias: [G n, span], or None.

    Returns:
        [1, K, G n, D].
    """
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


def additive(mask: Tensor, groups: int, dtype: torch.dtype) -> Tensor:
    """A mask bool [n, span], True where a row may look, as something to add: [G n, span]."""
    bias = torch.zeros(mask.shape, device=mask.device, dtype=dtype)
    bias.masked_fill_(~mask, float("-inf"))
    return bias.repeat(groups, 1)
