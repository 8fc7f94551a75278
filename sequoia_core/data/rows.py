"""Rows of data sets: what they hold, and how files are read into them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from sequoia_core.errors import ParameterError
from sequoia_core.files import parse_json, read_text, split_lines
from sequoia_core.text.detokenizer import well_formed

EXPECTED = '"turns", "prompt", "text" or "article"'


class RowKind(Enum):
    """How a row is read.

    Attributes:
        TEXT: its beginning is the prompt, the rest is the continuation.
        PROMPT: a question to a model that chats, a text to any other.
        TURN: the first turn of a conversation.
    """

    TEXT = "text"
    PROMPT = "prompt"
    TURN = "turn"


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a data set."""

    content: str
    kind: RowKind


def row_of(values: object) -> Row | None:
    """The row of a data set's entry; None if it has no known field.

    The first item of `turns` counts, and of `prompt` where it is a list. Half a surrogate pair,
    which JSON can spell and no tokenizer takes, becomes U+FFFD.
    """
    if not isinstance(values, Mapping):
        return None
    prompt = values.get("prompt")
    content: Any
    if "turns" in values or isinstance(prompt, list):
        turns = values.get("turns", prompt)
        content, kind = turns[0] if isinstance(turns, list) and turns else None, RowKind.TURN
    elif isinstance(prompt, str):
        content, kind = prompt, RowKind.PROMPT
    else:
        content, kind = values.get("text", values.get("article")), RowKind.TEXT
    return Row(well_formed(content), kind) if isinstance(content, str) else None


def json_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON lines file.

    Raises:
        ParameterError: it is unreadable, or a line has no content.
    """
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = row_of(parse_json(line))
        except ValueError as error:
            raise ParameterError(f"{path}, line {number}: not a JSON object: {error}") from None
        if row is None or not row.content.strip():
            raise ParameterError(f"{path}, line {number}: no {EXPECTED} to read")
        yield row


def text_lines(path: Path) -> list[str]:
    """The lines of a file that are not blank.

    Raises:
        ParameterError: it is no readable text.
    """
    return [line for line in _lines(path) if line.strip()]


def _lines(path: Path) -> list[str]:
    try:
        return split_lines(read_text(path))
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path} cannot be read as text: {error}") from None
