"""What can be copied from a chat: an answer, or one of its code blocks.

The text has its control characters made visible: pasted into a shell they would be executed.
"""

from collections.abc import Sequence

from markdown_it import MarkdownIt

from sequoia_core.errors import SequoiaError, counted


class CopyError(SequoiaError):
    """There is nothing of the kind to copy."""


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Code and language ("" if not named) of a Markdown text's code blocks, open ones too."""
    return [
        (token.content, token.info.partition(" ")[0])
        for token in MarkdownIt("commonmark", {"html": False}).parse(text)
        if token.type in ("fence", "code_block")
    ]


def copy_answer(answers: Sequence[str], back: int = 1) -> tuple[str, str]:
    """An answer, and in words which one it is.

    Args:
        answers: texts of the answers on show, the oldest first.
        back: 1 for the last, 2 for the one before.

    Raises:
        CopyError: there are not so many.
    """
    if not answers:
        raise CopyError("nothing to copy yet: ask something first")
    if back > len(answers):
        raise CopyError(f"/copy {back}: this chat has only {counted(len(answers), 'answer')}")
    what = "the answer" if back == 1 else f"the answer {back - 1} before the last"
    return (answers[-back], what)


def copy_code(answers: Sequence[str], number: int | None = None) -> tuple[str, str]:
    """A code block of the last answer that has any, and in words which one it is.

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
        count = counted(len(blocks), "code block")
        raise CopyError(f"/copy code {number}: the last answer with code has only {count}")
    at = len(blocks) if number is None else number
    code, language = blocks[at - 1]
    place = f"code block {at} of {len(blocks)}" if len(blocks) > 1 else "the code block"
    return (code, f"{place} ({language})" if language else place)
