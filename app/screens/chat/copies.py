"""Text of the chat to copy; its control characters are visible, or a shell would execute them."""

from collections.abc import Sequence

from markdown_it import MarkdownIt

from sequoia_core.errors import counted

from ...state.chat_session import ChatError, ChatSession
from ...state.slash_commands import CopyRequest


def requested_copy(
    request: CopyRequest, session: ChatSession, selected: str | None
) -> tuple[str, str]:
    """The text that `/copy` copies, and in words what it is; `ChatError` if there is none."""
    if request.what == "selection":
        if not selected:
            raise ChatError("nothing is selected: drag over the chat, then /copy selection")
        return selected, ""
    answers = [text for each in session.history.branch if (text := each.answer.text)]
    if request.what == "code":
        return copy_code(answers, request.number)
    return copy_answer(answers, request.number or 1)


def code_blocks(text: str) -> list[tuple[str, str]]:
    """Code and language ("" if not named) of a Markdown text's code blocks, open ones too."""
    return [
        (token.content, token.info.partition(" ")[0])
        for token in MarkdownIt("commonmark", {"html": False}).parse(text)
        if token.type in ("fence", "code_block")
    ]


def copy_answer(answers: Sequence[str], back: int = 1) -> tuple[str, str]:
    """The `back`th answer from the end, and in words which one it is.

    Raises ChatError if there are not so many.
    """
    if not answers:
        raise ChatError("nothing to copy yet: ask something first")
    if back > len(answers):
        raise ChatError(f"/copy {back}: this chat has only {counted(len(answers), 'answer')}")
    what = "the answer" if back == 1 else f"the answer {back - 1} before the last"
    return answers[-back], what


def copy_code(answers: Sequence[str], number: int | None = None) -> tuple[str, str]:
    """A code block of the last answer that has any, and in words which one it is.

    `number` is from 1 at the top; None is the last. Raises ChatError if there is no such block.
    """
    blocks = next((found for text in reversed(answers) if (found := code_blocks(text))), [])
    if not blocks:
        raise ChatError("no code to copy: no answer here has a code block")
    if number is not None and number > len(blocks):
        count = counted(len(blocks), "code block")
        raise ChatError(f"/copy code {number}: the last answer with code has only {count}")
    at = len(blocks) if number is None else number
    code, language = blocks[at - 1]
    place = f"code block {at} of {len(blocks)}" if len(blocks) > 1 else "the code block"
    return code, f"{place} ({language})" if language else place
