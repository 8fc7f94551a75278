"""Text comes out whole, in whole characters, and ends before the first stop string."""

from collections.abc import Sequence

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sequoia_core.text.detokenizer import REPLACEMENT, TextStream, TokenizerCodec
from tests.core.tiny_tokenizers import sentencepiece_like


class ByteCodec:
    """Token i is the i-th byte string of a list; invalid UTF-8 reads as replacement characters."""

    def __init__(self, tokens: Sequence[bytes]) -> None:
        self._tokens = tokens

    def decode(self, token_ids: Sequence[int]) -> str:
        return b"".join(self._tokens[index] for index in token_ids).decode(errors="replace")

    def token_text(self, token_id: int) -> str:
        return self.decode([token_id])


def cut_anywhere(text: str, cuts: Sequence[int]) -> list[bytes]:
    """The text's bytes in pieces of any length, also of none."""
    raw = text.encode()
    edges = sorted(cut % (len(raw) + 1) for cut in cuts)
    return [raw[a:b] for a, b in zip([0, *edges], [*edges, len(raw)], strict=True)]


def stream(tokens: Sequence[bytes], stop: Sequence[str] = ()) -> list[str]:
    """What is let out token by token, and at last by the flush."""
    made = TextStream(ByteCodec(tokens), stop)
    parts = []
    for index in range(len(tokens)):
        parts.append(made.push(index))
        if made.stopped:
            break
    return [*parts, made.flush()]


def before_stop(text: str, stops: Sequence[str]) -> str:
    """The text before the stop string that is complete first; the longest, if several are."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


TEXTS = st.text(max_size=12) | st.text("aé€😀\u0301" + REPLACEMENT, max_size=12)
CUTS = st.lists(st.integers(0, 1000), max_size=30)


@given(text=TEXTS, cuts=CUTS)
@settings(max_examples=300, deadline=None)
def test_any_bytes_join_to_the_text_and_no_character_comes_in_halves(
    text: str, cuts: list[int]
) -> None:
    parts = stream(cut_anywhere(text, cuts))
    assert "".join(parts) == text
    for at in range(len(parts)):
        assert text.startswith("".join(parts[:at]))


@given(raw=st.binary(max_size=12), cuts=CUTS)
@settings(max_examples=200, deadline=None)
def test_bytes_that_are_no_text_lose_nothing(raw: bytes, cuts: list[int]) -> None:
    edges = sorted(cut % (len(raw) + 1) for cut in cuts)
    tokens = [raw[a:b] for a, b in zip([0, *edges], [*edges, len(raw)], strict=True)]
    assert "".join(stream(tokens)) == raw.decode(errors="replace")


@given(text=TEXTS)
def test_whole_characters_are_not_held_back(text: str) -> None:
    tokens = [char.encode() for char in text if char != REPLACEMENT]
    assert stream(tokens)[:-1] == [token.decode() for token in tokens]


@given(
    text=st.text("abé", max_size=14),
    cuts=CUTS,
    stops=st.lists(st.text("abé", min_size=1, max_size=4), max_size=3),
)
@example(text="abc", cuts=[], stops=["abc", "b"])
@example(text="aab", cuts=[1, 2], stops=["ab"])
@settings(max_examples=400, deadline=None)
def test_text_ends_before_the_first_stop_however_it_is_cut(
    text: str, cuts: list[int], stops: list[str]
) -> None:
    parts = stream(cut_anywhere(text, cuts), stops)
    expected = before_stop(text, stops)
    assert "".join(parts) == expected
    made = TextStream(ByteCodec([text.encode()]), stops)
    made.push(0)
    assert made.stopped == (expected != text)


@given(
    text=st.text("ab", min_size=1, max_size=10),
    stop=st.text("ab", min_size=1, max_size=4),
    cuts=CUTS,
)
@settings(max_examples=200, deadline=None)
def test_only_what_may_begin_a_stop_is_held_back(text: str, stop: str, cuts: list[int]) -> None:
    tokens = [*cut_anywhere(text, cuts), b"z"]
    made = TextStream(ByteCodec(tokens), [stop])
    said, shown = "", ""
    for index, token in enumerate(tokens):
        said += token.decode()
        shown += made.push(index)
        if made.stopped:
            assert made.push(index) == made.flush() == ""
            return
        held = said[len(shown) :]
        assert said.startswith(shown)
        assert stop.startswith(held)
        assert not any(stop.startswith(said[at:]) for at in range(len(shown)) if said[at:])


def test_a_stop_found_in_the_last_held_text_keeps_what_precedes_it() -> None:
    """The last byte is half a character: only the flush reads it, and it completes a stop."""
    tokens = [b"a", b"b", b"c", b"\xe2"]
    assert "".join(stream(tokens, ["abcX", "c" + REPLACEMENT])) == "ab"


def test_half_a_character_at_the_end_of_an_answer_that_was_cut_off_is_left_out() -> None:
    made = TextStream(ByteCodec([b"a", "😀".encode()[:3]]))
    assert made.push(0) + made.push(1) + made.flush(cut_off=True) == "a"


@pytest.mark.parametrize("stops", [(), ("zzz",)])
def test_half_a_character_at_the_end_is_shown_as_a_replacement(stops: tuple[str, ...]) -> None:
    assert stream([b"a", "€".encode()[:2]], stops) == ["a", "", REPLACEMENT]


def test_an_answer_that_goes_on_keeps_the_blank_before_its_first_word() -> None:
    """Alone, a first token of this kind loses it."""
    tokenizer = sentencepiece_like()
    codec = TokenizerCodec(tokenizer)
    anchor, ids = (tokenizer.encode(text, add_special_tokens=False) for text in ("he", "he the"))
    assert ids[: len(anchor)] == anchor
    stream = TextStream(codec, after=anchor)
    assert "".join(map(stream.push, ids[len(anchor) :])) + stream.flush() == " the"
