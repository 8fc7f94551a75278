"""Whatever an engine did before, its next answer is that of a fresh one."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode import engine as engine_module
from sequoia_core.decode import step
from sequoia_core.decode.engine import Engine
from sequoia_core.events import Event, FinishReason, PrefillDone, Step
from sequoia_core.model.interface import KVCache
from sequoia_core.model.llama import Llama
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import (
    check_caches,
    check_laws,
    finish_of,
    make_engine,
    text_of,
    tokens_of,
)
from tests.core.models import TableModel, tiny_llama

ROWS = 4
TREES = (GrowMap.chain(3), GrowMap.k_ary([3, 2]), GrowMap((-1, 0, 0, 1, 3)), None)
LONGEST = tuple(at * 7 % 11 for at in range(24))


@pytest.fixture(autouse=True, scope="module")
def _small_chunks() -> Iterator[None]:
    """So that prompts of a few tokens are read in several pieces."""
    with pytest.MonkeyPatch.context() as patch:
        for model in (TableModel, Llama):
            patch.setattr(model, "prompt_rows", ROWS)
        patch.setattr(step, "MOST_PENDING", 3)
        patch.setattr(engine_module, "MOST_PENDING", 3)
        yield


@dataclass(frozen=True)
class Call:
    """One use of an engine and how it is broken off, if it is."""

    prompt: tuple[int, ...]
    choice: TreeChoice
    params: SamplingParams
    cancel_after: int | None
    """Times `should_stop` says no before it says yes."""
    close_after: int | None
    """Events taken before the generator is closed."""

    def run(self, engine: Engine) -> list[Event]:
        engine.tree_choice = self.choice
        left = iter(range(10_000 if self.cancel_after is None else self.cancel_after))
        events: list[Event] = []
        answer = engine.generate(self.prompt, self.params, lambda: next(left, None) is None)
        for event in answer:
            events.append(event)
            if len(events) == self.close_after:
                answer.close()  # type: ignore[attr-defined]
                break
        return events

    @property
    def whole(self) -> bool:
        return self.cancel_after is None and self.close_after is None


CALLS = st.builds(
    Call,
    prompt=st.builds(
        lambda shared, own: (*LONGEST[:shared], *own),
        st.integers(1, len(LONGEST)),
        st.lists(st.integers(0, 10), max_size=4),
    ),
    choice=st.builds(TreeChoice, st.sampled_from(list(Mode)), st.sampled_from(TREES)),
    params=st.builds(
        SamplingParams,
        temperature=st.sampled_from([0.0, 0.8]),
        seed=st.integers(0, 5),
        max_new_tokens=st.integers(1, 8),
    ),
    cancel_after=st.none() | st.integers(0, 9),
    close_after=st.none() | st.integers(1, 9),
)


@given(calls=st.lists(CALLS, min_size=2, max_size=5), model=st.integers(0, 50))
@settings(max_examples=60, deadline=None)
def test_the_past_of_an_engine_shows_only_in_its_caches(calls: list[Call], model: int) -> None:
    target, draft = TableModel(11, model), TableModel(11, model + model % 2, scale=0.8)
    engine = make_engine(target, draft, eos=[10])
    for call in calls:
        before = engine.token_ids
        events = call.run(engine)
        check_caches(engine, target, draft)
        fresh_target = TableModel(11, model)
        fresh = make_engine(fresh_target, TableModel(11, model + model % 2, scale=0.8), eos=[10])
        alone = Call(call.prompt, call.choice, call.params, None, None).run(fresh)
        emitted = tokens_of(events)
        assert emitted == tokens_of(alone)[: len(emitted)]
        if call.close_after is None:
            check_laws(events)
        if call.whole:
            assert emitted == tokens_of(alone)
            assert text_of(events) == text_of(alone)
            assert engine.token_ids == fresh.token_ids
            assert target.caches[0].length == len(engine.token_ids) - 1
        if any(isinstance(event, PrefillDone) for event in events):
            check_reuse(events, call.prompt, before)


def check_reuse(events: list[Event], prompt: tuple[int, ...], before: tuple[int, ...]) -> None:
    """No more than the shared prefix is taken from the cache."""
    done = next(event for event in events if isinstance(event, PrefillDone))
    shared = 0
    while shared < min(len(prompt), len(before)) and prompt[shared] == before[shared]:
        shared += 1
    assert done.cached_tokens <= min(shared, len(prompt) - 1)


@pytest.mark.parametrize("mode", list(Mode))
def test_an_answered_prompt_is_found_in_the_cache_whole(mode: Mode) -> None:
    engine = make_engine(TableModel(11, 1), TableModel(11, 2), GrowMap.chain(3), mode)
    params = SamplingParams(temperature=0.0, max_new_tokens=10)
    list(engine.generate(LONGEST, params))
    longer = [*engine.token_ids, 1, 2, 3]
    done = next(e for e in engine.generate(longer, params) if isinstance(e, PrefillDone))
    assert done.cached_tokens == len(longer) - 3 - 1


@pytest.mark.parametrize("asked", range(1 + len(LONGEST) // ROWS))
def test_a_cancel_while_the_prompt_is_read_emits_nothing(asked: int) -> None:
    target, draft = TableModel(11, 1), TableModel(11, 2)
    engine = make_engine(target, draft, GrowMap.chain(3))
    call = Call(LONGEST, TreeChoice(), SamplingParams(temperature=0.0), asked, None)
    events = call.run(engine)
    assert finish_of(events).reason is FinishReason.CANCELLED
    assert not tokens_of(events)
    assert target.caches[0].length == min(asked * ROWS, len(LONGEST) - 1)
    check_laws(events)


@pytest.mark.parametrize("steps", [1, 2, 3])
def test_a_cancel_between_steps_keeps_what_was_said(steps: int) -> None:
    engine = make_engine(TableModel(11, 1), TableModel(11, 1), GrowMap.chain(3))
    seen: list[Event] = []
    params = SamplingParams(temperature=0.0)
    for event in engine.generate(
        [1, 2], params, lambda: sum(isinstance(each, Step) for each in seen) >= steps
    ):
        seen.append(event)
    assert finish_of(seen).reason is FinishReason.CANCELLED
    assert finish_of(seen).totals.steps == steps
    assert list(engine.token_ids) == [1, 2, *tokens_of(seen)]


class Failing(TableModel):
    """Breaks off in the middle of a forward, after having written to its cache."""

    fail = False

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        parents: Tensor | None = None,
    ) -> Tensor:
        logits = super().forward(token_ids, position_ids, mask, cache, parents)
        if self.fail:
            raise KeyboardInterrupt
        return logits


@pytest.mark.parametrize("breaks", ["target", "draft"])
def test_a_step_that_breaks_off_leaves_nothing_behind(breaks: str) -> None:
    target, draft = Failing(11, 1), Failing(11, 2)
    engine = make_engine(target, draft, GrowMap.k_ary([2, 2]))
    params = SamplingParams(temperature=0.0, max_new_tokens=12)
    model = target if breaks == "target" else draft
    answer = engine.generate([1, 2, 3], params)
    next(event for event in answer if isinstance(event, Step))
    model.fail = True
    with pytest.raises(KeyboardInterrupt):
        next(answer)
    model.fail = False
    check_caches(engine, target, draft)
    fresh = make_engine(TableModel(11, 1), TableModel(11, 2), GrowMap.k_ary([2, 2]))
    assert tokens_of(list(engine.generate([1, 2, 3], params))) == tokens_of(
        list(fresh.generate([1, 2, 3], params))
    )


def test_a_seed_repeats_an_answer_and_no_seed_does_not() -> None:
    engine = make_engine(TableModel(11, 1, scale=0.5), TableModel(11, 2, scale=0.5), TREES[1])

    def answer(seed: int | None) -> tuple[int, ...]:
        params = SamplingParams(temperature=1.0, seed=seed, max_new_tokens=30)
        return tuple(tokens_of(list(engine.generate([1, 2], params))))

    assert answer(4) == answer(4)
    assert answer(4) != answer(5)
    assert answer(None) != answer(None)  # the same by chance: once in 10**20


@given(calls=st.lists(CALLS, min_size=2, max_size=3))
@settings(max_examples=15, deadline=None)
def test_a_llama_goes_on_from_kept_keys_and_values_as_from_fresh_ones(calls: list[Call]) -> None:
    target, draft = (
        tiny_llama(1, vocab_size=11, head_vocab_size=11),
        tiny_llama(1, vocab_size=11, head_vocab_size=11, num_layers=1),
    )
    engine = make_engine(target, draft)
    for call in calls:
        events = call.run(engine)
        alone = Call(call.prompt, call.choice, call.params, None, None)
        expected = tokens_of(alone.run(make_engine(target, draft)))
        assert tokens_of(events) == expected[: len(tokens_of(events))]
