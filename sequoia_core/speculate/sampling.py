"""From logits to probabilities, and from probabilities to tokens: `n` rows, `V` vocabulary."""

import math
from collections.abc import Sequence
from itertools import accumulate

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.errors import NumberError
from sequoia_core.model.interface import LabelledDraws
from sequoia_core.model.loading.memory_plan import SCORED_ROWS
from sequoia_core.model.native.rows import reader_of

NUCLEUS_CANDIDATES = 512  # that top-p looks at first: sorting V costs more than a forward
DRAW_BLOCK = 256  # tokens whose probabilities `draw` sums at once
_TOP_BLOCK = 128
_FEW_VALUES = 1 << 14  # values up to which a plain `topk` is as fast
# Part of the draft's distribution that no cut touches. A nucleus often holds a single token; the
# children after it then come in the draft's own order instead of any (docs/decisions/0021).
UNCUT = 1e-4


def full_probs(logits: Tensor, temperature: float) -> Tensor:
    """Softmax of logits [n, V] at a temperature; temperature 0, which has none, is taken as 1."""
    if (reader := reader_of(logits)) is not None:
        return reader.probs(logits, temperature or 1.0)
    return torch.softmax(logits if temperature in (0.0, 1.0) else logits / temperature, dim=-1)


def log_totals(logits: Tensor, temperature: float) -> Tensor:
    """`log(sum(exp(logits / t)))` of logits [n, V] at a temperature above 0: float64 [n].

    On a device above each row's peak: at low temperatures it is in the thousands, and rounding it
    to float32 would change probabilities by 1e-4 of themselves.
    """
    totals = []
    for block in torch.split(logits, SCORED_ROWS):  # for less memory at once
        if logits.device.type == "cpu":
            scaled = block if temperature == 1.0 else block / temperature
            totals.append(torch.logsumexp(scaled, dim=-1).double())
            continue
        peaks = block.amax(-1, keepdim=True)
        mass = (block - peaks).div_(temperature).exp_().sum(-1, dtype=torch.float64)
        totals.append(mass.log_().add_(peaks[:, 0].double(), alpha=1.0 / temperature))
    return torch.cat(totals)


def to_host(*tensors: Tensor) -> list[list[float]]:
    """Each tensor, flat, as a list; what lies on a GPU is read in one transfer.

    Integers come back from a GPU as whole floats; up to 2**53 nothing is lost.
    """
    if tensors[0].device.type == "cpu":
        return [each.flatten().tolist() for each in tensors]
    return unpacked(packed(tensors), [each.numel() for each in tensors])


def to_device(parts: Sequence[NDArray[np.int64]], device: torch.device) -> list[Tensor]:
    """Arrays as int64 tensors of their shapes, in one copy."""
    flat = torch.from_numpy(np.concatenate([part.ravel() for part in parts])).to(device)
    pieces = torch.split(flat, [part.size for part in parts])
    return [piece.view(part.shape) for piece, part in zip(pieces, parts, strict=True)]


def packed(tensors: Sequence[Tensor]) -> Tensor:
    """All values one after the other: float64 [n]."""
    return torch.cat([each.flatten().double() for each in tensors])


def unpacked(values: Tensor, sizes: Sequence[int]) -> list[list[float]]:
    """Read values that were packed from tensors of these sizes."""
    read = values.tolist()
    ends = accumulate(sizes)
    return [read[end - size : end] for end, size in zip(ends, sizes, strict=True)]


def shaped_probs(logits: Tensor, params: SamplingParams) -> Tensor:
    """The target's distribution after temperature, top-k and top-p, of logits [n, V].

    Temperature 0 puts all mass on the argmax. Top-p waits for the device, to see whether the
    partial sort was enough.
    """
    if params.temperature == 0.0:
        return torch.zeros_like(logits).scatter_(1, logits.argmax(-1, keepdim=True), 1.0)
    probs, complete = cut_probs(logits, params, NUCLEUS_CANDIDATES)
    if complete is not None and not complete.all():
        probs, _ = cut_probs(logits, params, logits.shape[-1])
    return probs


def cut_probs(
    logits: Tensor, params: SamplingParams, candidates: int
) -> tuple[Tensor, Tensor | None]:
    """`shaped_probs` at a temperature above 0 if top-p looks at so many candidates of each row.

    With top-p also bool [n]: whether they were enough. Waits for nothing.
    """
    probs = top_k_probs(full_probs(logits, params.temperature), params.top_k)
    return nucleus_probs(probs, params.top_p, candidates) if params.top_p < 1.0 else (probs, None)


def draft_probs(logits: Tensor, params: SamplingParams) -> Tensor:
    """The draft's distribution: nearly the same shaping, without waiting for the device.

    Any distribution can be drawn from as long as the same one is verified, so a nucleus wider than
    the candidates is cut there, and a part of `UNCUT` stays whole. The temperature is above 0.
    """
    whole = full_probs(logits, params.temperature)
    probs = top_k_probs(whole, params.top_k)
    if params.top_p < 1.0:
        probs = nucleus_probs(probs, params.top_p, NUCLEUS_CANDIDATES)[0]
    return whole if probs is whole else torch.lerp(probs, whole, UNCUT)


def top_k_probs(probs: Tensor, top_k: int) -> Tensor:
    """Keep the k most probable tokens of each row [n, V]; 0 keeps all. Ties break by index."""
    if not 0 < top_k < probs.shape[-1]:
        return probs
    values, indices = probs.topk(top_k, dim=-1)
    kept = torch.zeros_like(probs).scatter_(-1, indices, values)
    return kept / kept.sum(-1, keepdim=True)


def nucleus_probs(probs: Tensor, top_p: float, candidates: int) -> tuple[Tensor, Tensor]:
    """Keep the fewest most probable tokens whose mass reaches `top_p`, among `candidates`.

    Returns float32 [n, V], rows that sum to 1, and bool [n]: whether it is the true nucleus.
    """
    values, indices = probs.topk(min(candidates, probs.shape[-1]), dim=-1)
    mass = values.cumsum(-1)
    kept_values = torch.where(mass - values < top_p, values, 0.0)  # the one that crosses is kept
    kept = torch.zeros_like(probs).scatter_(-1, indices, kept_values)
    complete = (mass[:, -1] >= top_p) | (indices.shape[-1] == probs.shape[-1])
    return kept / kept.sum(-1, keepdim=True), complete


def exponential_noise(uniforms: Tensor) -> Tensor:
    """Unit exponential noise in float32, for `ordered_draws`; the uniform numbers are overwritten.

    They are float64: small noise decides, and float32 multiples of 2**-24 would draw the tail of a
    large vocabulary too rarely. Their logarithm is faster than `exponential_` on a CPU.
    """
    return uniforms.log_().neg_().float()


def ordered_draws(probs: Tensor, noise: Tensor, count: int) -> Tensor:
    """Draw `count` tokens of each row of q [n, V] without replacement, in order: int64 [n, count].

    An exponential race: the k-th largest of q / e is the k-th draw. Tokens of probability 0 come
    after all others in uniform order, which is the fallback of Sequoia's Algorithm 2.
    """
    keys = torch.where(probs > 0, probs / noise, -noise)
    return keys.topk(count, dim=-1).indices


def independent_draws(probs: Tensor, uniforms: Tensor) -> Tensor:
    """Draw tokens of each row with replacement, where its distribution function passes `uniforms`.

    Of q [n, V] and float64 [n, count] in [0, 1): int64 [n, count], never one of probability 0. Of
    what is no number it is any token: an index out of range would end the work of a GPU for good.
    """
    cumulative = probs.double().cumsum(-1)
    found = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)
    return found.clamp_(max=probs.shape[1] - 1)


def draw(probs: Tensor, uniform: float) -> int:
    """The token at which the distribution function [V] passes `uniform`; or NumberError."""
    if (reader := reader_of(probs[None])) is not None:
        (token,) = reader.ordered_draws(probs[None], (uniform,), 1)
    else:
        (token,) = row_draws(probs[None], (uniform,)).tolist()
    return checked([token])[0]


def checked(tokens: list[int]) -> list[int]:
    """The tokens, none of which is -1; raises NumberError."""
    if min(tokens, default=0) < 0:
        raise NumberError(
            "the target's logits left the range of its number format; try --dtype float32"
        )
    return tokens


def row_draws(probs: Tensor, uniforms: Sequence[float]) -> Tensor:
    """Where each row's distribution function [n, V] passes a uniform number: int64 [n].

    Summed over blocks first, and in float64: over a large vocabulary a float32 sum would shift the
    last tokens. -1 where a probability is not a number.
    """
    padded = torch.nn.functional.pad(probs, (0, -probs.shape[1] % DRAW_BLOCK))
    blocks = padded.view(len(probs), -1, DRAW_BLOCK)
    totals = blocks.double().sum(-1).cumsum(-1)
    uniform = torch.tensor(uniforms, dtype=torch.float64, device=probs.device)[:, None]
    wanted = uniform * totals[:, -1:]
    block = torch.searchsorted(totals, wanted, right=True)  # [n, 1]
    passes = block[:, 0] < totals.shape[1]
    block = block.clamp(max=totals.shape[1] - 1)
    below = torch.where(block > 0, totals.gather(1, (block - 1).clamp(min=0)), 0.0)
    inside = blocks.gather(1, block[:, :, None].expand(-1, -1, DRAW_BLOCK))[:, 0]
    sums = inside.double().cumsum(-1)
    within = torch.searchsorted(sums, wanted - below, right=True)
    # past the end by rounding, since the block's sum was made in another order
    within = torch.minimum(within, (sums < sums[:, -1:]).sum(-1, keepdim=True))
    return torch.where(passes, (block * DRAW_BLOCK + within)[:, 0], -1)


def labelled_draws(
    logits: Tensor, temperatures: Sequence[float], uniforms: Sequence[float], top: int
) -> LabelledDraws:
    """Draw a token of each row [n, V] at its own temperature, and keep its `top` most probable.

    Raises NumberError if a logit is not a number.
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


def most_probable(probs: Tensor, rows: Sequence[int], count: int) -> tuple[Tensor, Tensor]:
    """The largest of R rows of probabilities or logits [N, W]: values and columns [R, count].

    They lie in the blocks with the largest maxima, which are found at the memory's speed; `topk`
    over a vocabulary takes twenty times as long a row.
    """
    width = probs.shape[1]
    if rows and (reader := reader_of(probs)) is not None:
        first, last = min(rows), max(rows) + 1  # those between are read, since copies cost more
        index = _index(rows, probs)
        columns = reader.top(probs[first:last], min(count, width))[index - first]
        return probs[index[:, None], columns], columns
    probs = probs[_index(rows, probs)]
    if probs.numel() <= _FEW_VALUES or width <= count * _TOP_BLOCK:
        found = probs.topk(min(count, width), dim=-1)
        return found.values, found.indices
    padded = torch.nn.functional.pad(probs, (0, -width % _TOP_BLOCK), value=-math.inf)
    blocks = padded.view(len(probs), -1, _TOP_BLOCK)
    best = blocks.amax(-1).topk(count, dim=-1).indices  # [R, count]
    candidates = blocks.gather(1, best[:, :, None].expand(-1, -1, _TOP_BLOCK)).flatten(1)
    values, at = candidates.topk(count, dim=-1)
    return values, best.gather(1, at // _TOP_BLOCK) * _TOP_BLOCK + at % _TOP_BLOCK


def _index(rows: Sequence[int], like: Tensor) -> Tensor:
    return torch.tensor(rows, dtype=torch.int64, device=like.device)
