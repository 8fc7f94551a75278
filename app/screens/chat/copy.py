"""Carries out `/copy` and the key that copies the last answer; what can be copied is `copying`."""

from typing import TYPE_CHECKING

from ...present.copyable import CopyError, copy_answer, copy_code
from ...state.slash_commands import CopyAsked

if TYPE_CHECKING:
    from .screen import ChatScreen


def copy_asked(chat: "ChatScreen", asked: CopyAsked) -> None:
    """Copy what was asked for.

    Raises:
        CopyError: there is nothing of the kind.
    """
    if asked.what == "selection":
        selected = chat.get_selected_text()
        if not selected:
            raise CopyError("nothing is selected: drag over the chat, then /copy selection")
        chat.app.copy_to_clipboard(selected)
        return
    texts = (exchange.answer.text for exchange in chat.branching.history.branch)
    answers = [text for text in texts if text]
    if asked.what == "code":
        copy = copy_code(answers, asked.number)
    else:
        copy = copy_answer(answers, asked.number or 1)
    chat.app.copy_text(*copy)
