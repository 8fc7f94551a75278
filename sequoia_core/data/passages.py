"""From a data set to token ids: prompts to continue, and texts to be judged as they stand.

Of a plain text the first 128 tokens are the prompt, as in the published experiments. A shorter text
is skipped and the next one counts in its place; in those experiments it took a number. A question
goes through the chat template and is a prompt as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sequoia_core.data.prompts import (
    NAMED,
    PROMPTS,
    Row,
    RowKind,
    folder_rows,
    json_rows,
    named_rows,
    text_lines,
)
from sequoia_core.errors import ParameterError
from sequoia_core.files import expanded
from sequoia_core.text.chat_template import ChatTemplate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PROMPT_TOKENS = 128  # tokens of a text that are the prompt, in the published experiments
TOTAL_TOKENS = 256  # tokens of prompt and answer together, in the published experiments
FILE_ENDINGS = (".jsonl", ".txt")


@dataclass(frozen=True, slots=True)
class DataSpec:
    """A slice of a data set; raises ParameterError if a value is outside its range."""

    # a name of `NAMED`, a `.jsonl` or `.txt` file, or a folder of `datasets`; None is the few
    # built-in questions
    source: str | None
    start: int = 0  # first row, counted from 0 among those that are long enough
    end: int = 200  # the row after the last; the built-in questions may be fewer

    def __post_init__(self) -> None:
        if self.source is not None and not self.source.strip():
            raise ParameterError("the data set's name is empty; leave it out for built-in prompts")
        if self.start < 0:
            raise ParameterError(f"start is {self.start}; rows are counted from 0")
        if self.end <= self.start:
            raise ParameterError(
                f"end is {self.end}; it must be above start, which is {self.start}"
            )


@dataclass(frozen=True, slots=True)
class Passage:
    """Tokens of one row, of which the first `prompt` are the prompt; of a question all are."""

    token_ids: tuple[int, ...]
    prompt: int
    is_question: bool = False


def load_prompts(spec: DataSpec, tokenizer: PreTrainedTokenizerBase) -> list[tuple[int, ...]]:
    return [each.token_ids for each in load_passages(spec, tokenizer, PROMPT_TOKENS)]


def load_passages(
    spec: DataSpec, tokenizer: PreTrainedTokenizerBase, tokens: int = TOTAL_TOKENS
) -> list[Passage]:
    """The wanted rows, plain texts cut to `tokens` ids; questions are never cut.

    If more than the prompt is wanted, a text must be longer than it. What the tokenizer puts at the
    beginning of a text is kept. Raises SequoiaError if the set is unknown, unreadable or cannot be
    fetched, or has too few rows.
    """
    check_source(spec.source)
    least = min(PROMPT_TOKENS + 1, tokens)
    found: list[Passage] = []
    taken = skipped = 0
    for passage in _passages(spec.source, tokenizer, least, tokens):
        if passage is None:
            skipped += 1
            continue
        taken += 1
        if taken > spec.start:
            found.append(passage)
        if taken == spec.end:
            break
    if not found or (spec.source is not None and len(found) < spec.end - spec.start):
        short = f" of at least {least} tokens ({skipped} have fewer)" if skipped else ""
        raise ParameterError(
            f"{spec.source or 'the built-in set'} has {taken} rows{short}; rows "
            f"{spec.start} to {spec.end} were asked for, so give a lower end"
        )
    return found


def _passages(
    source: str | None, tokenizer: PreTrainedTokenizerBase, least: int, most: int
) -> Iterable[Passage | None]:
    """A passage for each row; None for a text of less than `least` tokens."""
    template = ChatTemplate(tokenizer, None)

    def cut(token_ids: list[int]) -> Passage | None:
        if len(token_ids) < least:
            return None
        return Passage(tuple(token_ids[:most]), PROMPT_TOKENS)

    def passage(row: Row) -> Passage | None:
        if not row.content.strip():
            return None
        is_question = row.kind is RowKind.PROMPT and bool(tokenizer.chat_template)
        if is_question or row.kind is RowKind.TURN:
            ids = tuple(template.whole([], row.content))
            return Passage(ids, len(ids), is_question=True)
        return cut(tokenizer.encode(row.content))

    path = expanded(source or "")
    if source is None:
        return (passage(Row(prompt, RowKind.TURN)) for prompt in PROMPTS)
    if source in NAMED:
        return map(passage, named_rows(source))
    if path.is_dir():
        return map(passage, folder_rows(path))
    if path.suffix != ".txt":
        return map(passage, json_rows(path))
    lines = text_lines(path)
    texts = [passage(Row(line, RowKind.TEXT)) for line in lines]
    if any(texts):
        return texts
    # no line is long enough: the whole is one text, cut into rows
    ids = tokenizer.encode("\n".join(lines))
    length = max(TOTAL_TOKENS, most)
    return [cut(ids[at : at + length]) for at in range(0, len(ids), length)]


def check_source(source: str | None) -> None:
    """Refuse what is no data set before models are loaded: raises ParameterError."""
    if source is None or source in NAMED:
        return
    path = expanded(source)
    if path.is_dir() or (path.is_file() and path.suffix in FILE_ENDINGS):
        return
    kinds = f"a {' or '.join(FILE_ENDINGS)} file or a `datasets` folder"
    if path.is_file():
        raise ParameterError(f"data set {source}: rows are read from {kinds}")
    raise ParameterError(
        f"data set {source}: no such name, file or folder; known are {', '.join(NAMED)}, and "
        f"{kinds} by path"
    )
