"""Real tokenizers as codecs: streaming gives what decoding at once gives."""

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from sequoia_core.text.detokenizer import TextStream, TokenizerCodec
from tests.core.tiny_tokenizers import byte_level, embedded_tokenizer, sentencepiece_like

Maker = Callable[[], PreTrainedTokenizerBase]
# SmolLM2's vocabulary lacks some control characters' bytes
TEXTS = st.text(st.characters(exclude_categories=["C"]), max_size=20) | st.text(
    " \nthe é€😀[INST]", max_size=30
)
ALL = pytest.mark.parametrize(
    "make",
    [byte_level, sentencepiece_like, pytest.param(embedded_tokenizer, marks=pytest.mark.embedded)],
    ids=["byte level", "sentencepiece", "embedded"],
)


def streamed(codec: TokenizerCodec, token_ids: list[int]) -> str:
    stream = TextStream(codec)
    return "".join(map(stream.push, token_ids)) + stream.flush()


@ALL
@given(text=TEXTS)
@settings(max_examples=100, deadline=None)
def test_streaming_a_text_gives_the_text(make: Maker, text: str) -> None:
    tokenizer = make()
    codec, ids = TokenizerCodec(tokenizer), tokenizer.encode(text, add_special_tokens=False)
    assert streamed(codec, ids) == codec.decode(ids) == text


@ALL
@given(text=st.text(" \nthe é€😀", max_size=20), seed=st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_special_tokens_leave_no_trace_in_the_text(make: Maker, text: str, seed: object) -> None:
    tokenizer = make()
    codec, ids = TokenizerCodec(tokenizer), tokenizer.encode(text, add_special_tokens=False)
    special = tokenizer.eos_token_id
    ids = [special, *ids, special, special]
    assert streamed(codec, ids) == codec.decode(ids) == text


@ALL
@given(text=st.text(" \nthe é€😀", max_size=12))
@settings(max_examples=60, deadline=None)
def test_the_parts_shown_of_single_tokens_are_those_of_the_text(make: Maker, text: str) -> None:
    """Joined and read back, incomplete bytes included; sentencepiece puts one space before."""
    tokenizer = make()
    codec, ids = TokenizerCodec(tokenizer), tokenizer.encode(text, add_special_tokens=False)
    shown = "".join(map(codec.token_text, ids))
    parts = re.split("<0x(..)>", shown)  # text, byte, text, byte, ...
    raw = b"".join(
        bytes.fromhex(part) if at % 2 else part.encode() for at, part in enumerate(parts)
    )
    assert raw.decode() in (text, f" {text}")


def test_bytes_of_half_a_character_are_spelled() -> None:
    tokenizer = byte_level()
    codec = TokenizerCodec(tokenizer)
    ids = tokenizer.encode("é€", add_special_tokens=False)
    assert [codec.token_text(token) for token in ids] == ["é", "<0xE2>", "<0x82>", "<0xAC>"]
    tokenizer = sentencepiece_like()
    codec = TokenizerCodec(tokenizer)
    ids = tokenizer.encode("€\n", add_special_tokens=False)
    assert [codec.token_text(token) for token in ids] == [" ", "<0xE2>", "<0x82>", "<0xAC>", "\n"]


def test_a_leading_space_is_part_of_a_tokens_text() -> None:
    for tokenizer in (byte_level(), sentencepiece_like()):
        codec = TokenizerCodec(tokenizer)
        ids = tokenizer.encode("a the", add_special_tokens=False)
        assert codec.token_text(ids[-1]) == " the"


def test_special_and_unknown_ids_are_named() -> None:
    for tokenizer, eos in ((byte_level(), "<|end_of_text|>"), (sentencepiece_like(), "</s>")):
        codec = TokenizerCodec(tokenizer)
        assert codec.token_text(tokenizer.eos_token_id) == eos
        assert codec.token_text(len(tokenizer) + 5) == f"<{len(tokenizer) + 5}>"
        assert codec.decode([tokenizer.eos_token_id]) == ""
        assert codec.decode([]) == ""
