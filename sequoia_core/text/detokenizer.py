"""From token ids to text that can be shown: single tokens, and an answer as it grows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
SURROGATE = re.compile("[\ud800-\udfff]")
_CONTEXT = 16  # tokens that decide how the next one is spelt; one would do
_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


def well_formed(text: str) -> str:
    """The text with each lone surrogate, which is no character, as U+FFFD."""
    return text if text.isascii() else SURROGATE.sub(REPLACEMENT, text)


class TextCodec(Protocol):
    """What the engine needs of a tokenizer."""

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a token sequence, special tokens left out."""

    def token_text(self, token_id: int) -> str:
        """Text of one token alone; bytes that are no whole character read `<0xE2>`."""


class TokenizerCodec(TextCodec):
    """Decodes through the tokenizer's own backend, past transformers' overhead of each call.

    Tokens of `eos_token_ids` are left out of a text also where the tokenizer does not mark them as
    special.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, eos_token_ids: frozenset[int] = frozenset()
    ) -> None:
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._byte_level = "ByteLevel" in repr(getattr(self._backend, "decoder", None))
        self._spelt = cache(self._spell)
        # a stream asks for each token alone as well
        self._alone = cache(lambda token_id: self._decode((token_id,)))

    def decode(self, token_ids: Sequence[int]) -> str:
        return self._alone(token_ids[0]) if len(token_ids) == 1 else self._decode(token_ids)

    def _decode(self, token_ids: Sequence[int]) -> str:
        ids = [token for token in token_ids if token not in self._eos_token_ids]
        if not ids:
            return ""
        if self._backend is not None:
            return str(self._backend.decode(ids, skip_special_tokens=True))
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        return str(self._tokenizer.decode(ids, **options))

    def token_text(self, token_id: int) -> str:
        return self._spelt(token_id)

    def _spell(self, token_id: int) -> str:
        token = self._tokenizer.convert_ids_to_tokens(token_id)
        if token is None:  # an id past the vocabulary: some models pad their embedding
            return f"<{token_id}>"
        if _BYTE_TOKEN.fullmatch(token):
            byte = int(token[3:5], 16)
            return chr(byte) if byte < 0x80 else token
        if not self._byte_level or token_id in self._tokenizer.all_special_ids:
            return str(token).replace("\N{LOWER ONE EIGHTH BLOCK}", " ")
        try:
            raw = bytes(_BYTE_OF_CHAR[char] for char in token)
        except KeyError:  # an added token is plain text, not bytes in disguise
            return str(token)
        text = raw.decode("utf-8", errors="surrogateescape")
        return SURROGATE.sub(lambda found: f"<0x{ord(found[0]) - 0xDC00:02X}>", text)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's bytes as printable characters: visible ones stay, the others move past 255."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {
        chr(256 + index): byte for index, byte in enumerate(hidden)
    }


_BYTE_OF_CHAR = _byte_alphabet()


class TextStream:
    """Turns one answer's tokens into text as they come.

    Never returns half a UTF-8 character, nor the beginning of a stop string that may still
    complete; neither a stop string nor what follows it is returned. `after` are tokens of the text
    that the answer goes on after, if it does.
    """

    def __init__(
        self, codec: TextCodec, stop: Sequence[str] = (), after: Sequence[int] = ()
    ) -> None:
        self._codec = codec
        self._stop = tuple(stop)
        # tokens since the last safe cut, the first ones already read
        self._window = list(after[-_CONTEXT:])
        self._read = len(self._window)  # how many tokens of the window are in `_held` or returned
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

        If the model did not end it (`cut_off`), an incomplete character at its end is left out.
        """
        if self.stopped:
            return ""
        before = self._codec.decode(self._window[: self._read])
        rest = self._codec.decode(self._window)[len(before) :]
        text = self._release(rest.rstrip(REPLACEMENT) if cut_off else rest) + self._held
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
