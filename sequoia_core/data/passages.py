"""From a data set to token ids: prompts to continue, and texts to be judged as they stand.

Of a plain text the first 128 tokens are the prompt, as in the published experiments. A shorter text
is skipped and the next one counts in its place; in those experiments it took a number. A question
goes through the chat template and is a prompt as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sequoia_core.data.hub import NAMED, folder_rows, named_rows
from sequoia_core.data.prompts import PROMPTS
from sequoia_core.data.rows import Row, RowKind, json_rows, text_lines
from sequoia_core.errors import ParameterError
from sequoia_core.text.chat_template import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_TOKENS = 128
"""Tokens of a text that are the prompt, in the published experiments."""
TOTAL_TOKENS = 256
"""Tokens of prompt and answer together, in the published experiments."""
FILE_ENDINGS = (".jsonl", ".txt")


@dataclass(frozen=True, slots=True)
class DataSpec:
    """A slice of a data set.

    Attributes:
        source: a name of `hub.NAMED`, a `.jsonl` or `.txt` file, or a folder of `datasets`; None
            is the few built-in questions.
        start: first row, counted from 0 among those that are long enough.
        end: the row after the last; the built-in questions may be fewer.
        prompt_tokens: tokens of a plain text that are the prompt.

    Raises:
        ParameterError: a value is outside its range.
    """

    source: str | None
    start: int = 0
    end: int = 200
    prompt_tokens: int = PROMPT_TOKENS

    def __post_init__(self) -> None:
        if self.source is not None and not self.source.strip():
            raise ParameterError("the data set's name is empty; leave it out for built-in prompts")
        if self.start < 0:
            raise ParameterError(f"start is {self.start}; rows are counted from 0")
        if self.end <= self.start:
            raise ParameterError(
                f"end is {self.end}; it must be above start, which is {self.start}"
            )
        if self.prompt_tokens < 1:
            raise ParameterError(f"prompt_tokens is {self.prompt_tokens}; give at least 1")


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens of one row, of which the first `prompt` are the prompt; of a question all are."""

    token_ids: tuple[int, ...]
    prompt: int


def load_prompts(spec: DataSpec, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, ...]]:
    """Token ids of the prompts; see `load_passages`."""
    found = load_passages(spec, tokenizer, spec.prompt_tokens)
    return [passage.token_ids for passage in found]


def load_passages(
    spec: DataSpec, tokenizer: PreTrainedTokenizerBase, tokens: int = TOTAL_TOKENS
) -> list[Passage]:
    """The wanted rows, plain texts cut to `tokens` ids.

    Args:
        spec: which rows. If more than the prompt is wanted, a text must be longer than it.
        tokenizer: the target's; what it puts at the beginning of a text is kept.
        tokens: most ids of a plain text, at least the prompt's; questions are never cut.

    Raises:
        ParameterError: the set is unknown or unreadable, or has too few rows.
        SequoiaError: it cannot be fetched.
    """
    reader = _Reader(spec, tokenizer, tokens)
    found = list(islice(reader.passages(), spec.start, spec.end))
    if not found or (spec.source is not None and len(found) < spec.end - spec.start):
        raise ParameterError(reader.shortage())
    return found


@dataclass(slots=True)
class _Reader:
    """Turns rows into passages and counts them."""

    spec: DataSpec
    tokenizer: PreTrainedTokenizerBase
    tokens: int
    _template: ChatTemplate = field(init=False)
    _taken: int = 0
    _skipped: int = 0

    def __post_init__(self) -> None:
        self._template = ChatTemplate(self.tokenizer, None)

    def passages(self) -> Iterator[Passage]:
        source = self.spec.source
        check_source(source)
        file = Path(source or "").expanduser()
        is_plain = file.suffix == ".txt" and file.is_file()
        for found in self._of_plain_file(file) if is_plain else map(self._passage, _rows(source)):
            if found is None:
                self._skipped += 1
            else:
                self._taken += 1
                yield found

    def shortage(self) -> str:
        """Why a set that was read to its end is not enough."""
        name = self.spec.source or "the built-in set"
        short = ""
        if self._skipped:
            short = f" of at least {self._least} tokens ({self._skipped} have fewer)"
        return (
            f"{name} has {self._taken} rows{short}; rows {self.spec.start} to {self.spec.end} were "
            f"asked for, so give a lower end"
        )

    @property
    def _least(self) -> int:
        """Tokens that a text must have: one to judge, if more than the prompt is wanted."""
        return min(self.spec.prompt_tokens + 1, max(self.tokens, self.spec.prompt_tokens))

    def _passage(self, row: Row) -> Passage | None:
        is_question = row.kind is RowKind.PROMPT and bool(self.tokenizer.chat_template)
        if not row.content.strip():
            return None
        if is_question or row.kind is RowKind.TURN:
            ids = tuple(self._template.whole([], row.content))
            return Passage(ids, len(ids))
        return self._cut(self.tokenizer.encode(row.content))

    def _cut(self, token_ids: list[int]) -> Passage | None:
        if len(token_ids) < self._least:
            return None
        return Passage(tuple(token_ids[: max(self.tokens, self._least)]), self.spec.prompt_tokens)

    def _of_plain_file(self, path: Path) -> list[Passage | None]:
        """One text a line; if no line is long enough, the whole is one text, cut into rows."""
        lines = text_lines(path)
        found = [self._passage(Row(line, RowKind.TEXT)) for line in lines]
        if any(found):
            return found
        ids = self.tokenizer.encode("\n".join(lines))
        length = max(TOTAL_TOKENS, self.tokens, self._least)
        return [self._cut(ids[at : at + length]) for at in range(0, len(ids), length)]


def check_source(source: str | None) -> None:
    """Refuse what is no data set before models are loaded.

    Raises:
        ParameterError: it is neither a known name nor there.
    """
    if source is None or source in NAMED:
        return
    path = Path(source).expanduser()
    if path.is_dir() or (path.is_file() and path.suffix in FILE_ENDINGS):
        return
    kinds = f"a {' or '.join(FILE_ENDINGS)} file or a `datasets` folder"
    if path.is_file():
        raise ParameterError(f"data set {source}: rows are read from {kinds}")
    raise ParameterError(
        f"data set {source}: no such name, file or folder; known are {', '.join(NAMED)}, and "
        f"{kinds} by path"
    )


def _rows(source: str | None) -> Iterator[Row]:
    if source is None:
        return (Row(prompt, RowKind.TURN) for prompt in PROMPTS)
    if source in NAMED:
        return named_rows(source)
    path = Path(source).expanduser()
    return folder_rows(path) if path.is_dir() else json_rows(path)
