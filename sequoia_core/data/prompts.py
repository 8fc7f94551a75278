"""Prompts to compare decoders on, as text: a JSON lines or text file, or a few of our own.

Owns how many are wanted; which rows a file may have is `sequoia_core.data`'s. Knows nothing of
models.
"""

from pathlib import Path

from sequoia_core.data.rows import json_rows, text_lines
from sequoia_core.errors import ParameterError

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
    if path.suffix != ".jsonl":
        return text_lines(path)
    return [row.content for row in json_rows(path)]
