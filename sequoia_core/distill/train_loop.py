"""Batches of labelled conversations, and the training loop of a student over them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from time import monotonic

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence

from sequoia_core.distill.dialogue import LONGEST
from sequoia_core.distill.losses import LOSSES, distance
from sequoia_core.distill.muon import Muon
from sequoia_core.distill.shards import LabelledText
from sequoia_core.distill.student import Student
from sequoia_core.files import written_whole
from sequoia_core.model.device import choose_dtype

STEP_WEIGHT = 0.6
"""Weight of each step down the tree against the one above: fewer decodings come that far."""
STEP_SHARE = 0.4
"""Share of a step's conversations that also take the step below, which costs as much."""
WARM_UP = 0.03
LEARNING_RATE, MATRIX_RATE = 1e-3, 0.02  # the highest of AdamW and of Muon
BETAS = (0.9, 0.95)
WEIGHT_DECAY = 0.01
LARGEST_GRADIENT = 1.0


@dataclass(frozen=True, slots=True)
class TrainPlan:
    seed: int = 0
    loss: str = "mix"  # of `LOSSES`
    unroll: int = 1  # steps down a tree
    batch_tokens: int = 2048  # about how many tokens a batch holds
    longest: int = LONGEST  # tokens of a conversation beyond which it is cut


@dataclass(frozen=True, slots=True)
class TrainBatch:
    tokens: Tensor  # int64 [B, t]
    features: Tensor | None  # bfloat16 [B, t, F, hidden], the target's of the token before
    columns: Tensor  # int64 [B, t, k]
    probs: Tensor  # float32 [B, t, k]
    learnt: Tensor  # bool [B, t], True where the next token is of an answer

    def learnt_at(self, depth: int, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """States [n, hidden], columns and probabilities [n, k] below `depth` steps down a tree.

        So many first rows of `state`, the student's of the first conversations, mean nothing.
        """
        places = self.learnt[: len(state)].clone()
        places[:, :depth] = False
        columns, probs = self.columns[: len(state)], self.probs[: len(state)]
        return state[places], columns[places], probs[places]


class Batches:
    """Cuts conversations of a text, or all, into batches of similar length."""

    def __init__(
        self,
        text: LabelledText,
        vocab_ids: Tensor,
        plan: TrainPlan,
        conversations: Sequence[int] | None = None,
        device: torch.device | None = None,
    ) -> None:
        self._text, self.plan, self._device = text, plan, device
        everything = range(len(text.corpus))
        self._conversations = np.array(everything if conversations is None else conversations)
        self._column_of = torch.full((text.shards.vocab_size,), -1)
        self._column_of[vocab_ids.cpu()] = torch.arange(len(vocab_ids))
        self._order: list[list[int]] = []  # of all batches, up to `_epochs`
        self._epochs = 0

    def at(self, step: int) -> TrainBatch:
        """The batch of one step; any step, in any order."""
        while len(self._order) <= step:
            self._order += self._epoch(self._epochs)
            self._epochs += 1
        return self.of(self._order[step])

    def of(self, conversations: Sequence[int]) -> TrainBatch:
        tokens, features, *labels = (
            pad_sequence(list(each), batch_first=True).to(self._device)
            for each in zip(*map(self._row, conversations), strict=True)
        )
        return TrainBatch(tokens, features if features.shape[2] else None, *labels)

    def _row(self, index: int) -> tuple[Tensor, ...]:
        """The tensors of a conversation's batch, without the first dimension, unpadded."""
        labels = self._text.conversation(index)
        tokens = labels.tokens[: self.plan.longest].long()
        learnt = functional.pad(labels.answers[1 : self.plan.longest], (0, 1))
        known = int(learnt.sum())
        found = self._column_of[labels.top_ids[:known].long()]  # -1 where the draft has none
        columns = found.new_zeros(len(tokens), found.shape[1])
        columns[learnt] = found.clamp(min=0)
        probs = torch.zeros(columns.shape)
        probs[learnt] = labels.top_probs[:known].float() * (found >= 0)
        # of the token before each; zeros before the first
        features = functional.pad(labels.features[: len(tokens) - 1], (0, 0, 0, 0, 1, 0))
        return tokens, features, columns, probs, learnt

    def _epoch(self, epoch: int) -> list[list[int]]:
        """Batches of one pass over the text, each a list of conversations."""
        order = np.random.default_rng((self.plan.seed, epoch))
        lengths = np.minimum(self._text.corpus.lengths, self.plan.longest)
        # lengths are blurred, so that the same conversations do not meet in every epoch
        blur = order.uniform(0.9, 1.1, len(self._conversations))
        by_length = np.argsort(lengths[self._conversations] * blur)
        batches: list[list[int]] = [[]]
        for index in self._conversations[by_length].tolist():
            longest = int(lengths[[*batches[-1], index]].max())
            if batches[-1] and longest * (len(batches[-1]) + 1) > self.plan.batch_tokens:
                batches.append([])
            batches[-1].append(index)
        return [batches[at] for at in order.permutation(len(batches))]


class TrainLoop:
    """Trains a student in place; a checkpoint that exists is continued, with the same result.

    The batch of a step, and all random numbers, follow from the seed and the step's number.
    """

    def __init__(self, student: Student, batches: Batches, checkpoint: Path) -> None:
        self._student, self._batches, self._checkpoint = student, batches, checkpoint
        self._optimizers = optimizers(student)
        self._rates = [group["lr"] for each in self._optimizers for group in each.param_groups]
        self.step = 0
        if checkpoint.exists():
            state = torch.load(checkpoint, weights_only=True)
            student.load_state_dict(state["student"])
            for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
            self.step = state["step"]

    def run(self, steps: int, save_seconds: float = 60.0) -> Iterator[tuple[int, float]]:
        """Train until so many steps are done, and save every `save_seconds`.

        Yields after each the tokens learnt from, and their loss.
        """
        saved = monotonic()
        while self.step < steps:
            done = self._one(self.step, steps)
            self.step += 1
            if monotonic() - saved > save_seconds or self.step == steps:
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

    def _one(self, step: int, steps: int) -> tuple[int, float]:
        plan = self._batches.plan
        groups = chain(*(each.param_groups for each in self._optimizers))
        for group, rate in zip(groups, self._rates, strict=True):
            group["lr"] = rate * schedule(step, steps)
        batch = self._batches.at(step)
        # conversations that take each step down the tree, rounded by chance
        chance = np.random.default_rng((plan.seed, step)).random()
        wanted = (len(batch.tokens) * STEP_SHARE**depth for depth in range(plan.unroll))
        counts = [count for each in wanted if (count := int(each + chance))]
        loss = batch_loss(self._student, batch, plan, counts)
        self._student.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self._student.parameters(), LARGEST_GRADIENT)
        for optimizer in self._optimizers:
            optimizer.step()
        return int(batch.learnt.sum()), float(loss.detach())


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
    """Mean loss over the positions learnt from, weighted over the steps down the tree."""
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
    chosen = choose_dtype("auto", (device,))
    return chosen if chosen is torch.bfloat16 else torch.float32


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
