"""Conversations and their soft labels, in shards on disk.

A shard is a safetensors file of whole conversations, written whole or not at all; which share one
depends on time. Shapes: `n` tokens, `a` of them labelled, `k` kept tokens, `F` feature layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from sequoia_core.distill.corpus import Corpus
from sequoia_core.errors import ParameterError
from sequoia_core.files import written_whole

TOP = 32
"""Tokens kept per label; of a small chat model's probability they hold about 95 parts in 100."""
SHARD_BYTES = 32 << 20  # size at which a shard is written; until then it is in memory
MARK, PROB, FEATURE = torch.bool, torch.float16, torch.bfloat16
"""Types in a shard. bfloat16 since a hidden state may be too large for float16."""


def id_type(vocab_size: int) -> torch.dtype:
    return torch.uint16 if vocab_size <= 1 << 16 else torch.uint32


def token_bytes(vocab_size: int, features: int) -> int:
    """Bytes of an answer's token in a shard, with `features` = F x hidden; others take less."""
    token = id_type(vocab_size).itemsize
    labels = min(TOP, vocab_size) * (token + PROB.itemsize)
    return token + MARK.itemsize + labels + features * FEATURE.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class LabelledConversation:
    """A conversation with the target's labels at answer tokens but a first one, and states."""

    tokens: Tensor  # uint16 or uint32 [n]
    answers: Tensor  # bool [n]
    top_ids: Tensor  # uint16 or uint32 [a, k], most probable in the place of an answer token
    top_probs: Tensor  # float16 [a, k], at temperature 1
    features: Tensor  # bfloat16 [n - 1, F, hidden]

    @classmethod
    def of(
        cls,
        text: tuple[Sequence[int], Sequence[bool]],
        top: tuple[Tensor, Tensor],
        features: Tensor,
        vocab_size: int,
    ) -> LabelledConversation:
        """Convert token ids and marks, labels and features of any types to those of a shard."""
        (ids, answers), (top_ids, top_probs), kind = text, top, id_type(vocab_size)
        tokens = torch.tensor(ids, dtype=torch.int64).to(kind)
        marks = torch.tensor(answers, dtype=MARK)
        return cls(tokens, marks, top_ids.to(kind), top_probs.to(PROB), features.to(FEATURE))


TENSORS = tuple(field.name for field in fields(LabelledConversation))
COUNTS = ("numbers", "lengths", "labelled")
"""Tensors of a shard: of its conversations one after the other, and of each its number, n and a."""


class Shards:
    """Finished conversations by number; raises ParameterError if a file is damaged."""

    def __init__(self, directory: Path, vocab_size: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self.vocab_size = directory, vocab_size
        self.lengths: dict[int, int] = {}  # tokens of finished ones; 0 with nothing to learn from
        self._saved: dict[int, tuple[list[Tensor], tuple[slice, ...]]] = {}
        self._unsaved: dict[int, LabelledConversation] = {}
        self._unsaved_bytes = 0
        self._last = -1  # number of the last file
        for file in sorted(directory.glob("shard-*.safetensors")):
            self._map(file)
            self._last = max(self._last, int(file.stem.removeprefix("shard-")))

    def _map(self, file: Path) -> None:
        try:
            with safe_open(file, "pt") as opened:
                tensors = [opened.get_tensor(name) for name in TENSORS]
                numbers, lengths, labelled = map(opened.get_tensor, COUNTS)
        except (OSError, SafetensorError) as error:
            raise ParameterError(f"{file} is damaged ({error}); begin in another --out") from None
        begun = [0, 0, 0]
        counts = torch.stack((lengths, labelled, (lengths - 1).clamp(min=0)), 1)
        for number, ends in zip(numbers.tolist(), counts.cumsum(0).tolist(), strict=True):
            text, labels, features = map(slice, begun, ends)
            self._saved[number] = tensors, (text, text, labels, labels, features)
            self.lengths[number] = ends[0] - begun[0]
            begun = ends

    def conversation(self, number: int) -> LabelledConversation:
        """A saved conversation: views of its file."""
        tensors, spans = self._saved[number]
        return LabelledConversation(
            *(each[span] for each, span in zip(tensors, spans, strict=True))
        )

    def add(self, number: int, made: LabelledConversation) -> None:
        """Keep a finished conversation, which `save` or a full shard brings to the disk."""
        self._unsaved[number] = made
        self.lengths[number] = len(made.tokens)
        self._unsaved_bytes += made.top_ids.nbytes + made.top_probs.nbytes + made.features.nbytes
        if self._unsaved_bytes >= SHARD_BYTES:
            self.save()

    def save(self) -> None:
        """Write all unsaved conversations as one more shard."""
        if not self._unsaved:
            return
        every = list(self._unsaved.values())
        data = {name: torch.cat([getattr(each, name) for each in every]) for name in TENSORS}
        data["numbers"] = torch.tensor(list(self._unsaved))
        data["lengths"] = torch.tensor([len(each.tokens) for each in every])
        data["labelled"] = torch.tensor([len(each.top_ids) for each in every])
        file = self._directory / f"shard-{self._last + 1:05}.safetensors"
        with written_whole(file) as to:
            to.write(save(data))
        self._last += 1
        self._unsaved, self._unsaved_bytes = {}, 0
        self._map(file)

    def run(self, tokens: int, known: tuple[int, int] = (0, 0)) -> tuple[int, int]:
        """Conversations and tokens of the shortest run 0, 1, ... with so many tokens, none missing.

        It continues from `known`, an earlier result.
        """
        count, total = known
        while total < tokens and count in self.lengths:
            total += self.lengths[count]
            count += 1
        return count, total

    def text(self, tokens: int) -> LabelledText:
        """The conversations of a `run`, all saved, without those that have nothing to learn."""
        numbers = [number for number in range(self.run(tokens)[0]) if self.lengths[number]]
        found = map(self.conversation, numbers)
        pairs = ((each.tokens.numpy(), each.answers.numpy()) for each in found)
        return LabelledText(Corpus.of(pairs, self.vocab_size), numbers, self)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledText:
    corpus: Corpus
    numbers: Sequence[int]  # of its conversations, in the shards
    shards: Shards

    def conversation(self, index: int) -> LabelledConversation:
        return self.shards.conversation(self.numbers[index])
