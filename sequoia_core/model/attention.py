"""Attention of a forward's rows over the keys and values of a cache.

The `G = H / K` query heads of a KV head lie below each other as `G n` rows.
"""

from torch import Tensor
from torch.nn import functional


def attend(
    queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None, groups: int
) -> Tensor:
    """Mix the values that each row attends to.

    Args:
        queries: rotated, [1, K, G n, D].
        keys: [1, K, span, D], those of the new rows included.
        values: of the same shape.
        bias: additive, [G n, span]. None for a single row, which attends to all keys, and for the
            first n rows of a text.
        groups: query heads of a KV head, `G`.

    Returns:
        [n, H D].
    """
    kv_heads, dim = keys.shape[1], keys.shape[3]
    attention = functional.scaled_dot_product_attention
    if bias is None and queries.shape[2] > groups:  # the first rows of a text
        heads = queries.reshape(1, -1, keys.shape[2], dim)  # [1, H, n, D]
        mixed = attention(heads, keys, values, is_causal=True, enable_gqa=groups > 1)
    else:  # the order of its sums depends on the numbers of rows and keys
        mixed = attention(queries, keys, values, bias)
    mixed = mixed.view(kv_heads, groups, -1, dim).permute(2, 0, 1, 3)  # [n, K, G, D]
    return mixed.reshape(mixed.shape[0], -1)
