"""What an empty chat says, with the keys that a person chose."""

from ..config.keymap import Keys
from .entries import TextEntry

_TEXT = """\
Every step of the decoding is drawn: a small draft model grows a tree of guesses, the target \
model reads all of them in one pass, and the path it accepts is kept, with one token of its own.

✔ accepted   ✘ rejected   · not reached
➜ the target's own token

Type a message; """
_KEYS = (
    "prompt.send sends it, chat.pause pauses, chat.step then runs one step, chat.step_before and "
    "chat.step_after walk through the steps, chat.help or "
)
_END = "/? shows all keys and commands."


def welcome(keys: Keys) -> TextEntry:
    """The welcome text; without the keys where none are known yet."""
    return TextEntry(_TEXT + (keys.shown(_KEYS) if keys.actions else "") + _END, "note", mark=" ")
