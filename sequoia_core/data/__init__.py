"""Texts and questions to measure on: named sets of the hub, files and folders of one's own.

Owns what a row of a data set is and which tokens of it are a prompt. Knows tokenizers and the chat
template; knows nothing of models, and imports `datasets` only where a set is read with it.
"""

from sequoia_core.data.passages import Passage, check_source, load_passages, load_prompts, load_rows
from sequoia_core.data.spec import PROMPT_TOKENS, TOTAL_TOKENS, DataSpec

__all__ = [
    "PROMPT_TOKENS",
    "TOTAL_TOKENS",
    "DataSpec",
    "Passage",
    "check_source",
    "load_passages",
    "load_prompts",
    "load_rows",
]
