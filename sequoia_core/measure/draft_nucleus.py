"""The nucleus that children are drawn from: the published testbeds cut the target's alone.

A chat cuts both at the same mass, but for a small part of the draft's (`speculate.sampling.UNCUT`).
Whatever children are drawn from, the target's text has the same distribution.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode.step import Sampler

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class DraftNucleus:
    """Makes samplers whose children come from a nucleus of mass `top_p`.

    Raises:
        ParameterError: `top_p` is no mass.
    """

    top_p: float

    def __post_init__(self) -> None:
        SamplingParams(top_p=self.top_p)

    def sampler(self, params: SamplingParams, device: torch.device, mode: Mode) -> Sampler:
        """The engine's own, except for what children are drawn from."""
        made = Sampler.of(replace(params, top_p=self.top_p), device, mode)
        return replace(made, params=params)
