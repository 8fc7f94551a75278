"""Conversations as token ids, with a mark on every token that the target wrote as the assistant."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterable, Sequence
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

GRAM = 8
"""Tokens of a phrase that counts as repeated when it comes again."""

LOOPS = 0.2
"""Share of repeated phrases beyond which a conversation is cut; see `usable_length`."""

_MOST_RATIO = 200
_ALWAYS_BYTES = 256_000_000
"""An archive may declare these, or so many times its own size: tokens compress a few times."""
_HASH_BASE = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True, slots=True)
class AnswerMarks:
    """The tokens right before an answer, and those of which any ends it."""

    header: tuple[int, ...]
    closing: frozenset[int]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, closing: Iterable[int]) -> AnswerMarks:
        """The marks of a chat template: what two rendered prompts have in common at their ends.

        Raises:
            ParameterError: the template puts nothing there or refuses a plain question.
        """
        template = ChatTemplate(tokenizer, None)
        rendered = [template.whole([], prompt)[::-1] for prompt in ("a", "2")]
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
    """Conversations one after the other.

    Attributes:
        tokens: uint16 or uint32 `[n]`, token ids.
        offsets: int64 `[conversations]`, where each begins.
        answers: bool `[n]`, True where the target wrote the token as the assistant, the token that
            closes the answer included.

    Raises:
        ParameterError: the arrays do not fit each other.
    """

    tokens: NDArray[np.unsignedinteger[Any]]
    offsets: NDArray[np.int64]
    answers: NDArray[np.bool_]

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
        kind = np.uint16 if vocab_size <= 1 << 16 else np.uint32
        pairs = [(np.asarray(ids, kind), np.asarray(marks, bool)) for ids, marks in conversations]
        lengths = np.array([0, *(len(ids) for ids, _ in pairs)], dtype=np.int64)
        return cls(
            tokens=np.concatenate([np.zeros(0, kind), *(ids for ids, _ in pairs)]),
            offsets=lengths.cumsum()[:-1],
            answers=np.concatenate([np.zeros(0, bool), *(marks for _, marks in pairs)]),
        )

    @property
    def conversations(self) -> int:
        """How many there are."""
        return len(self.offsets)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Tokens of each conversation."""
        return np.diff(self.offsets, append=len(self.tokens))

    @property
    def longest(self) -> int:
        """Tokens of the longest conversation; 0 without any."""
        return int(self.lengths.max(initial=0))

    def span(self, index: int) -> slice:
        """Where conversation `index` lies in `tokens` and `answers`."""
        end = self.offsets[index + 1] if index + 1 < self.conversations else len(self.tokens)
        return slice(int(self.offsets[index]), int(end))

    def select(self, indices: Iterable[int]) -> Corpus:
        """These conversations in this order."""
        spans = map(self.span, indices)
        vocab_size = int(np.iinfo(self.tokens.dtype).max) + 1
        return Corpus.of(((self.tokens[span], self.answers[span]) for span in spans), vocab_size)

    def held_out(self, count: int, seed: int) -> list[int]:
        """Choose at least `count` conversations by chance; their numbers, ascending.

        Those that share a prompt are chosen together.

        Raises:
            ParameterError: nothing would be left, or nothing is wanted.
        """
        alike: dict[bytes | int, list[int]] = {}
        for index in range(self.conversations):
            alike.setdefault(self._prompt(index) or index, []).append(index)
        prompts = list(alike.values())
        chosen: list[int] = []
        for at in np.random.default_rng(seed).permutation(len(prompts)).tolist():
            if len(chosen) < count and len(chosen) + len(prompts[at]) < self.conversations:
                chosen += prompts[at]
        if not 0 < count <= len(chosen):
            raise ParameterError(
                f"{count} of {self.conversations} conversations cannot be held out; "
                "generate more text"
            )
        return sorted(chosen)

    def _prompt(self, index: int) -> bytes:
        """The tokens before a conversation's first answer."""
        span = self.span(index)
        begin = int(self.answers[span].argmax())
        return self.tokens[span][:begin].tobytes()

    def save(self, path: Path) -> None:
        """Write a compressed npz, whole or not at all.

        Raises:
            OSError: the disk refuses.
        """
        arrays = {"tokens": self.tokens, "offsets": self.offsets, "answers": self.answers}
        with written_whole(path) as file:
            np.savez_compressed(file, allow_pickle=False, **arrays)


def load_corpus(path: Path, marks: AnswerMarks) -> Corpus:
    """Read a corpus, or a file with `tokens` and `offsets` only, whose answers `marks` finds.

    Raises:
        ParameterError: it is missing, damaged or something else, or has no answer in it.
    """
    arrays = read_arrays(path)
    tokens, offsets = arrays["tokens"], arrays["offsets"].astype(np.int64)
    if len(offsets) and offsets[-1] == len(tokens):  # some files name the end as well
        offsets = offsets[:-1]
    answers = arrays.get("answers")
    try:
        if answers is None:
            corpus = Corpus(tokens, offsets, np.zeros(len(tokens), bool))
            rows = (tokens[corpus.span(at)].tolist() for at in range(corpus.conversations))
            answers = np.concatenate([np.zeros(0, bool), *map(marks.answers, rows)])
        corpus = Corpus(tokens, offsets, answers)
    except ParameterError as error:
        raise ParameterError(f"{path}: {error}") from None
    if not corpus.answers.any():
        raise ParameterError(f"{path}: no answer in it that begins as this target's would")
    return corpus


def read_arrays(path: Path) -> dict[str, NDArray[Any]]:
    """Read an npz that holds at least `tokens` and `offsets`.

    Raises:
        ParameterError: it is missing, damaged or something else.
    """
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
    """The tokens that all rows begin with."""
    columns = zip(*rows, strict=False)
    return [column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns)]


def usable_length(ids: ArrayLike, answers: ArrayLike, limit: float = LOOPS) -> int:
    """Tokens at the beginning of a conversation that are worth learning from; 0 where none is.

    The longest beginning that ends with an answer's token and whose share of repeated 8-grams is at
    most `limit`. Loops are at the end and never stop, so all but their first round is lost; the
    text before is as good as any other.
    """
    calm = np.array(answers, bool)
    calm[GRAM - 1 :] &= _shares_of_prefixes(np.asarray(ids)) <= limit
    ends = np.flatnonzero(calm[1:])  # the first token has no probability to learn
    return int(ends[-1]) + 2 if len(ends) else 0


def _shares_of_prefixes(tokens: NDArray[Any]) -> NDArray[np.float64]:
    """Entry i: the share of repeated 8-grams among the first i + 1."""
    count = max(len(tokens) - GRAM + 1, 0)
    wide = tokens.astype(np.uint64)
    hashes = np.zeros(count, np.uint64)
    for step in range(GRAM):
        hashes = hashes * _HASH_BASE + wide[step : step + count]
    repeated = np.ones(count, bool)
    repeated[np.unique(hashes, return_index=True)[1]] = False
    return repeated.cumsum() / np.arange(1, count + 1)
