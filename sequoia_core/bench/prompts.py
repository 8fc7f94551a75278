"""Prompts to measure on: a JSON lines or text file, or a few of our own.

Knows the row formats people have; knows nothing of models.
"""

import json
from pathlib import Path

from sequoia_core.errors import ParameterError
from sequoia_core.measure.tuning import PROMPTS


def load_prompts(path: str | None, count: int) -> list[str]:
    """The first `count` prompts.

    Args:
        path: `.jsonl` whose rows have `turns` (the first is taken), `prompt` or `text`, or any
            other file with one prompt a line; None takes the built-in ones.
        count: how many are wanted.

    Raises:
        ParameterError: the file is unreadable, a row has none of these, or there are too few.
    """
    prompts = list(PROMPTS) if path is None else read_prompts(Path(path).expanduser())
    if len(prompts) < count:
        raise ParameterError(
            f"{path or 'the built-in set'} has {len(prompts)} prompts; ask for at most as many"
        )
    return prompts[:count]


def read_prompts(path: Path) -> list[str]:
    """All prompts of a file; see `load_prompts`.

    Raises:
        ParameterError: the file is unreadable, or a row has no prompt.
    """
    try:
        lines = [line for line in path.read_text("utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ParameterError(f"{path} cannot be read as text: {error}") from None
    if path.suffix != ".jsonl":
        return lines
    return [_prompt(path, number, line) for number, line in enumerate(lines, start=1)]


def _prompt(path: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
        prompt = row["turns"][0] if "turns" in row else row.get("prompt", row.get("text"))
    except (ValueError, TypeError, AttributeError, IndexError):
        prompt = None
    if not isinstance(prompt, str) or not prompt.strip():
        raise ParameterError(f'{path}, line {number}: no "turns", "prompt" or "text" to read')
    return prompt
