"""A seed for every prompt: fresh for each, the same whenever and beside whatever it is decoded."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

_BITS = 63  # what `SamplingParams` takes


def prompt_digest(prompt_ids: Sequence[int]) -> str:
    """A name for a prompt that does not depend on where in its data set it stands."""
    return hashlib.sha256(",".join(map(str, prompt_ids)).encode()).hexdigest()[:16]


def prompt_seed(seed: int, prompt_ids: Sequence[int]) -> int:
    """The seed that one prompt is decoded with under an experiment's seed."""
    named = hashlib.sha256(f"{seed}:{prompt_digest(prompt_ids)}".encode()).digest()
    return int.from_bytes(named[:8], "big") >> (64 - _BITS)
