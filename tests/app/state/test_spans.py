"""Packed spans and dropped steps keep everything that was said."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.state.answer import Answer, PackedSpans, Span
from tests.fakes import make_answer


@settings(deadline=None, max_examples=40)
@given(
    spans=st.lists(
        st.builds(Span, st.text(max_size=4), st.integers(0, 40), st.integers(1, 10**6)),
        max_size=12,
    ),
    start=st.integers(-14, 14),
    end=st.integers(-14, 14),
)
def test_packed_spans_are_the_same_spans(spans: list[Span], start: int, end: int) -> None:
    packed = PackedSpans(spans)
    assert list(packed) == spans
    assert packed[start:end] == spans[start:end]
    assert packed.text == "".join(span.text for span in spans)
    if -len(spans) <= start < len(spans):
        assert packed[start] == spans[start]
    else:
        with pytest.raises(IndexError):
            packed[start]


def test_a_forgotten_answer_keeps_all_that_was_said() -> None:
    answer, kept = Answer("?"), Answer("?")
    for event in make_answer("before \x1b[31m after, 日本"):
        answer.add(event)
        kept.add(event)
    answer.forget_steps()
    assert (answer.text, answer.verbatim, answer.footer()) == (
        kept.text, kept.verbatim, kept.footer(),
    )  # fmt: skip
    assert list(answer.token_ids) == list(kept.token_ids)
    assert list(answer.spans) == list(kept.spans)
    assert answer.steps == []
