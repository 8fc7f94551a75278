"""Keeps what was typed and not sent when a chat is ended from outside, for the next chat."""

import os
import sys
from contextlib import suppress

from ..config.paths import data_folder
from ..state.sanitize import visible

NOT_SENT = "this was not sent when the last chat ended"
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW


def keep_unsent(text: str, *, record: bool) -> None:
    """Keep the text of the prompt, or print it if nothing is recorded or can be written."""
    if not text.strip():
        return
    notice = f"this was not sent:\n{visible(text)}"
    if record:
        with suppress(OSError):
            data_folder().mkdir(parents=True, exist_ok=True)
            # appended, since several chats may end at once with their terminal
            descriptor = os.open(data_folder() / "unsent.txt", _FLAGS, 0o600)
            with os.fdopen(descriptor, "a", encoding="utf-8", errors="replace") as file:
                file.write(text + "\n")
            notice = "what was not sent is in the prompt of the next chat"
    with suppress(OSError):  # the terminal may be gone
        sys.stderr.write(f"sequoia: {notice}\n")


def take_unsent() -> str:
    """Return what is kept, and forget it; "" if there is nothing."""
    path = data_folder() / "unsent.txt"
    taken = path.with_name(f"unsent-{os.getpid()}.txt")
    try:
        path.rename(taken)  # of two chats that begin now, only one gets it
        text = taken.read_text(encoding="utf-8", errors="replace")
        taken.unlink()
    except OSError:
        return ""
    return text.removesuffix("\n")
