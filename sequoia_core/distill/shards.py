"""Conversations and their soft labels, in shards on disk.

A shard is a safetensors file of whole conversations and their labels, written whole or not at all;
which conversations share one depends on time. Shapes: `n` tokens of a conversation, `a` of them
labelled, `k` kept tokens, `F` feature layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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

SHARD_BYTES = 32 << 20
"""Size at which a shard is written; until then it is in memory."""

MARK, PROB, FEATURE = torch.bool, torch.float16, torch.bfloat16
"""Types in a shard. bfloat16 since a hidden state may be too large for float16."""


def id_type(vocab_size: int) -> torch.dtype:
    """Of token ids in a shard."""
    return torch.uint16 if vocab_size <= 1 << 16 else torch.uint32


def token_bytes(vocab_size: int, features: int) -> int:
    """Bytes of an answer's token in a shard, with `features` = F x hidden; others take less."""
    token = id_type(vocab_size).itemsize
    labels = min(TOP, vocab_size) * (token + PROB.itemsize)
    return token + MARK.itemsize + labels + features * FEATURE.itemsize


@dataclass(frozen=True, slots=True, eq=False)
class LabelledConversation:
    """A conversation with soft labels: the target's top k at each answer token, and hidden states.

    Attributes:
        tokens: uint16 or uint32 [n].
        answers: bool [n], True where the target wrote the token as the assistant.
        top_ids: uint16 or uint32 [a, k], the most probable tokens in the place of each answer
            token, in order. A token that begins the conversation has none.
        top_probs: float16 [a, k], at temperature 1.
        features: bfloat16 [n - 1, F, hidden], outputs of the target's layers for all tokens but the
            last.
    """

    tokens: Tensor
    answers: Tensor
    top_ids: Tensor
    top_probs: Tensor
    features: Tensor

    @classmethod
    def of(
        cls,
        text: tuple[Sequence[int], Sequence[bool]],
        top: tuple[Tensor, Tensor],
        features: Tensor,
        vocab_size: int,
    ) -> LabelledConversation:
        """Convert token ids and marks, labels and features of any types to those of a shard."""
        (ids, answers), (top_ids, top_probs) = text, top
        kind = id_type(vocab_size)
        return cls(
            torch.tensor(ids, dtype=torch.int64).to(kind),
            torch.tensor(answers, dtype=MARK),
            top_ids.to(kind),
            top_probs.to(PROB),
            features.to(FEATURE),
        )

    def __post_init__(self) -> None:
        assert self.top_ids.dtype in (torch.uint16, torch.uint32)
        assert (self.top_probs.dtype, self.features.dtype) == (PROB, FEATURE)

    def __len__(self) -> int:
        return len(self.tokens)

    @property
    def label_bytes(self) -> int:
        """Memory of all but the text."""
        return self.top_ids.nbytes + self.top_probs.nbytes + self.features.nbytes


TENSORS = tuple(field.name for field in fields(LabelledConversation))
"""Names in a shard, next to `numbers`, `lengths` and `labelled` of its conversations."""


class Shards:
    """Finished conversations by number.

    Args:
        directory: made if missing; its shards are found.
        vocab_size: of the target.

    Raises:
        ParameterError: a file in it is damaged.
    """

    def __init__(self, directory: Path, vocab_size: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory, self.vocab_size = directory, vocab_size
        self._lengths: dict[int, int] = {}
        self._saved: dict[int, tuple[_Shard, int]] = {}
        self._unsaved: dict[int, LabelledConversation] = {}
        self._unsaved_bytes = 0
        self._last = -1  # number of the last file
        for file in sorted(directory.glob("shard-*.safetensors")):
            self._map(file)
            self._last = max(self._last, int(file.stem.removeprefix("shard-")))

    def __contains__(self, number: int) -> bool:
        return number in self._lengths

    def length(self, number: int) -> int:
        """Tokens of a finished conversation; 0 of one that has nothing to learn from."""
        return self._lengths[number]

    def conversation(self, number: int) -> LabelledConversation:
        """A saved conversation; mapped into memory."""
        shard, place = self._saved[number]
        return shard.conversation(place)

    def add(self, number: int, conversation: LabelledConversation) -> None:
        """Keep a finished conversation, which `save` or a full shard brings to the disk."""
        self._unsaved[number] = conversation
        self._lengths[number] = len(conversation)
        self._unsaved_bytes += conversation.label_bytes
        if self._unsaved_bytes >= SHARD_BYTES:
            self.save()

    def save(self) -> None:
        """Write all unsaved conversations as one more shard.

        Raises:
            OSError: the disk refuses.
        """
        if not self._unsaved:
            return
        file = self._directory / f"shard-{self._last + 1:05}.safetensors"
        data = save(_tensors(self._unsaved))
        with written_whole(file) as to:
            to.write(data)
        self._last += 1
        self._unsaved, self._unsaved_bytes = {}, 0
        self._map(file)

    def _map(self, file: Path) -> None:
        shard = _Shard(file)
        for place, number in enumerate(shard.numbers):
            self._saved[number] = shard, place
            self._lengths[number] = shard.length(place)

    def run(self, tokens: int, known: tuple[int, int] = (0, 0)) -> tuple[int, int]:
        """The shortest run of conversations 0, 1, ... with so many tokens.

        It ends before the first that is missing. The result is its numbers of conversations and of
        tokens; `known` is an earlier result, to continue from.
        """
        count, total = known
        while total < tokens and count in self:
            total += self.length(count)
            count += 1
        return count, total

    def text(self, tokens: int) -> LabelledText:
        """The conversations of a `run`, without those that have nothing to learn from.

        All of them must have been saved.
        """
        numbers = [number for number in range(self.run(tokens)[0]) if self.length(number)]
        found = map(self.conversation, numbers)
        pairs = ((each.tokens.numpy(), each.answers.numpy()) for each in found)
        return LabelledText(Corpus.of(pairs, self.vocab_size), numbers, self)


@dataclass(frozen=True, slots=True, eq=False)
class LabelledText:
    """A corpus, in memory, and the numbers and shards by which its labels are found."""

    corpus: Corpus
    numbers: Sequence[int]
    shards: Shards

    def conversation(self, index: int) -> LabelledConversation:
        """A conversation of the corpus with its labels."""
        return self.shards.conversation(self.numbers[index])


def _tensors(conversations: Mapping[int, LabelledConversation]) -> dict[str, Tensor]:
    """A shard's content: all conversations one after the other, and how long each is."""
    every = list(conversations.values())
    return {
        "numbers": torch.tensor(list(conversations)),
        "lengths": torch.tensor([len(each) for each in every]),
        "labelled": torch.tensor([len(each.top_ids) for each in every]),
        **{name: torch.cat([getattr(each, name) for each in every]) for name in TENSORS},
    }


class _Shard:
    """A file of conversations, mapped into memory.

    Raises:
        ParameterError: it is damaged.
    """

    def __init__(self, file: Path) -> None:
        try:
            with safe_open(file, "pt") as opened:
                self._tensors = [opened.get_tensor(name) for name in TENSORS]
                numbers, lengths, labelled = map(
                    opened.get_tensor, ("numbers", "lengths", "labelled")
                )
        except (OSError, SafetensorError) as error:
            raise ParameterError(f"{file} is damaged ({error}); begin in another --out") from None
        self.numbers: list[int] = numbers.tolist()
        counts = (lengths, labelled, (lengths - 1).clamp(min=0))
        ends = zip(*(each.cumsum(0).tolist() for each in counts), strict=True)
        self._ends: list[tuple[int, ...]] = [(0, 0, 0), *ends]

    def length(self, place: int) -> int:
        """Tokens of a conversation."""
        return self._ends[place + 1][0] - self._ends[place][0]

    def conversation(self, place: int) -> LabelledConversation:
        """Views of the file."""
        text, labels, features = map(slice, self._ends[place], self._ends[place + 1])
        spans = (text, text, labels, labels, features)
        return LabelledConversation(
            *(tensor[span] for tensor, span in zip(self._tensors, spans, strict=True))
        )
