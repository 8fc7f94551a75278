"""Packed spans and dropped steps keep everything that was said."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.state.answer import Answer, PackedSpans, Span
from sequoia_core.events import Origin
from tests.fakes import make_answer, with_lookups


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


def test_the_tokens_that_were_looked_up_are_known_while_it_grows_and_from_its_steps() -> None:
    answer = Answer("?")
    for event in with_lookups(make_answer()):
        answer.add(event)
    known = answer.lookups
    texts = [
        step.nodes[at].text
        for step in answer.steps
        for at in step.path[1 : 1 + len(step.token_ids)]
        if step.nodes[at].origin is Origin.LOOKUP
    ]
    assert texts
    assert [answer.spans[at].text for at in known] == texts
    assert all(answer.spans[at].rank > 0 for at in known)
    steps = list(zip(answer.steps, answer.statistics, strict=True))
    answer.forget_steps()
    assert answer.lookups == known
    answer.lookups = []  # as it is read from the record
    answer.recall(steps)
    assert answer.lookups == known
    assert answer.steps == [step for step, _ in steps]
