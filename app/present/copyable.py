"""What of a chat can be copied: an answer, or a code block of one. Pure; copies nothing.

What a model wrote is copied with control characters made visible: pasted into a shell they would be
obeyed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from markdown_it import MarkdownIt

from sequoia_core.errors import SequoiaError


class CopyError(SequoiaError):
    """There is nothing of the kind to copy."""


@dataclass(frozen=True, slots=True)
class CodeBlock:
    """A block of code in an answer.

    Attributes:
        code: without the fence, ending in a newline.
        language: as it was named, or "".
    """

    code: str
    language: str


@dataclass(frozen=True, slots=True)
class Copy:
    """A text to copy.

    Attributes:
        text: the text.
        what: it is, in a few words.
    """

    text: str
    what: str


def code_blocks(text: str) -> list[CodeBlock]:
    """The code blocks of a Markdown text, in order; one that is still open counts."""
    return [
        CodeBlock(token.content, token.info.partition(" ")[0])
        for token in MarkdownIt("commonmark", {"html": False}).parse(text)
        if token.type in ("fence", "code_block")
    ]


def copy_answer(answers: Sequence[str], back: int = 1) -> Copy:
    """An answer.

    Args:
        answers: texts of the answers on show, the oldest first.
        back: 1 for the last, 2 for the one before.

    Raises:
        CopyError: there are not so many.
    """
    if not answers:
        raise CopyError("nothing to copy yet: ask something first")
    if back > len(answers):
        count = f"{len(answers)} answers" if len(answers) > 1 else "one answer"
        raise CopyError(f"/copy {back}: this chat has only {count}")
    what = "the answer" if back == 1 else f"the answer {back - 1} before the last"
    return Copy(answers[-back], what)


def copy_code(answers: Sequence[str], number: int | None = None) -> Copy:
    """A code block of the last answer that has any.

    Args:
        answers: as in `copy_answer`.
        number: from 1 at the top; None is the last.

    Raises:
        CopyError: there is no such block.
    """
    blocks = next((found for text in reversed(answers) if (found := code_blocks(text))), [])
    if not blocks:
        raise CopyError("no code to copy: no answer here has a code block")
    if number is not None and number > len(blocks):
        count = f"{len(blocks)} code blocks" if len(blocks) > 1 else "one code block"
        raise CopyError(f"/copy code {number}: the last answer with code has only {count}")
    at = len(blocks) if number is None else number
    block = blocks[at - 1]
    place = f"code block {at} of {len(blocks)}" if len(blocks) > 1 else "the code block"
    return Copy(block.code, f"{place} ({block.language})" if block.language else place)
