"""Where two texts of one prompt part, and how close a call it was.

In bfloat16 a tree's forward rounds differently from a single row's, so greedy texts may part at a
near-tie; the margin between the target's two best tokens there says how near. Changes nothing.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from sequoia_core.model.interface import LanguageModel


@dataclass(frozen=True, slots=True)
class Parting:
    """The first token that differs.

    Attributes:
        position: how many tokens both texts share.
        margin: between the target's two highest logits there, in its one-row forward.
        spread: the one-row forward's highest logit, for scale.
    """

    position: int
    margin: float
    spread: float


def find_parting(
    target: LanguageModel, prompt_ids: Sequence[int], one: Sequence[int], other: Sequence[int]
) -> Parting | None:
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
    return Parting(shared, best - second, best)


def describe_partings(name: str, partings: Sequence[Parting | None]) -> str:
    """One line for a report."""
    found = [parting for parting in partings if parting is not None]
    if not found:
        return f"{name}: the same text on all {len(partings)} prompts"
    positions = sorted(parting.position for parting in found)
    margins = sorted(parting.margin for parting in found)
    return (
        f"{name}: parts from the first system's text on {len(found)} of {len(partings)} prompts, "
        f"after {positions[0]} to {positions[-1]} tokens; there the target's two best logits are "
        f"{margins[len(margins) // 2]:.3f} apart (median; largest {margins[-1]:.3f}, "
        f"at logits of about {found[0].spread:.0f})"
    )
