"""Texts and questions to measure on: named sets of the hub, files and folders.

Imports `datasets` only where a set is read with it.
"""

from sequoia_core.data.passages import (
    PROMPT_TOKENS,
    TOTAL_TOKENS,
    DataSpec,
    Passage,
    check_source,
    load_passages,
    load_prompts,
)

__all__ = [
    "PROMPT_TOKENS",
    "TOTAL_TOKENS",
    "DataSpec",
    "Passage",
    "check_source",
    "load_passages",
    "load_prompts",
]
