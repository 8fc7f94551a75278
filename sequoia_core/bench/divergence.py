"""Where two texts of one prompt diverge, and how close the target's decision was there.

In bfloat16 a tree's forward rounds differently from a single row's, so greedy texts may diverge at
a near-tie. The margin between the target's two best tokens shows how near.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from sequoia_core.bench.runs import SpeedComparison

if TYPE_CHECKING:
    from sequoia_core.model.interface import LanguageModel


class Divergence(NamedTuple):
    """The first token that differs, and the target's logits there in a one-row forward."""

    position: int  # tokens that both texts share
    margin: float  # between the two highest logits
    highest: float


def find_divergence(
    target: LanguageModel, prompt_ids: Sequence[int], one: Sequence[int], other: Sequence[int]
) -> Divergence | None:
    """Compare two continuations of a prompt; None where one begins the other."""
    shared = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    if shared is None:
        return None
    ids = torch.tensor([*prompt_ids, *one[:shared]], device=target.device)
    cache = target.new_cache()
    if len(ids) > 1:
        target.extend(ids[:-1], cache)
    position = torch.tensor([len(ids) - 1], device=target.device)
    best, second = target.forward(ids[-1:], position, None, cache)[0].topk(2).values.tolist()
    return Divergence(shared, best - second, best)


def describe_divergences(
    target: LanguageModel,
    prompts: Sequence[Sequence[int]],
    comparisons: Sequence[SpeedComparison],
) -> Iterator[str]:
    """A line of the report for each system but the first, of its greedy texts on all prompts."""
    for comparison in comparisons:
        if comparison.params.temperature > 0.0:
            continue
        (_, baseline), *others = comparison.runs.items()
        for name, runs in others:
            texts = zip(prompts, baseline, runs, strict=False)  # an interrupt leaves prompts out
            yield _described(name, [
                find_divergence(target, ids, base.token_ids, run.token_ids)
                for ids, base, run in texts
            ])  # fmt: skip


def _described(name: str, divergences: Sequence[Divergence | None]) -> str:
    found = [each for each in divergences if each is not None]
    if not found:
        return f"{name}: the same text on all {len(divergences)} prompts"
    positions = sorted(each.position for each in found)
    margins = sorted(each.margin for each in found)
    return (
        f"{name}: differs from the first system's text on {len(found)} of {len(divergences)} "
        f"prompts, after {positions[0]} to {positions[-1]} tokens; there the target's two best "
        f"logits are {margins[len(margins) // 2]:.3f} apart (median; largest {margins[-1]:.3f}, "
        f"at logits of about {found[0].highest:.0f})"
    )
