"""The tree may change between any two steps: the tokens stay the target's, every change is told."""

import itertools
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode.engine import Engine
from sequoia_core.decode.step import MOST_PENDING
from sequoia_core.events import Event, Notice, Origin, Step, TreeChosen
from sequoia_core.speculate.tree_advisor import TRYING, Advice, TreeAdvisor
from sequoia_core.tree.choice import ROOT, TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import check_caches, check_laws, make_engine, steps_of, tokens_of, tree_of
from tests.core.models import ScriptModel, TableModel

VOCAB = 7
PROMPT = [1, 2, 3]


class Restless(TreeAdvisor):
    """Advises another tree after every so many steps, and remembers what it was shown."""

    def __init__(self, trees: Sequence[GrowMap], every: int = 1) -> None:
        self.trees = itertools.cycle(trees)
        self._every = every
        self.seen: list[tuple[Step, float, bool]] = []
        self.timed: list[tuple[Step, float]] = []

    def advise(self, temperature: float, context_length: int, chain: bool) -> Advice:
        return self._next()

    def observe(self, step: Step, temperature: float, chain: bool) -> Advice | None:
        self.seen.append((step, temperature, chain))
        return self._next() if len(self.seen) % self._every == 0 else None

    def time(self, step: Step, temperature: float) -> None:
        self.timed.append((step, temperature))

    def _next(self) -> Advice:
        tree = next(self.trees)
        return Advice(tree if tree.size > 1 else None, (), None, f"{tree.size} nodes")


def engine_of(
    advisor: Restless, target: TableModel, draft: TableModel, choice: TreeChoice | None = None
) -> Engine:
    made = make_engine(target, draft)
    made.advisor, made.tree_choice = advisor, choice or TreeChoice()
    return made


def answer(engine: Engine, tokens: int, temperature: float = 0.0) -> list[Event]:
    params = SamplingParams(temperature, seed=4, max_new_tokens=tokens)
    return list(engine.generate(PROMPT, params))


TREES = st.lists(st.lists(st.integers(0, 9), max_size=8).map(tree_of), min_size=1, max_size=4)


@given(trees=TREES, every=st.integers(1, 5), seed=st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_whatever_tree_comes_next_the_tokens_are_plain_decodings(
    trees: list[GrowMap], every: int, seed: int
) -> None:
    target, draft = TableModel(VOCAB, seed, order=2), TableModel(VOCAB, seed + 1, order=2)
    advisor = Restless([tree for tree in trees if tree.branching <= VOCAB] or [ROOT], every)
    engine = engine_of(advisor, target, draft)
    events = answer(engine, 30)
    plain = engine_of(Restless([ROOT]), target, draft, TreeChoice(Mode.AR))
    assert tokens_of(events) == tokens_of(answer(plain, 30))
    check_laws(events)
    check_caches(engine, target, draft)


def test_after_many_plain_steps_a_tree_finds_the_draft_up_to_date() -> None:
    target, draft = TableModel(VOCAB, 1, order=2), TableModel(VOCAB, 1, order=2)
    engine = engine_of(Restless([ROOT, GrowMap.chain(3)], 2 * MOST_PENDING), target, draft)
    events = answer(engine, 4 * MOST_PENDING)
    trees = [step for step in steps_of(events) if len(step.nodes) > 1]
    assert all(step.accepted == 3 for step in trees[:-1])  # the draft is the target
    assert trees
    check_caches(engine, target, draft)


def test_every_change_is_told_before_the_first_step_with_it() -> None:
    target, draft = TableModel(VOCAB, 1), TableModel(VOCAB, 2)
    events = answer(
        engine_of(Restless([GrowMap.chain(2), GrowMap.k_ary([3])], 3), target, draft), 60
    )
    nodes = 0
    for event in events:
        if isinstance(event, TreeChosen):
            nodes = event.nodes
            assert event.reason == f"{nodes} nodes"
        elif isinstance(event, Step):
            assert len(event.nodes) == nodes
    assert sum(isinstance(event, TreeChosen) for event in events) > 3


@pytest.mark.parametrize(
    "choice", [TreeChoice(growmap=GrowMap.chain(2)), TreeChoice(Mode.AR)], ids=["named", "ar"]
)
def test_what_a_person_chose_stays(choice: TreeChoice) -> None:
    advisor = Restless([GrowMap.k_ary([4])])
    events = answer(engine_of(advisor, TableModel(VOCAB, 1), TableModel(VOCAB, 2), choice), 20)
    assert sum(isinstance(event, TreeChosen) for event in events) == 1
    named = choice.mode is not Mode.AR
    assert [step for step, _, _ in advisor.seen] == (steps_of(events) if named else [])


@pytest.mark.parametrize(("mode", "temperature"), [(Mode.GREEDY, 0.0), (Mode.CHAIN, 0.7)])
def test_the_advisor_sees_every_step_and_how_it_was_decoded(mode: Mode, temperature: float) -> None:
    advisor = Restless([GrowMap.chain(2)], every=1000)
    engine = engine_of(advisor, TableModel(VOCAB, 1), TableModel(VOCAB, 2), TreeChoice(mode))
    events = answer(engine, 20, 0.7)
    expected = [(step, temperature, mode is Mode.CHAIN) for step in steps_of(events)]
    assert advisor.seen == expected


def test_the_advisor_also_sees_steps_that_looked_something_up() -> None:
    loop = [2, 5, 7, 1, 8, 3]
    advisor = Restless([GrowMap.chain(2)], every=1000)
    engine = engine_of(advisor, ScriptModel(loop), TableModel(12, 2), TreeChoice(lookup=Lookup.ON))
    events = answer(engine, 60)
    origins = {node.origin for step, _, _ in advisor.seen for node in step.nodes}
    assert Origin.LOOKUP in origins
    assert [step for step, _, _ in advisor.seen] == steps_of(events)


def told(engine: Engine) -> int:
    return sum(isinstance(event, Notice) for event in answer(engine, 3))


def test_decoding_plainly_is_told_once_whatever_its_figures() -> None:
    """A trial is part of it; after a tree that was decoded with it is news again."""

    class Numbered(Restless):
        trying = False

        def _next(self) -> Advice:
            advice = super()._next()
            reason = TRYING if self.trying else f"predicted {len(self.seen)}x"
            return replace(advice, reason=reason)

    advisor = Numbered([ROOT], every=1000)
    engine = engine_of(advisor, TableModel(VOCAB, 1), TableModel(VOCAB, 2))
    assert [told(engine) for _ in range(3)] == [1, 0, 0]
    for trying, expected in ((True, 0), (False, 1)):
        advisor.trees, advisor.trying = itertools.cycle([GrowMap.chain(2)]), trying
        assert told(engine) == 0
        advisor.trees, advisor.trying = itertools.cycle([ROOT]), False
        assert [told(engine) for _ in range(2)] == [expected, 0]
    engine.tree_choice = TreeChoice(Mode.CHAIN)
    assert [told(engine) for _ in range(2)] == [1, 0]


def test_at_the_end_of_the_window_no_advice_brings_a_tree_back() -> None:
    target, draft = TableModel(VOCAB, 1, window=40), TableModel(VOCAB, 2, window=40)
    advisor = Restless([GrowMap.chain(9)])
    events = answer(engine_of(advisor, target, draft), 100)
    notices = [event for event in events if isinstance(event, Notice)]
    assert len(notices) == 1
    last = next(at for at, event in enumerate(events) if isinstance(event, Notice))
    assert all(len(step.nodes) == 1 for step in steps_of(events[last:]))
    assert len(tokens_of(events)) == 40 - len(PROMPT)


@pytest.mark.parametrize(
    ("choice", "temperature"),
    [
        (TreeChoice(adaptive=True), 0.0),
        (TreeChoice(Mode.TOPK), 0.7),
        (TreeChoice(Mode.SPECINFER), 0.7),
    ],
    ids=["adaptive", "topk", "specinfer"],
)
def test_of_trees_with_other_children_the_advisor_learns_times_alone(
    choice: TreeChoice, temperature: float
) -> None:
    advisor = Restless([GrowMap.chain(2)], every=1000)
    engine = engine_of(advisor, TableModel(VOCAB, 1), TableModel(VOCAB, 2), choice)
    events = answer(engine, 20, temperature)
    assert advisor.seen == []
    assert advisor.timed == [(step, temperature) for step in steps_of(events)]


@pytest.mark.parametrize("mode", [Mode.TOPK, Mode.SPECINFER])
def test_nothing_is_expected_of_children_that_were_never_counted(mode: Mode) -> None:
    class Sure(Restless):
        def _next(self) -> Advice:
            return replace(super()._next(), rates=(0.5, 0.2), predicted_speedup=1.3)

    def expected(temperature: float) -> tuple[float | None, float | None]:
        advisor = Sure([GrowMap.chain(2)], every=1000)
        engine = engine_of(advisor, TableModel(VOCAB, 1), TableModel(VOCAB, 2), TreeChoice(mode))
        chosen = answer(engine, 3, temperature)[0]
        assert isinstance(chosen, TreeChosen)
        return chosen.expected_tokens, chosen.predicted_speedup

    assert expected(0.7) == (None, None)
    assert expected(0.0) == (1.75, 1.3)  # greedy children, whatever the mode
