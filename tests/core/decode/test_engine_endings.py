"""Where an answer ends: stop tokens, stop strings, the length, the context window."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.errors import ContextFullError, GrowMapError, ParameterError
from sequoia_core.events import FinishReason, Notice, NoticeKind, PrefillDone, TextDelta
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import (
    check_caches,
    check_laws,
    finish_of,
    make_engine,
    steps_of,
    text_of,
    tokens_of,
    tree_of,
)
from tests.core.models import PlainCodec, ScriptModel, TableModel

VOCAB = 6
PROMPT = [0, 1, 2]
SCRIPTS = st.lists(st.integers(0, VOCAB - 1), min_size=1, max_size=24)
LETTERS = "".join(map(PlainCodec().token_text, range(VOCAB)))


def cut(text: str, stops: Sequence[str]) -> str:
    """The text before the stop string that is complete first; the longest, if several are."""
    for end in range(1, len(text) + 1):
        starts = [end - len(stop) for stop in stops if text[:end].endswith(stop)]
        if starts:
            return text[: min(starts)]
    return text


def plain_answer(
    script: Sequence[int], eos: Sequence[int], params: SamplingParams, window: int
) -> tuple[list[int], FinishReason]:
    """What token-by-token decoding of a script gives, from the definitions alone."""
    tokens: list[int] = []
    while True:
        tokens.append(script[(len(PROMPT) + len(tokens)) % len(script)])
        text = PlainCodec().decode(tokens)
        if tokens[-1] in eos or any(stop in text for stop in params.stop):
            return tokens, FinishReason.STOP
        if len(tokens) == params.max_new_tokens:
            return tokens, FinishReason.LENGTH
        if len(PROMPT) + len(tokens) == window:
            return tokens, FinishReason.CONTEXT


@given(
    script=SCRIPTS,
    wrong=st.sets(st.integers(0, 23)),
    parents=st.lists(st.integers(0, 30), max_size=9),
    eos=st.lists(st.integers(0, VOCAB - 1), max_size=2),
    stops=st.lists(st.text(LETTERS, min_size=1, max_size=3), max_size=2),
    length=st.integers(1, 20),
    window=st.integers(len(PROMPT) + 1, 30),
    temperature=st.sampled_from([0.0, 1.0]),
)
@example([3, 4, 5], set(), [0, 1, 2, 3], [5], [], 3, 30, 0.0)  # a stop token at the length limit
@example([3, 4, 5], set(), [0, 1, 2, 3], [], [], 20, 7, 0.0)  # a path that ends past the window
@settings(max_examples=150, deadline=None)
def test_every_tree_ends_where_plain_decoding_ends(
    script: list[int],
    wrong: set[int],
    parents: list[int],
    eos: list[int],
    stops: list[str],
    length: int,
    window: int,
    temperature: float,
) -> None:
    target = ScriptModel(script, VOCAB, window=window)
    guesses = [(token + (at in wrong)) % VOCAB for at, token in enumerate(script)]
    draft = ScriptModel(guesses, VOCAB, window=window)
    growmap = tree_of(parents)
    assume(growmap.branching <= VOCAB)
    engine = make_engine(target, draft, growmap, eos=eos)
    params = SamplingParams(
        temperature=temperature, seed=7, max_new_tokens=length, stop=tuple(stops)
    )
    events = list(engine.generate(PROMPT, params))
    tokens, reason = plain_answer(script, eos, params, window)
    assert tokens_of(events) == tokens
    assert finish_of(events).reason is reason
    assert text_of(events) == cut(PlainCodec().decode(tokens), stops)
    assert list(engine.token_ids) == PROMPT + tokens
    assert target.caches[0].length == len(PROMPT) + len(tokens) - 1
    check_laws(events)
    check_caches(engine, target, draft)


@pytest.mark.parametrize("eos_at", range(6))
@pytest.mark.parametrize("mode", list(Mode))
def test_nothing_after_a_stop_token_is_emitted_counted_or_kept(mode: Mode, eos_at: int) -> None:
    """With a draft that is always right and a chain of four: inside the path, last, as bonus."""
    script = [1, 2, 3, *([4] * eos_at), 5, 4, 4, 4, 4, 4, 4, 4]
    target, draft = ScriptModel(script, VOCAB), ScriptModel(script, VOCAB)
    engine = make_engine(target, draft, GrowMap.chain(4), mode, eos=[5])
    events = list(engine.generate(PROMPT, SamplingParams(temperature=0.0)))
    assert tokens_of(events) == [4] * eos_at + [5]
    assert finish_of(events).reason is FinishReason.STOP
    assert finish_of(events).totals.tokens == eos_at + 1
    last = steps_of(events)[-1]
    assert last.token_ids[-1] == 5
    assert last.context_length <= len(PROMPT) + eos_at + 1
    assert target.caches[0].length == len(PROMPT) + eos_at
    if mode is not Mode.AR:
        assert len(last.path) == 5, "the walk itself went past the stop token"


def test_text_that_may_begin_a_stop_string_is_released_at_the_end() -> None:
    target = ScriptModel([0, 1, 2])
    engine = make_engine(target, target, GrowMap.chain(2))
    params = SamplingParams(temperature=0.0, max_new_tokens=6, stop=("abcabcX",))
    events = list(engine.generate([0, 1, 2], params))
    assert text_of(events) == "abcabc"
    check_laws(events)
    assert isinstance(events[-2], TextDelta)


def test_a_cancel_releases_held_back_text() -> None:
    target = ScriptModel([0, 1, 2])
    engine = make_engine(target, target, GrowMap.chain(1))
    params = SamplingParams(temperature=0.0, stop=("abcabcX",))
    asked = iter([False, True])
    events = list(engine.generate([0], params, lambda: next(asked, True)))
    assert finish_of(events).reason is FinishReason.CANCELLED
    assert text_of(events) == PlainCodec().decode(tokens_of(events)) == "bc"
    check_laws(events)


@given(window=st.integers(8, 40), nodes=st.integers(2, 12), length=st.integers(1, 7))
@settings(max_examples=60, deadline=None)
def test_a_tree_that_no_longer_fits_gives_way_to_plain_decoding(
    window: int, nodes: int, length: int
) -> None:
    """A forward past the window would trip the model's own assertion."""
    target = TableModel(9, 1, window=window)
    prompt = list(range(1, length + 1))
    engine = make_engine(target, TableModel(9, 1, window=512), GrowMap.chain(nodes - 1))
    events = list(engine.generate(prompt, SamplingParams(temperature=0.0)))
    check_laws(events)
    assert finish_of(events).reason is FinishReason.CONTEXT
    assert len(engine.token_ids) == window
    notices = [event for event in events if isinstance(event, Notice)]
    plain_steps = [step for step in steps_of(events) if len(step.nodes) == 1]
    assert len(notices) == bool(plain_steps)
    assert all(notice.kind is NoticeKind.PLAIN_DECODING for notice in notices)


def test_a_draft_with_a_smaller_window_drops_out_and_the_target_goes_on() -> None:
    target, draft = TableModel(9, 1, window=60), TableModel(9, 1, window=20)
    engine = make_engine(target, draft, GrowMap.chain(3))
    events = list(engine.generate([1, 2, 3], SamplingParams(temperature=0.0)))
    assert finish_of(events).reason is FinishReason.CONTEXT
    assert len(engine.token_ids) == 60
    sizes = [len(step.nodes) for step in steps_of(events)]
    assert sizes == sorted(sizes, reverse=True)
    assert set(sizes) == {1, 4}
    assert [event.kind for event in events if isinstance(event, Notice)] == [
        NoticeKind.PLAIN_DECODING
    ]
    long_prompt = [1, 2, 3] * 10
    events = list(engine.generate(long_prompt, SamplingParams(temperature=0.0, max_new_tokens=5)))
    assert {len(step.nodes) for step in steps_of(events)} == {1}
    check_caches(engine, target, draft)


def test_a_prompt_that_leaves_no_room_is_refused_and_harms_nothing() -> None:
    target = TableModel(9, 1, window=10)
    engine = make_engine(target, TableModel(9, 2))
    first = list(engine.generate([1, 2], SamplingParams(temperature=0.0, max_new_tokens=3)))
    kept = engine.token_ids
    with pytest.raises(ContextFullError, match="shorten"):
        next(iter(engine.generate([1] * 10, SamplingParams())))
    assert engine.token_ids == kept
    again = list(engine.generate([1, 2], SamplingParams(temperature=0.0, max_new_tokens=3)))
    assert tokens_of(again) == tokens_of(first)


def test_an_empty_prompt_is_refused() -> None:
    engine = make_engine(TableModel(9, 1), TableModel(9, 2))
    with pytest.raises(ParameterError, match="empty"):
        next(iter(engine.generate([], SamplingParams())))


def test_a_prompt_of_one_token_needs_no_reading() -> None:
    target = TableModel(9, 1)
    engine = make_engine(target, TableModel(9, 2))
    events = list(engine.generate([4], SamplingParams(temperature=0.0, max_new_tokens=3)))
    done = next(event for event in events if isinstance(event, PrefillDone))
    assert (done.prompt_tokens, done.cached_tokens) == (1, 0)
    check_laws(events)


def test_columns_that_only_pad_the_draft_are_no_tokens_to_draw() -> None:
    draft = DraftModel(TableModel(8, 3), torch.tensor([0, 1, 2, 4]))  # the last four mean nothing
    engine = make_engine(TableModel(9, 1), draft, GrowMap.k_ary([5]))
    with pytest.raises(GrowMapError, match="only 4 tokens"):
        list(engine.generate(PROMPT, SamplingParams(temperature=0.0)))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_more_children_than_the_draft_has_tokens_is_one_clear_error(temperature: float) -> None:
    target, draft = TableModel(9, 1), TableModel(9, 2)
    engine = make_engine(target, draft, GrowMap.k_ary([10]))
    params = SamplingParams(temperature=temperature, seed=1, max_new_tokens=4)
    with pytest.raises(GrowMapError, match="10 children"):
        list(engine.generate([1, 2, 3], params))
    check_caches(engine, target, draft)
    engine.tree_choice = TreeChoice(growmap=GrowMap.chain(2))
    fresh = make_engine(TableModel(9, 1), TableModel(9, 2), GrowMap.chain(2))
    prompt = [1, 2, 3]
    assert tokens_of(list(engine.generate(prompt, params))) == tokens_of(
        list(fresh.generate(prompt, params))
    )
