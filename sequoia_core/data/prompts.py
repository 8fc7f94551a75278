"""Prompts as text: of a file, or a few built-in ones."""

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


def prompt_texts(path: str | None, count: int | None = None) -> list[str]:
    """The first `count` prompts, or all.

    Args:
        path: `.jsonl` whose rows have `turns` (the first is taken), `prompt` or `text`, or any
            other file with one prompt a line; None takes the built-in ones.
        count: how many are wanted.

    Raises:
        ParameterError: the file is unreadable, a row has none of these, or there are too few.
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
