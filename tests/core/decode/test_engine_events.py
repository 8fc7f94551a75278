"""What the events say: order, outcomes, arithmetic, and what was chosen."""

import itertools
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.events import (
    Notice,
    Outcome,
    PrefillDone,
    PrefillProgress,
    Step,
    TreeChosen,
)
from sequoia_core.files import Record
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
from tests.core.models import PlainCodec, TableModel

PROMPT = [3, 1, 4, 1, 5]


def check_step(step: Step, params: SamplingParams) -> None:
    """A step's nodes, path, trials and verdicts tell one story."""
    nodes, path = step.nodes, step.path
    assert path[0] == 0
    assert all(nodes[node].parent == above for above, node in itertools.pairwise(path))
    children = {node: [at for at, each in enumerate(nodes) if each.parent == node] for node in path}
    tried: set[int] = set()
    for node, below in zip(path, (*path[1:], None), strict=True):
        for child in children[node]:
            tried.add(child)
            if child == below:
                break
    for at, each in enumerate(nodes):
        expected = (
            Outcome.ACCEPTED if at in path
            else Outcome.REJECTED if at in tried
            else Outcome.NOT_REACHED
        )  # fmt: skip
        assert each.outcome is expected
        assert (each.accept_prob is not None) == (at in tried)
        assert (each.draw is not None) == (at in tried and params.temperature > 0)
        if each.draw is not None and each.accept_prob is not None:
            assert (each.draw < each.accept_prob) == (at in path)
        elif each.accept_prob is not None:
            assert each.accept_prob == float(at in path)
    emitted = [nodes[node].token_id for node in path[1:]] + [step.bonus_token_id]
    assert list(step.token_ids) == emitted[: len(step.token_ids)]
    assert step.accepted == len(path) - 1


@given(
    parents=st.lists(st.integers(0, 30), max_size=9),
    seed=st.integers(0, 1000),
    temperature=st.sampled_from([0.0, 0.7]),
    top_p=st.sampled_from([1.0, 0.8]),
)
@settings(max_examples=60, deadline=None)
def test_events_agree_with_each_other(
    parents: list[int], seed: int, temperature: float, top_p: float
) -> None:
    target = TableModel(11, seed)
    draft = TableModel(11, seed + seed % 2, scale=0.8)
    growmap = tree_of(parents)
    params = SamplingParams(temperature, top_p=top_p, seed=seed, max_new_tokens=20)
    engine = make_engine(target, draft, growmap)
    events = []
    for event in engine.generate(PROMPT, params):
        events.append(event)
        check_caches(engine, target, draft)
    check_laws(events)
    assert text_of(events) == PlainCodec().decode(tokens_of(events))
    for step in steps_of(events):
        check_step(step, params)
        assert [node.parent for node in step.nodes] == list(growmap.parents)
        assert [node.rank for node in step.nodes] == list(growmap.ranks)
        assert step.bonus_text == PlainCodec().token_text(step.bonus_token_id)


@given(seed=st.integers(0, 1000), temperature=st.sampled_from([0.0, 0.7]))
@settings(max_examples=20, deadline=None)
def test_the_probabilities_shown_are_the_models_own(seed: int, temperature: float) -> None:
    target, draft = TableModel(11, seed), TableModel(11, seed + 1)
    params = SamplingParams(temperature, seed=seed, max_new_tokens=12)
    engine = make_engine(target, draft, GrowMap((-1, 0, 0, 1, 1, 3)))
    context = list(PROMPT)
    for step in steps_of(list(engine.generate(PROMPT, params))):
        sequences = {0: context}
        for at, node in enumerate(step.nodes[1:], start=1):
            before = sequences[node.parent]
            sequences[at] = [*before, node.token_id]
            for model, shown in ((target, node.target_prob), (draft, node.draft_prob)):
                probs = (model.logits_after(before) / (temperature or 1.0)).softmax(-1)
                assert shown == pytest.approx(float(probs[node.token_id]), abs=1e-5)
        last = sequences[step.path[-1]]
        probs = (target.logits_after(last) / (temperature or 1.0)).softmax(-1)
        assert step.bonus_prob == pytest.approx(float(probs[step.bonus_token_id]), abs=1e-5)
        assert step.nodes[0].token_id == context[-1]
        context += step.token_ids


@pytest.mark.parametrize("mode", list(Mode))
def test_times_add_up_and_the_speedup_is_their_quotient(mode: Mode) -> None:
    engine = make_engine(TableModel(11, 1), TableModel(11, 1), GrowMap.chain(3), mode)
    params = SamplingParams(temperature=0.0, max_new_tokens=12)
    events = list(engine.generate(PROMPT, params))
    steps, totals = steps_of(events), finish_of(events).totals
    for step in steps:
        times = step.timings
        assert min(times.draft_ms, times.verify_ms, times.bookkeeping_ms, step.plain_ms) >= 0
        assert times.total_ms == pytest.approx(
            times.draft_ms + times.verify_ms + times.bookkeeping_ms
        )
        share = min(step.plain_ms / times.total_ms, 1.0)
        assert step.speedup == pytest.approx(len(step.token_ids) * share)
        assert (times.draft_ms > 0) == (mode is not Mode.AR)
        if mode is Mode.AR:
            assert step.speedup == pytest.approx(1.0)
    assert totals.seconds == pytest.approx(sum(step.timings.total_ms for step in steps) / 1e3)
    plain_ms = sum(len(step.token_ids) * step.plain_ms for step in steps)
    assert totals.plain_seconds == pytest.approx(plain_ms / 1e3)
    assert totals.tokens_per_step == totals.tokens / totals.steps
    measured, most = totals.plain_seconds / totals.seconds, totals.tokens / totals.steps
    assert totals.speedup == pytest.approx(min(measured, most))


class Listening(TableModel):
    """Writes down what it is asked, in order."""

    def __init__(self, name: str, calls: list[str]) -> None:
        super().__init__(11, 1)
        self._name, self._calls = name, calls

    def extend(self, *args: object) -> None:
        self._calls.append(f"{self._name} reads")
        super().extend(*args)  # type: ignore[arg-type]


def test_reading_the_prompt_is_no_part_of_a_step_for_either_model() -> None:
    calls: list[str] = []
    engine = make_engine(Listening("target", calls), Listening("draft", calls), GrowMap.chain(2))
    prompt = [1, 2] * 60
    for event in engine.generate(prompt, SamplingParams(temperature=0.0, max_new_tokens=8)):
        calls.append(type(event).__name__)
    until = calls.index("PrefillDone")
    assert calls[:until] == ["TreeChosen", "PrefillProgress", "target reads", "draft reads"]
    assert not any("reads" in call for call in calls[until:])


def test_a_long_prompt_reports_its_progress() -> None:
    engine = make_engine(TableModel(11, 1, window=2048), TableModel(11, 1, window=2048))
    rows = TableModel.prompt_rows
    prompt = [1, 2, 3] * rows
    events = list(engine.generate(prompt, SamplingParams(temperature=0.0, max_new_tokens=1)))
    done = [event.done for event in events if isinstance(event, PrefillProgress)]
    assert done == [0, rows, 2 * rows]
    assert {event.total for event in events if isinstance(event, PrefillProgress)} == {
        len(prompt) - 1
    }
    finished = next(event for event in events if isinstance(event, PrefillDone))
    assert (finished.prompt_tokens, finished.cached_tokens) == (len(prompt), 0)


@pytest.mark.parametrize("mode", list(Mode))
def test_a_target_without_a_draft_decodes_plainly_and_says_so(mode: Mode) -> None:
    target = TableModel(11, 1)
    engine = make_engine(target, None, GrowMap.chain(3), mode)
    events = list(engine.generate(PROMPT, SamplingParams(temperature=0.0, max_new_tokens=9)))
    chosen = events[0]
    assert isinstance(chosen, TreeChosen)
    assert (chosen.mode, chosen.nodes, chosen.depth) == ("ar", 1, 0)
    assert ("no draft" in chosen.reason) == (mode is not Mode.AR)
    assert all(len(step.nodes) == 1 for step in steps_of(events))
    check_laws(events)


def test_a_target_without_a_draft_that_looks_up_is_not_called_plain() -> None:
    engine = make_engine(TableModel(11, 1), None, GrowMap.chain(3))
    engine.tree_choice = TreeChoice(lookup=Lookup.AUTO)
    events = list(engine.generate(PROMPT, SamplingParams(temperature=0.0, max_new_tokens=4)))
    said = [each.reason for each in events if isinstance(each, TreeChosen)]
    said += [each.message for each in events if isinstance(each, Notice)]
    assert said == ["this target has no draft: prompt lookup alone guesses tokens"] * 2


def test_the_chosen_tree_is_the_one_that_is_drawn() -> None:
    growmap = GrowMap((-1, 0, 0, 1), name="mine", acceptance_rates=(0.5, 0.25))
    engine = make_engine(TableModel(11, 1), TableModel(11, 2), growmap)
    events = list(engine.generate(PROMPT, SamplingParams(temperature=0.0, max_new_tokens=9)))
    chosen = events[0]
    assert isinstance(chosen, TreeChosen)
    assert (chosen.growmap, chosen.nodes, chosen.depth) == ("mine", 4, 2)
    assert chosen.expected_tokens == 1 + 0.5 + 0.25 + 0.25
    assert chosen.expected_by_depth == (0.75, 0.25)
    assert {len(step.nodes) for step in steps_of(events)} == {4}


def test_events_hold_plain_values_only() -> None:
    engine = make_engine(TableModel(11, 1), TableModel(11, 2), GrowMap.k_ary([2, 1]))

    def check(value: object) -> None:
        if isinstance(value, Record):
            for each in astuple(value):
                check(each)
        elif isinstance(value, tuple):
            for each in value:
                check(each)
        else:
            assert value is None or isinstance(value, int | float | str), type(value)
            assert not isinstance(value, float) or math.isfinite(value)

    for event in engine.generate(PROMPT, SamplingParams(seed=1, max_new_tokens=9)):
        check(event)
