"""From token ids to text that can be shown: incrementally, and with stop strings.

A `TextStream` never returns half a UTF-8 character, nor the beginning of a stop string that may
still complete.
"""

import re
from collections.abc import Sequence
from typing import Protocol

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
SURROGATE = re.compile("[\ud800-\udfff]")


def well_formed(text: str) -> str:
    """The text with each lone surrogate, which is no character, as U+FFFD."""
    return text if text.isascii() else SURROGATE.sub(REPLACEMENT, text)


class TextCodec(Protocol):
    """What the engine needs of a tokenizer."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a token sequence, special tokens left out."""
        ...

    def token_text(self, token_id: int) -> str:
        """Text of one token alone; bytes that are no whole character read `<0xE2>`."""
        ...


class TextStream:
    """Turns one answer's tokens into text as they come.

    Args:
        codec: how tokens read.
        stop: strings that end the text; neither they nor what follows is returned.
    """

    def __init__(self, codec: TextCodec, stop: Sequence[str] = ()) -> None:
        self._codec = codec
        self._stop = tuple(stop)
        self._window: list[int] = []  # tokens since the last safe cut, the first ones already read
        self._read = 0  # how many tokens of the window are in `_held` or returned
        self._held = ""  # text that may be the beginning of a stop string
        self.stopped = False

    def push(self, token_id: int) -> str:
        """Add one token and return the text that is certain; "" after a stop string."""
        self._window.append(token_id)
        before = self._codec.decode(self._window[: self._read])
        now = self._codec.decode(self._window)
        if now.endswith(REPLACEMENT) or len(now) <= len(before):
            return ""  # a character is incomplete, or the token is special
        self._window = self._window[self._read :]
        self._read = len(self._window)
        return self._release(now[len(before) :])

    def flush(self, *, cut_off: bool = False) -> str:
        """The text still held back when the answer ends.

        Args:
            cut_off: the model did not end it: an incomplete character at its end is left out.
        """
        if self.stopped:
            return ""
        before = self._codec.decode(self._window[: self._read])
        rest = self._codec.decode(self._window)[len(before) :]
        if cut_off:
            rest = rest.rstrip(REPLACEMENT)
        text = self._release(rest) + self._held
        self._window, self._read, self._held = [], 0, ""
        return text

    def _release(self, text: str) -> str:
        if self.stopped:
            return ""
        text = self._held + text
        found = [(at + len(stop), at) for stop in self._stop if (at := text.find(stop)) >= 0]
        if found:  # the one that is complete first, however the text was cut into tokens
            self.stopped, self._held = True, ""
            return text[: min(found)[1]]
        keep = max((_overlap(text, stop) for stop in self._stop), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of `text` that begins `stop` without completing it."""
    sizes = range(min(len(text), len(stop) - 1), 0, -1)
    return next((size for size in sizes if stop.startswith(text[-size:])), 0)
