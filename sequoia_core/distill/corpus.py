"""Conversations as token ids, with a mark on every token that the target wrote as the assistant."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise, takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sequoia_core.errors import ParameterError
from sequoia_core.files import written_whole
from sequoia_core.text.chat_template import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GRAM = 8  # tokens of a phrase that counts as repeated when it comes again
LOOPS = 0.2  # share of repeated phrases beyond which a conversation is cut; see `usable_length`
PROBES = ("a", "2")  # rendered, they have nothing in common but the template's tokens
_MOST_RATIO = 200
_ALWAYS_BYTES = 256_000_000
"""An archive may declare these, or so many times its own size: tokens compress a few times."""
_HASH_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class AnswerMarks:
    header: tuple[int, ...]  # the tokens right before an answer
    closing: frozenset[int]  # any of these ends it

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, closing: Iterable[int]) -> AnswerMarks:
        """What rendered prompts share at their ends; raises ParameterError if nothing."""
        template = ChatTemplate(tokenizer, None)
        rendered = [template.whole([], prompt)[::-1] for prompt in PROBES]
        header = common_prefix(rendered)[::-1]
        if not 0 < len(header) < min(map(len, rendered)):
            raise ParameterError("the chat template puts nothing between a question and its answer")
        return cls(tuple(header), frozenset(closing))

    def answers(self, token_ids: Sequence[int]) -> NDArray[np.bool_]:
        """True where a token of this conversation belongs to an answer or closes it."""
        marked = np.zeros(len(token_ids), dtype=np.bool_)
        inside, width = False, len(self.header)
        for at, token in enumerate(token_ids):
            inside = inside or tuple(token_ids[max(at - width, 0) : at]) == self.header
            marked[at] = inside
            inside = inside and token not in self.closing
        return marked


@dataclass(frozen=True, slots=True, eq=False)
class Corpus:
    """Conversations one after the other; raises ParameterError if the arrays do not fit."""

    tokens: NDArray[np.unsignedinteger[Any]]  # uint16 or uint32 [n]
    offsets: NDArray[np.int64]  # [conversations], where each begins
    answers: NDArray[np.bool_]  # [n], of the target as the assistant, with what closes an answer

    def __post_init__(self) -> None:
        if self.tokens.dtype not in (np.uint16, np.uint32) or self.answers.dtype != np.bool_:
            raise ParameterError("a corpus holds uint16 or uint32 tokens and boolean answers")
        ends = [*self.offsets.tolist(), len(self.tokens)]
        whole = ends[0] == 0 and all(low < high for low, high in pairwise(ends))
        if self.tokens.shape != self.answers.shape or not whole:
            raise ParameterError("a corpus's offsets and answers do not fit its tokens")

    @classmethod
    def of(cls, conversations: Iterable[tuple[ArrayLike, ArrayLike]], vocab_size: int) -> Corpus:
        """Join conversations, each a pair of token ids and answer marks."""
        tokens = [np.zeros(0, np.uint16 if vocab_size <= 1 << 16 else np.uint32)]
        answers = [np.zeros(0, bool)]
        for ids, marks in conversations:
            tokens.append(np.asarray(ids, tokens[0].dtype))
            answers.append(np.asarray(marks, bool))
        offsets = np.cumsum([len(ids) for ids in tokens[:-1]], dtype=np.int64)
        return cls(np.concatenate(tokens), offsets, np.concatenate(answers))

    def __len__(self) -> int:
        return len(self.offsets)

    def __getitem__(self, index: int) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Tokens and answers of a conversation."""
        begin = self.offsets[index]
        end = self.offsets[index + 1] if index + 1 < len(self) else len(self.tokens)
        return self.tokens[begin:end], self.answers[begin:end]

    def __iter__(self) -> Iterator[tuple[NDArray[Any], NDArray[np.bool_]]]:
        return map(self.__getitem__, range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        return np.diff(self.offsets, append=len(self.tokens))

    def select(self, indices: Iterable[int]) -> Corpus:
        return Corpus.of(map(self.__getitem__, indices), int(np.iinfo(self.tokens.dtype).max) + 1)

    def held_out(self, count: int, seed: int) -> list[int]:
        """At least `count` conversations by chance; those with one prompt go together."""
        alike: dict[bytes | int, list[int]] = {}
        for index, (ids, answers) in enumerate(self):
            prompt = ids[: answers.argmax()].tobytes()
            alike.setdefault(prompt or index, []).append(index)
        prompts = list(alike.values())
        chosen: list[int] = []
        for at in np.random.default_rng(seed).permutation(len(prompts)).tolist():
            if len(chosen) < count and len(chosen) + len(prompts[at]) < len(self):
                chosen += prompts[at]
        if not 0 < count <= len(chosen):
            raise ParameterError(
                f"{count} of {len(self)} conversations cannot be held out; generate more text"
            )
        return sorted(chosen)

    def save(self, path: Path) -> None:
        """Write a compressed npz, whole or not at all."""
        with written_whole(path) as file:
            np.savez_compressed(
                file, tokens=self.tokens, offsets=self.offsets, answers=self.answers
            )


def load_corpus(path: Path, marks: AnswerMarks) -> Corpus:
    """A corpus of a file; `marks` finds answers if it has none. Raises ParameterError."""
    arrays = read_arrays(path)
    tokens, offsets = arrays["tokens"], arrays["offsets"].astype(np.int64)
    if len(offsets) and offsets[-1] == len(tokens):  # some files name the end as well
        offsets = offsets[:-1]
    try:
        corpus = Corpus(tokens, offsets, arrays.get("answers", np.zeros(len(tokens), bool)))
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from None
    if "answers" not in arrays:
        for ids, answers in corpus:
            answers[:] = marks.answers(ids.tolist())
    if not corpus.answers.any():
        raise ParameterError(f"{path}: no answer in it that begins as this target's would")
    return corpus


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read an npz with `tokens` and `offsets`; raises ParameterError if it is missing or none."""
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise ValueError("no zip archive")
            with zipfile.ZipFile(file) as archive:
                declared = sum(each.file_size for each in archive.infolist())
            if declared > max(_ALWAYS_BYTES, _MOST_RATIO * path.stat().st_size):
                raise ValueError(f"it declares {declared:,} bytes, far more than are in it")
            file.seek(0)
            arrays = dict(np.load(file, allow_pickle=False))
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, MemoryError) as error:
        raise ParameterError(f"{path} cannot be read as an npz file: {error}") from None
    if missing := {"tokens", "offsets"} - arrays.keys():
        raise ParameterError(f"{path}: no array called {min(missing)} in it")
    return arrays


def common_prefix(rows: Sequence[Sequence[int]]) -> list[int]:
    columns = zip(*rows, strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


def usable_length(ids: ArrayLike, answers: ArrayLike, limit: float = LOOPS) -> int:
    """Tokens at the beginning of a conversation that are worth learning from; 0 where none is.

    The longest beginning that ends with an answer's token and whose share of repeated 8-grams is at
    most `limit`. Loops are at the end and never stop, so all but their first round is lost.
    """
    tokens, calm = np.asarray(ids).astype(np.uint64), np.array(answers, bool)
    count = max(len(tokens) - GRAM + 1, 0)
    hashes = np.zeros(count, np.uint64)
    for step in range(GRAM):
        hashes = hashes * _HASH_BASE + tokens[step : step + count]
    repeated = np.ones(count, bool)
    repeated[np.unique(hashes, return_index=True)[1]] = False
    calm[GRAM - 1 :] &= repeated.cumsum() / np.arange(1, count + 1) <= limit
    ends = np.flatnonzero(calm[1:])  # the first token has no probability to learn
    return int(ends[-1]) + 2 if len(ends) else 0
