"""From a data set to token ids: prompts to decode after, and texts to be judged as they stand.

Owns which tokens of a row are the prompt, the published experiments' way: the first 128 of a plain
text. A text that has fewer is passed over and the next one counts in its place; there such a row
took a number and was not decoded. A question goes through the chat template and is taken whole.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from sequoia_core.data.hub import NAMED, folder_rows, named_rows
from sequoia_core.data.rows import Kind, Row, json_rows, text_lines
from sequoia_core.data.spec import TOTAL_TOKENS, DataSpec
from sequoia_core.errors import ParameterError
from sequoia_core.text.chat_template import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FILE_ENDINGS = (".jsonl", ".txt")


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens of one row.

    Attributes:
        token_ids: the prompt and what the row says after it.
        prompt: how many of them are the prompt; all of them where the row is a question.
    """

    token_ids: tuple[int, ...]
    prompt: int


def load_prompts(spec: DataSpec, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, ...]]:
    """Token ids of the prompts, each to be decoded after.

    Args:
        spec: which rows.
        tokenizer: the target's. Plain texts get what it puts at the beginning of a text.

    Raises:
        ParameterError: the set is unknown or unreadable, or has too few rows.
        SequoiaError: it cannot be fetched.
    """
    found = load_passages(spec, tokenizer, spec.prompt_tokens)
    return [passage.token_ids for passage in found]


def load_rows(
    spec: DataSpec, tokenizer: PreTrainedTokenizerBase, tokens: int = TOTAL_TOKENS
) -> list[tuple[int, ...]]:
    """Token ids of texts to be judged as they stand; see `load_passages`."""
    return [passage.token_ids for passage in load_passages(spec, tokenizer, tokens)]


def load_passages(
    spec: DataSpec, tokenizer: PreTrainedTokenizerBase, tokens: int = TOTAL_TOKENS
) -> list[Passage]:
    """The wanted rows, plain texts cut to `tokens` ids.

    Args:
        spec: which rows. Where more than the prompt is asked for, a text must have more than it.
        tokenizer: the target's.
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
    """Turns rows into passages and remembers how many there were."""

    spec: DataSpec
    tokenizer: PreTrainedTokenizerBase
    tokens: int
    _template: ChatTemplate = field(init=False)
    _taken: int = 0
    _passed_over: int = 0

    def __post_init__(self) -> None:
        self._template = ChatTemplate(self.tokenizer, None)

    def passages(self) -> Iterator[Passage]:
        """All there are."""
        source = self.spec.source
        check_source(source)
        plain = Path(source or "").expanduser()
        if plain.suffix == ".txt" and plain.is_file():
            yield from self._of_plain_file(plain)
            return
        for row in _rows_of(source):
            passage = self._passage(row)
            if passage is not None:
                self._taken += 1
                yield passage
            else:
                self._passed_over += 1

    def shortage(self) -> str:
        """What to say of a set that was read to its end and has too few rows."""
        name = self.spec.source or "the built-in set"
        short = ""
        if self._passed_over:
            short = f" of at least {self._least} tokens ({self._passed_over} have fewer)"
        return (
            f"{name} has {self._taken} rows{short}; rows {self.spec.start} to {self.spec.end} were "
            f"asked for, so give a lower end"
        )

    @property
    def _least(self) -> int:
        """Tokens that a text must have: one to judge, where more than the prompt is asked for."""
        return min(self.spec.prompt_tokens + 1, max(self.tokens, self.spec.prompt_tokens))

    def _passage(self, row: Row) -> Passage | None:
        asked = row.kind is Kind.PROMPT and bool(self.tokenizer.chat_template)
        if not row.content.strip():
            return None
        if asked or row.kind is Kind.TURN:
            ids = tuple(self._template.whole([], row.content))
            return Passage(ids, len(ids))
        return self._cut(self.tokenizer.encode(row.content))

    def _cut(self, token_ids: list[int]) -> Passage | None:
        if len(token_ids) < self._least:
            return None
        return Passage(tuple(token_ids[: max(self.tokens, self._least)]), self.spec.prompt_tokens)

    def _of_plain_file(self, path: Path) -> Iterator[Passage]:
        """One text a line; if no line is long enough, the whole is one text, cut into rows."""
        lines = text_lines(path)
        found = [self._passage(Row(line, Kind.TEXT)) for line in lines]
        if not any(found):
            ids = self.tokenizer.encode("\n".join(lines))
            length = max(TOTAL_TOKENS, self.tokens, self._least)
            found = [self._cut(ids[at : at + length]) for at in range(0, len(ids), length)]
        kept = [passage for passage in found if passage is not None]
        self._taken, self._passed_over = len(kept), len(found) - len(kept)
        yield from kept


def check_source(source: str | None) -> None:
    """Refuse what is no data set before minutes are spent on loading models.

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


def _rows_of(source: str | None) -> Iterator[Row]:
    if source is None:
        from sequoia_core.data.prompts import PROMPTS

        return (Row(prompt, Kind.TURN) for prompt in PROMPTS)
    if source in NAMED:
        return named_rows(source)
    path = Path(source).expanduser()
    return folder_rows(path) if path.is_dir() else json_rows(path)
