"""A transformers tokenizer as the engine's `TextCodec`.

Single tokens are shown as text in byte-level and in sentencepiece vocabularies.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BYTE_TOKEN = re.compile(r"<0x[0-9A-F]{2}>")


class TokenizerCodec:
    """Decodes through the tokenizer's own backend.

    Args:
        tokenizer: fast ones are asked directly, past transformers' per-call overhead.
        eos_token_ids: ends of an answer, which are left out of a text also where the tokenizer does
            not mark them as special.
    """

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, eos_token_ids: frozenset[int] = frozenset()
    ) -> None:
        self._tokenizer = tokenizer
        self._eos_token_ids = eos_token_ids
        self._backend = getattr(tokenizer, "backend_tokenizer", None)
        self._byte_level = "ByteLevel" in repr(getattr(self._backend, "decoder", None))
        self._texts: dict[int, str] = {}
        self._alone: dict[int, str] = {}

    def decode(self, token_ids: Sequence[int]) -> str:
        """Text of a token sequence, special tokens left out."""
        if len(token_ids) != 1:
            return self._decode(token_ids)
        text = self._alone.get(token_ids[0])  # a stream asks for each token alone as well
        if text is None:
            text = self._alone[token_ids[0]] = self._decode(token_ids)
        return text

    def _decode(self, token_ids: Sequence[int]) -> str:
        ids = [token for token in token_ids if token not in self._eos_token_ids]
        if not ids:
            return ""
        if self._backend is not None:
            return str(self._backend.decode(ids, skip_special_tokens=True))
        return str(
            self._tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )

    def token_text(self, token_id: int) -> str:
        """Text of one token alone; bytes that are no whole character read `<0xE2>`."""
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = self._spell(token_id)
        return text

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
        return _spell_bytes(raw)


def _spell_bytes(raw: bytes) -> str:
    """Decode UTF-8, each byte that belongs to no whole character as `<0xE2>`."""
    text = raw.decode("utf-8", errors="surrogateescape")
    return "".join(
        f"<0x{ord(char) - 0xDC00:02X}>" if 0xDC80 <= ord(char) <= 0xDCFF else char for char in text
    )


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's bytes as printable characters: visible ones stay, the others move past 255."""
    visible = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    alphabet = {chr(byte): byte for byte in visible}
    alphabet.update({chr(256 + index): byte for index, byte in enumerate(hidden)})
    return alphabet


_BYTE_OF_CHAR = _byte_alphabet()
