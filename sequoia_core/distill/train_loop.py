"""The training loop of a student, which can be killed and resumed with the same result.

All random numbers follow from the seed and the number of the step.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import Tensor

from sequoia_core.distill.batches import Batches, TrainBatch, TrainPlan
from sequoia_core.distill.losses import LOSSES, distance
from sequoia_core.distill.muon import Muon
from sequoia_core.distill.student import Student
from sequoia_core.files import written_whole
from sequoia_core.model.device import choose_dtype

STEP_WEIGHT = 0.6
"""Weight of each step down the tree against the one above: fewer decodings come that far."""
STEP_SHARE = 0.4
"""Share of a step's conversations that also take the step below, which costs as much."""
WARM_UP = 0.03
LEARNING_RATE = 1e-3
"""The highest of AdamW."""
MATRIX_RATE = 0.02
"""The highest of Muon."""
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True, slots=True)
class TrainStep:
    """A finished step: its number from 1, the tokens it learnt from, and its loss."""

    step: int
    tokens: int
    loss: float


class TrainLoop:
    """Trains a student in place; the checkpoint is read if it exists, and written by `save`."""

    def __init__(
        self, student: Student, batches: Batches, plan: TrainPlan, checkpoint: Path
    ) -> None:
        self._student, self._batches, self._plan = student, batches, plan
        self._checkpoint = checkpoint
        self._optimizers = optimizers(student)
        self._rates = [group["lr"] for each in self._optimizers for group in each.param_groups]
        self.step = 0
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            student.load_state_dict(state["student"])
            for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step = state["step"]

    def run(self, save_seconds: float = 60.0) -> Iterator[TrainStep]:
        """Train to the plan's last step; yields after each, and saves every `save_seconds`."""
        saved = monotonic()
        while self.step < self._plan.steps:
            done = self._one(self.step)
            self.step += 1
            if monotonic() - saved > save_seconds or self.step == self._plan.steps:
                self.save()
                saved = monotonic()
            yield done

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        state = {
            "student": self._student.state_dict(),
            "optimizers": [each.state_dict() for each in self._optimizers],
            "step": self.step,
        }
        with written_whole(self._checkpoint) as file:
            torch.save(state, file)

    def _counts(self, step: int, conversations: int) -> list[int]:
        """Conversations of a batch that take each step down the tree, rounded by chance."""
        chance = np.random.default_rng((self._plan.seed, step)).random()
        wanted = (conversations * STEP_SHARE**depth for depth in range(self._plan.unroll))
        counts = [int(count + chance) for count in wanted]
        return [count for count in counts if count]

    def _one(self, step: int) -> TrainStep:
        groups = chain(*(each.param_groups for each in self._optimizers))
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * schedule(step, self._plan.steps)
        batch = self._batches.at(step).to(self._student.embedding.device)
        counts = self._counts(step, len(batch.tokens))
        loss = batch_loss(self._student, batch, self._plan, counts)
        self._student.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._student.parameters(), LARGEST_GRADIENT)
        for optimizer in self._optimizers:
            optimizer.step()
        return TrainStep(step + 1, int(batch.learnt.sum()), float(loss.detach()))


def optimizers(student: Student) -> list[torch.optim.Optimizer]:
    """Muon for the matrices between embedding and head, AdamW for the head and the vectors."""
    inner: list[Tensor] = []
    outer: list[Tensor] = []
    for name, parameter in student.named_parameters():
        is_inner = parameter.dim() == 2 and not name.startswith("head.")
        (inner if is_inner else outer).append(parameter)
    decay, dtype = WEIGHT_DECAY, product_dtype(student.embedding.device)
    return [
        Muon(inner, lr=MATRIX_RATE, weight_decay=decay, dtype=dtype),
        torch.optim.AdamW(outer, lr=LEARNING_RATE, betas=BETAS, weight_decay=decay, fused=True),
    ]


def batch_loss(
    student: Student, batch: TrainBatch, plan: TrainPlan, counts: Sequence[int]
) -> Tensor:
    """Mean loss over the positions learnt from, weighted over the steps down the tree.

    Args:
        student: to be judged.
        batch: with labels.
        plan: names the loss.
        counts: conversations that take each step, see `Student.unrolled`; at most `plan.unroll`.
    """
    total = torch.zeros((), device=batch.tokens.device)
    with mixed_precision(batch.tokens.device):
        states = student.unrolled(batch.tokens, batch.features, counts)
        for depth, state in enumerate(states):
            learnt, columns, probs = batch.learnt_at(depth, state)
            loss = distance(learnt, student.head.read, columns, probs, LOSSES[plan.loss])
            total = total + STEP_WEIGHT**depth * loss
    return total / sum(STEP_WEIGHT**depth for depth in range(plan.unroll))


def product_dtype(device: torch.device) -> torch.dtype:
    """bfloat16 where the device multiplies it; emulated it would be slower than float32."""
    helps = choose_dtype("auto", (device,)) is torch.bfloat16
    return torch.bfloat16 if helps else torch.float32


def mixed_precision(device: torch.device) -> torch.autocast:
    """Products in `product_dtype`, everything else in float32."""
    helps = product_dtype(device) is torch.bfloat16
    return torch.autocast(device.type, torch.bfloat16, enabled=helps)


def schedule(step: int, steps: int) -> float:
    """Share of the learning rate: a short rise, then a cosine down to a tenth."""
    rise = max(round(steps * WARM_UP), 1)
    if step < rise:
        return (step + 1) / rise
    done = (step - rise) / max(steps - rise, 1)
    return 0.1 + 0.9 * 0.5 * (1.0 + math.cos(math.pi * done))
