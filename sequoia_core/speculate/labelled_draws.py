"""Draws that continue texts, with the labels that a draft is trained on."""

from collections.abc import Sequence

import torch
from torch import Tensor

from sequoia_core.model.interface import LabelledDraws
from sequoia_core.model.native.rows import reader_of
from sequoia_core.speculate.sampling import checked, row_draws


def labelled_draws(
    logits: Tensor, temperatures: Sequence[float], uniforms: Sequence[float], top: int
) -> LabelledDraws:
    """Draw a token of each row at its own temperature, and keep its most probable tokens.

    Args:
        logits: float32 [n, V].
        temperatures: n of them; 0 takes the most probable token.
        uniforms: n numbers in [0, 1).
        top: `k`, tokens to keep; at most V.

    Raises:
        NumberError: a logit is not a number.
    """
    if (reader := reader_of(logits)) is not None:
        found = reader.labelled_draws(logits, temperatures, uniforms, top)
    else:
        values, columns = logits.topk(top, dim=-1)
        probs = (values - logits.logsumexp(-1, keepdim=True)).exp()
        tokens = torch.where(probs[:, 0].isnan(), -1, columns[:, 0])
        if sampled := [row for row, value in enumerate(temperatures) if value > 0]:
            at = torch.tensor(sampled, device=logits.device)
            divisors = torch.tensor([temperatures[row] for row in sampled], device=logits.device)
            shaped = torch.softmax(logits[at].div_(divisors[:, None]), dim=-1)
            tokens[at] = row_draws(shaped, [uniforms[row] for row in sampled])
        found = LabelledDraws(tokens.tolist(), columns.int().cpu(), probs.cpu())
    checked(found.tokens)
    return found
