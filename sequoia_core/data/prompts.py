"""Rows and prompts of files, and a few built-in prompts."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from sequoia_core.errors import ParameterError
from sequoia_core.files import parse_json, read_text, split_lines
from sequoia_core.text.detokenizer import well_formed

PROMPTS = (
    "Why do the leaves of many trees turn red in autumn?",
    "Write a short letter to a landlord who has not repaired the heating.",
    "Explain to a beginner what a variable is in a programming language.",
    "What should I pack for three days of walking in the mountains?",
    "Tell me a story about a lighthouse keeper and a lost dog.",
    "List the main differences between a virus and a bacterium.",
    "Compare living in a city with living in a village.",
    "Write a short poem about the first snow of the year.",
)
EXPECTED = '"turns", "prompt", "text" or "article"'


class RowKind(Enum):
    TEXT = "text"  # its beginning is the prompt, the rest is the continuation
    PROMPT = "prompt"  # a question to a model that chats, a text to any other
    TURN = "turn"  # the first turn of a conversation


@dataclass(frozen=True, slots=True)
class Row:
    content: str
    kind: RowKind


def row_of(values: object) -> Row | None:
    """The row of a data set's entry; None if it has no known field.

    The first item of `turns` counts, and of `prompt` where it is a list. Half a surrogate pair,
    which JSON can spell and no tokenizer takes, becomes U+FFFD.
    """
    if not isinstance(values, Mapping):
        return None
    content = prompt = values.get("prompt")
    kind = RowKind.PROMPT
    if "turns" in values or isinstance(prompt, list):
        turns = values.get("turns", prompt)
        content, kind = turns[0] if isinstance(turns, list) and turns else None, RowKind.TURN
    elif not isinstance(prompt, str):
        content, kind = values.get("text", values.get("article")), RowKind.TEXT
    return Row(well_formed(content), kind) if isinstance(content, str) else None


def json_rows(path: Path) -> Iterator[Row]:
    """Rows of a JSON lines file; raises ParameterError if a line has no content."""
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
    return [line for line in _lines(path) if line.strip()]


def _lines(path: Path) -> list[str]:
    try:
        return split_lines(read_text(path))
    except (OSError, ValueError) as error:
        raise ParameterError(f"{path} cannot be read as text: {error}") from None


def prompt_texts(path: str | None, count: int | None = None) -> list[str]:
    """The first `count` prompts of a file, or all.

    The file is a `.jsonl` whose rows have `turns` (the first is taken), `prompt` or `text`, or any
    other with one prompt a line; None takes the built-in ones. Raises ParameterError if it is
    unreadable, a row has none of these, or there are too few.
    """
    if path is None:
        prompts = list(PROMPTS)
    else:
        file = Path(path).expanduser()
        is_json = file.suffix == ".jsonl"
        prompts = [row.content for row in json_rows(file)] if is_json else text_lines(file)
    if count is not None and len(prompts) < count:
        raise ParameterError(
            f"{path or 'the built-in set'} has {len(prompts)} prompts; ask for at most as many"
        )
    return prompts[:count]
