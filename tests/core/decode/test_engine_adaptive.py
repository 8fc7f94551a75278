"""The engine with trees that are new each step: its events, its caches, what it says of itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode.step import Sampler, Speculator
from sequoia_core.decode.token_cache import TokenCache
from sequoia_core.errors import GrowMapError
from sequoia_core.events import (
    FinishReason,
    Notice,
    NoticeKind,
    Origin,
    Outcome,
    Step,
    TreeChosen,
)
from sequoia_core.speculate.adaptive_policy import IDLE_STEPS
from sequoia_core.speculate.baseline_timer import BaselineTimer
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import ROOT, AdaptiveTree, TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.decode.test_engine_events import check_step
from tests.core.decode.test_engine_reuse import LONGEST, Call
from tests.core.engines import (
    check_caches,
    check_laws,
    finish_of,
    make_engine,
    steps_of,
    tokens_of,
)
from tests.core.models import ScriptModel, TableModel

PROMPT = [3, 1, 4, 1, 5, 3, 1]
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=40)
CHOICES = st.builds(
    TreeChoice,
    mode=st.sampled_from([Mode.SEQUOIA, Mode.GREEDY, Mode.CHAIN]),
    adaptive=st.just(True),
    lookup=st.sampled_from(Lookup),
) | st.builds(
    TreeChoice,
    growmap=st.sampled_from([GrowMap.chain(3), GrowMap((-1, 0, 0, 1, 3)), ROOT]),
    lookup=st.sampled_from(Lookup),
)
CALLS = st.builds(
    Call,
    prompt=st.builds(
        lambda shared, own: (*LONGEST[:shared], *own),
        st.integers(1, len(LONGEST)),
        st.lists(st.integers(0, 10), max_size=4),
    ),
    choice=CHOICES,
    params=st.builds(SamplingParams, st.just(0.0), max_new_tokens=st.integers(1, 12)),
    cancel_after=st.none() | st.integers(0, 9),
    close_after=st.none() | st.integers(1, 9),
)


@given(calls=st.lists(CALLS, min_size=2, max_size=5), model=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_whatever_was_learnt_and_rolled_back_the_next_answer_is_that_of_a_fresh_engine(
    calls: list[Call], model: int
) -> None:
    target, draft = TableModel(11, model, order=2), TableModel(11, model + model % 2, order=2)
    engine = make_engine(target, draft, eos=[10])
    for call in calls:
        events = call.run(engine)
        check_caches(engine, target, draft)
        fresh = make_engine(TableModel(11, model, order=2), None, eos=[10])
        alone = Call(call.prompt, TreeChoice(Mode.AR), call.params, None, None).run(fresh)
        emitted = tokens_of(events)
        assert emitted == tokens_of(alone)[: len(emitted)]
        if call.whole:
            assert emitted == tokens_of(alone)
            check_laws(events)


@given(choice=CHOICES, seed=st.integers(0, 1000), temperature=st.sampled_from([0.0, 0.7]))
@settings(max_examples=60, deadline=None)
def test_events_agree_with_each_other(choice: TreeChoice, seed: int, temperature: float) -> None:
    target, draft = TableModel(11, seed, order=2), TableModel(11, seed + seed % 2, order=2)
    params = SamplingParams(temperature, seed=seed, max_new_tokens=20)
    engine = make_engine(target, draft)
    engine.tree_choice = choice
    events = []
    for event in engine.generate(PROMPT, params):
        events.append(event)
        check_caches(engine, target, draft)
    check_laws(events)
    chosen = events[0]
    assert isinstance(chosen, TreeChosen)
    judged = GREEDY if choice.mode is Mode.GREEDY else params
    for step in steps_of(events):
        check_step(step, judged)
        looked_up = [node for node in step.nodes if node.origin is Origin.LOOKUP]
        assert not looked_up or chosen.lookup != "off"
        assert all((node.draft_prob is None) == (node in looked_up) for node in step.nodes[1:])
        if choice.adaptive:
            assert len(step.nodes) <= chosen.nodes
        if choice.mode is Mode.CHAIN:
            assert all(node.rank <= 1 for node in step.nodes)


def test_an_adaptive_tree_says_its_bounds_and_a_chain_is_one() -> None:
    engine = make_engine(TableModel(11, 1), TableModel(11, 1))
    engine.tree_choice = TreeChoice(adaptive=True, lookup=Lookup.AUTO)
    chosen = next(iter(engine.generate(PROMPT, GREEDY)))
    assert isinstance(chosen, TreeChosen)
    bounds = AdaptiveTree()
    assert (chosen.growmap, chosen.nodes, chosen.depth) == ("adaptive", bounds.size, bounds.depth)
    assert chosen.lookup == "auto"
    assert "not fitted" in chosen.reason
    with pytest.raises(GrowMapError, match="fixed shape, adaptive or dynamic"):
        TreeChoice(growmap=ROOT, adaptive=True)


class Dear(BundledAdvisor):
    """Knows a machine on which every row of the target costs as much as a plain step."""

    def costs(self, temperature: float, context_length: int) -> StepCosts | None:
        return StepCosts(lambda rows: 50.0 * rows, lambda rows: 1.0, 0.0, 50.0)


def test_measured_times_set_the_prices() -> None:
    engine = make_engine(TableModel(11, 1), TableModel(11, 1))
    engine.tree_choice = TreeChoice(adaptive=True)
    engine.advisor = Dear({})
    steps = steps_of(list(engine.generate(PROMPT, GREEDY)))
    assert sum(len(step.nodes) > 1 for step in steps) <= 1 + len(steps) // IDLE_STEPS


def test_that_no_tree_pays_is_said_once() -> None:
    engine = make_engine(TableModel(11, 1), TableModel(11, 1))
    engine.tree_choice = TreeChoice(adaptive=True)
    engine.advisor = Dear({})
    params = SamplingParams(temperature=0.0, max_new_tokens=2 * IDLE_STEPS)
    first, second = (list(engine.generate(PROMPT, params)) for _ in range(2))
    said = [event.kind for event in first if isinstance(event, Notice)]
    assert said == [NoticeKind.PLAIN_DECODING]
    assert not any(isinstance(event, Notice) for event in second)
    engine.tree_choice = TreeChoice(Mode.GREEDY, adaptive=True)
    assert any(isinstance(event, Notice) for event in engine.generate(PROMPT, params))
    engine = make_engine(TableModel(11, 1), TableModel(11, 1))  # where a tree pays
    engine.tree_choice = TreeChoice(adaptive=True)
    assert not any(isinstance(event, Notice) for event in engine.generate(PROMPT, params))


LOOP = [2, 5, 7, 1, 8, 3]


def test_an_accepted_continuation_leaves_the_draft_to_catch_up() -> None:
    target, draft = ScriptModel(LOOP), TableModel(12, 5)
    cache = TokenCache(target, draft)
    speculator = Speculator(target, DraftModel(draft), cache)
    sampler = Sampler.of(GREEDY, target.device)
    cache.start([*LOOP, *LOOP, 2])
    list(cache.read_prompt())
    for _ in range(3):
        before = len(cache.token_ids)
        scored, verdict = speculator.step(GrowMap.k_ary([2]), sampler, Lookup.ON)
        tokens = scored.emitted(verdict.path, verdict.bonus_token)
        speculator.commit(scored, verdict.path, tokens)
        assert len(tokens) > 10
        assert set(verdict.path[1:]) & scored.tree.appended
        assert cache.draft_cache is not None
        # of what was accepted, the draft has read the root and what it drew itself
        assert cache.draft_cache.length in (before, before + 1)
        held = list(zip(cache.token_ids, range(len(cache.token_ids)), strict=True))
        assert draft.caches[0].rows == held[: cache.draft_cache.length]
        assert cache.draft_pending == cache.token_ids[cache.draft_cache.length :]


def test_an_end_inside_a_continuation_ends_the_answer_there() -> None:
    prompt = [*LOOP, *LOOP, 2, 5]
    engine = make_engine(ScriptModel(LOOP), None, eos=[8])
    engine.tree_choice = TreeChoice(lookup=Lookup.ON)
    events = list(engine.generate(prompt, GREEDY))
    assert tokens_of(events) == [7, 1, 8]
    assert finish_of(events).reason is FinishReason.STOP
    (step,) = steps_of(events)
    looked_up = [node for node in step.nodes if node.origin is Origin.LOOKUP]
    assert [node.token_id for node in looked_up] == [7, 1, 8]
    assert all(node.outcome is Outcome.ACCEPTED for node in looked_up)
    assert engine.token_ids == (*prompt, 7, 1, 8)


def test_a_step_that_nothing_was_found_for_counts_as_plain_and_others_are_timed_against_it() -> (
    None
):
    engine = make_engine(ScriptModel(LOOP), None)
    engine.tree_choice, engine.clock = TreeChoice(lookup=Lookup.ON), BaselineTimer()
    steps = steps_of(list(engine.generate([2], GREEDY)))
    plain = [step for step in steps if len(step.nodes) == 1]
    looked_up = [step for step in steps if len(step.nodes) > 1]
    assert all(step.plain_source == "this step itself decodes plainly" for step in plain)
    assert all("plain step" in step.plain_source for step in looked_up)
    assert len(plain) >= len(LOOP)
    assert max(len(step.token_ids) for step in looked_up) > len(LOOP)


def test_a_seedless_caller_may_switch_looking_up_between_answers() -> None:
    engine = make_engine(ScriptModel(LOOP), TableModel(12, 1))
    seen = []
    for lookup in (Lookup.ON, Lookup.OFF, Lookup.ON):
        engine.tree_choice = TreeChoice(adaptive=True, lookup=lookup)
        events = list(engine.generate([*LOOP, *LOOP], GREEDY))
        seen.append(any(
            node.origin is Origin.LOOKUP for step in steps_of(events) for node in step.nodes
        ))  # fmt: skip
        assert isinstance(events[-2], Step)
    assert seen == [True, False, True]
