"""Which rows of which data set are wanted. Owns the checks that need no data."""

from dataclasses import dataclass

from sequoia_core.errors import ParameterError

PROMPT_TOKENS = 128
"""Tokens of a text that are the prompt, in the published experiments."""
TOTAL_TOKENS = 256
"""Tokens of prompt and answer together, in the published experiments."""


@dataclass(frozen=True, slots=True)
class DataSpec:
    """A slice of a data set.

    Attributes:
        source: a name of `sequoia_core.data.hub.NAMED`, a `.jsonl` or `.txt` file, or a folder of
            `datasets`; None is the few built-in questions.
        start: first row taken, counted from 0 among those that are long enough.
        end: the row after the last. Of the built-in questions, which are fewer than the default,
            those before it are taken.
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
