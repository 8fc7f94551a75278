"""What a row of a data set says, whatever its format: a text to go on with, or a question.

Owns the names that rows have for it. Knows nothing of files or tokens.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from sequoia_core.errors import ParameterError
from sequoia_core.files import parse_json, read_text, split_lines
from sequoia_core.text.detokenizer import well_formed

EXPECTED = '"turns", "prompt", "text" or "article"'


class Kind(Enum):
    """What a row is to be read as.

    Attributes:
        TEXT: the beginning of it is the prompt, the rest is what came after.
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
    kind: Kind


def row_of(values: object) -> Row | None:
    """What an entry of a data set says; None if it has nothing of that kind.

    `turns` is a list of which the first counts, and so is `prompt` where it is a list. Half a
    surrogate pair, which JSON can spell, becomes U+FFFD: no tokenizer takes it.
    """
    if not isinstance(values, Mapping):
        return None
    if "turns" in values:
        return _first_turn(values["turns"])
    prompt = values.get("prompt")
    if isinstance(prompt, list):
        return _first_turn(prompt)
    if isinstance(prompt, str):
        return Row(well_formed(prompt), Kind.PROMPT)
    text = values.get("text", values.get("article"))
    return Row(well_formed(text), Kind.TEXT) if isinstance(text, str) else None


def _first_turn(turns: Any) -> Row | None:
    first = turns[0] if isinstance(turns, list) and turns else None
    return Row(well_formed(first), Kind.TURN) if isinstance(first, str) else None


def json_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON lines file.

    Raises:
        ParameterError: it is unreadable, or a line holds nothing to read.
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
