"""A race is fair, at temperature 0 decides nothing about the text, and leaves the chat alone."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from sequoia_core.chat import race as race_module
from sequoia_core.chat.conversation import Conversation
from sequoia_core.chat.race import (
    PLAIN,
    PLAIN_AND_CHOSEN,
    Lane,
    LaneClock,
    Race,
    Raced,
    RaceEvent,
    RaceSide,
    RaceTerms,
    take_turns,
)
from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.events import (
    Event,
    Finished,
    FinishReason,
    PrefillDone,
    PrefillProgress,
    Step,
    StepTimings,
    Totals,
    TreeChosen,
)
from sequoia_core.model.loading.pair import load_pair
from sequoia_core.speculate.baseline_timer import UNKNOWN
from sequoia_core.text.chat_template import Turn
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.chat.test_conversation import Chat, done_of
from tests.core.checkpoints import save_model, tiny_tokenizer
from tests.core.engines import steps_of, text_of, tokens_of
from tests.core.tiny_tokenizers import byte_level
from tests.fakes import make_step

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=40)
LONG = ("the tree then he three tee the one and the other", "he, then the\nthree", "tee")


@dataclass
class Clock:
    """Goes on only when a lane works."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Course:
    """What a lane will do: parts of the prompt, then steps, and how long each takes."""

    reading: list[float]
    steps: list[float]
    taken: list[float] = field(default_factory=list)

    def events(self, clock: Clock) -> Iterator[Event]:
        for seconds in self.reading:
            clock.now += seconds
            yield PrefillProgress(1, 2)
        yield PrefillDone(2, 0, 0.0)
        for index, seconds in enumerate(self.steps, 1):
            clock.now += seconds
            self.taken.append(seconds)
            yield make_step(index, "a", [("b", 0)], parents=(-1,))
        yield Finished(FinishReason.STOP, Totals())


TIMES = st.lists(st.integers(1, 50).map(float), max_size=12)
COURSES = st.builds(Course, reading=TIMES, steps=TIMES)


@given(first=COURSES, second=COURSES, thinking=st.integers(0, 9))
def test_both_have_had_the_same_time_whenever_one_has_a_step(
    first: Course, second: Course, thinking: int
) -> None:
    clock = Clock()
    courses = {Lane.FIRST: first, Lane.SECOND: second}
    over: set[Lane] = set()
    stood = dict.fromkeys(Lane, 0.0)
    seen: dict[Lane, list[Event]] = {lane: [] for lane in Lane}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(race_module, "perf_counter", clock)
        for raced in take_turns({lane: course.events(clock) for lane, course in courses.items()}):
            seen[raced.lane].append(raced.event)
            if isinstance(raced.event, Step):
                other = raced.lane.other
                assert other in over or stood[raced.lane] <= stood[other]
                assert any(isinstance(event, PrefillDone) for event in seen[other])
            assert raced.seconds == sum(courses[raced.lane].taken)  # its own steps, nothing else
            stood[raced.lane] = raced.seconds
            over |= {raced.lane} if isinstance(raced.event, Finished) else set()
            clock.now += thinking  # whoever looks on takes time, too
    for lane, course in courses.items():
        assert seen[lane] == list(Course(course.reading, course.steps).events(Clock()))


def test_the_time_of_plain_steps_is_that_of_the_other_lane() -> None:
    clock = LaneClock()
    assert clock.plain_time(100, 30.0) == (30.0, UNKNOWN)
    assert not any(clock.due(index, GREEDY) for index in range(1, 100))
    for verify in (5.0, 9.0, 7.0):
        step = make_step(1, "a", [("b", 0)], parents=(-1,))
        clock.note(replace(step, timings=StepTimings(0.0, verify, 1.0)))
    milliseconds, source = clock.plain_time(100, 6.0)
    assert milliseconds == pytest.approx(8.0)
    assert "3 steps" in source


def never() -> bool:
    return False


def silent(message: str, fraction: float | None) -> None:
    pass


def asking(prompt: str, params: SamplingParams = GREEDY) -> Race:
    return Race(PLAIN_AND_CHOSEN, (), prompt, params)


def run(
    chat: Chat,
    prompt: str,
    params: SamplingParams = GREEDY,
    turns: Sequence[Turn] = (),
    sides: tuple[RaceSide, RaceSide] = PLAIN_AND_CHOSEN,
) -> tuple[RaceTerms, dict[Lane, list[Event]]]:
    terms, *events = list(chat.talk.race(Race(sides, tuple(turns), prompt, params), never, silent))
    assert isinstance(terms, RaceTerms)
    lanes: dict[Lane, list[Event]] = {lane: [] for lane in Lane}
    for each in events:
        assert isinstance(each, Raced)
        lanes[each.lane].append(each.event)
    return terms, lanes


@pytest.mark.parametrize("tree", [GrowMap.chain(3), GrowMap.k_ary([3, 2, 1])])
def test_at_temperature_0_both_texts_are_what_the_chat_itself_answers(tree: GrowMap) -> None:
    chat = Chat(byte_level(), answers=LONG)
    chat.talk.choose_tree(TreeChoice(growmap=tree))
    terms, lanes = run(chat, "the?")
    assert terms.must_agree
    answered = chat.say("the?")
    for events in lanes.values():
        assert tokens_of(events) == tokens_of(answered)
        assert text_of(events) == text_of(answered)
    plain, trees = lanes[Lane.FIRST], lanes[Lane.SECOND]
    assert all(len(step.nodes) == 1 for step in steps_of(plain))
    assert all(len(step.nodes) == tree.size for step in steps_of(trees)[:2])
    assert not any(step.baseline for step in steps_of(trees))
    assert len(steps_of(trees)) < len(steps_of(plain))
    assert all("plain lane" in step.plain_source for step in steps_of(trees)[1:])


SIDES = {
    "wide": RaceSide("wide", TreeChoice(growmap=GrowMap.k_ary([3, 2]))),
    "deep": RaceSide("deep", TreeChoice(growmap=GrowMap.chain(5))),
    "specinfer": RaceSide("specinfer", TreeChoice(Mode.SPECINFER, GrowMap.k_ary([2, 2]))),
    "topk": RaceSide("topk", TreeChoice(Mode.TOPK, GrowMap.k_ary([2, 1]))),
    "lookup": RaceSide("lookup", TreeChoice(growmap=GrowMap.chain(2), lookup=Lookup.ON)),
    "chosen": RaceSide("chosen"),
    "plain": PLAIN,
}


@pytest.mark.parametrize("names", [each for each in permutations(SIDES, 2) if "wide" in each])
def test_any_two_sides_give_the_chats_text_at_temperature_0(names: tuple[str, str]) -> None:
    chat = Chat(byte_level(), answers=LONG)
    first, second = (SIDES[name] for name in names)
    terms, lanes = run(chat, "the?", sides=(first, second))
    assert terms.must_agree
    answered = chat.say("the?")
    for side, events in zip((first, second), lanes.values(), strict=True):
        choice = side.choice or chat.talk.tree_choice
        (chosen,) = [each for each in events if isinstance(each, TreeChosen)]
        assert chosen.mode == choice.mode.value
        assert chosen.nodes == (choice.growmap.size if choice.growmap else 1)
        assert tokens_of(events) == tokens_of(answered)
        # only a plain lane says what a plain step takes
        sources = {step.plain_source for step in steps_of(events)[1:]}
        if side is PLAIN:
            assert sources == {"this step itself decodes plainly"}
        else:
            assert all("plain lane" in each for each in sources) is ("plain" in names)
            assert all(each == "not measured" for each in sources) is ("plain" not in names)


def test_two_drafts_race_for_the_text_of_the_chat(tmp_path: Path) -> None:
    for name, layers in (("target", 2), ("one", 1), ("two", 2)):
        save_model(tmp_path / name, tiny_tokenizer(), num_hidden_layers=layers)
    pair = load_pair(str(tmp_path / "target"), str(tmp_path / "one"), dtype="float32")
    talk = Conversation(pair, tree_choice=TreeChoice(growmap=GrowMap.k_ary([2, 2])))
    sides = RaceSide("current"), RaceSide("two", draft=str(tmp_path / "two"))
    race = Race(sides, (), "A", SamplingParams(temperature=0.0, max_new_tokens=12))
    told: list[str] = []
    _, *raced = talk.race(race, never, lambda message, _: told.append(message))
    lanes: dict[Lane, list[Event]] = {lane: [] for lane in Lane}
    for each in raced:
        assert isinstance(each, Raced)
        lanes[each.lane].append(each.event)
    answered = list(talk.reply("A", race.params))
    firsts = {lane: steps_of(events)[0] for lane, events in lanes.items()}
    assert tokens_of(lanes[Lane.FIRST]) == tokens_of(lanes[Lane.SECOND]) == tokens_of(answered)
    assert firsts[Lane.FIRST].nodes != firsts[Lane.SECOND].nodes  # other guesses
    assert "Loading two" in told
    told.clear()
    two = replace(sides[1], label="two, adaptive", choice=TreeChoice(adaptive=True))
    list(talk.race(replace(race, sides=(sides[1], two)), never, lambda said, _: told.append(said)))
    assert told.count("Loading two") == 1  # for both sides
    with pytest.raises(ParameterError, match="stopped while a draft was loaded"):
        list(talk.race(race, lambda: True, silent))
    with pytest.raises(SequoiaError, match="three"):
        list(talk.race(Race((PLAIN, RaceSide("", draft="three")), (), "A", GREEDY), never, silent))


def test_the_chat_goes_on_as_if_there_had_been_no_race() -> None:
    chat, twin = Chat(byte_level(), answers=LONG), Chat(byte_level(), answers=LONG)
    for each in (chat, twin):
        each.say("the?")
    before = chat.talk.token_ids, chat.talk.turns
    run(chat, "he\nhe", turns=chat.talk.turns)
    run(chat, "the?")
    assert (chat.talk.token_ids, chat.talk.turns) == before
    went_on, expected = chat.say("he\nhe"), twin.say("he\nhe")
    assert tokens_of(went_on) == tokens_of(expected)
    done, wanted = done_of(went_on), done_of(expected)
    assert (done.prompt_tokens, done.cached_tokens) == (wanted.prompt_tokens, wanted.cached_tokens)
    assert done.cached_tokens > 0


def test_a_race_within_a_chat_follows_the_turns_it_is_given() -> None:
    chat = Chat(byte_level(), answers=LONG)
    chat.say("the?")
    _, lanes = run(chat, "he\nhe", turns=chat.talk.turns)
    answered = chat.say("he\nhe")
    for events in lanes.values():
        assert done_of(events).prompt_tokens == done_of(answered).prompt_tokens
        assert done_of(events).cached_tokens == 0
        assert tokens_of(events) == tokens_of(answered)


def test_a_race_that_is_left_or_stopped_ends_in_both_lanes() -> None:
    chat = Chat(byte_level(), answers=LONG)
    seen: list[RaceEvent] = []
    for event in chat.talk.race(asking("the?"), lambda: len(seen) > 8, silent):
        seen.append(event)
    ends = [each for each in seen if isinstance(each, Raced) and isinstance(each.event, Finished)]
    assert {each.lane for each in ends} == set(Lane)
    assert {each.event.reason for each in ends} == {FinishReason.CANCELLED}  # type: ignore[union-attr]
    left = chat.talk.race(asking("the?"), never, silent)
    next(left)
    next(left)
    left.close()  # type: ignore[attr-defined]
    assert text_of(chat.say("the?")).strip() == LONG[0]


@pytest.mark.parametrize("exact", [False, True])
def test_equality_is_demanded_only_where_numbers_allow_no_difference(exact: bool) -> None:
    chat = Chat(byte_level(), answers=LONG, exact=exact)
    terms, _ = run(chat, "the?")
    assert terms.must_agree is exact
    drawn, _ = run(chat, "the?", SamplingParams(temperature=0.8, max_new_tokens=5))
    assert not drawn.must_agree
    chat.talk.choose_tree(TreeChoice(Mode.GREEDY, GrowMap.chain(2)))
    greedy, _ = run(chat, "the?", SamplingParams(temperature=0.8, max_new_tokens=5))
    assert greedy.temperature == 0.0
    chat.talk.choose_tree(TreeChoice(growmap=GrowMap.chain(2)))
    one_greedy = RaceSide("greedy", TreeChoice(Mode.GREEDY, GrowMap.chain(2))), SIDES["wide"]
    both, _ = run(chat, "the?", SamplingParams(temperature=0.8, max_new_tokens=5), sides=one_greedy)
    assert both.temperature == 0.0


def test_what_cannot_be_raced_is_refused() -> None:
    chat = Chat(byte_level())
    with pytest.raises(ParameterError, match="empty"):
        run(chat, "  ")
    chat.talk.choose_tree(TreeChoice(Mode.AR))
    with pytest.raises(ParameterError, match="mode is ar"):
        run(chat, "the?")
    run(chat, "the?", sides=(SIDES["chosen"], SIDES["wide"]))
    with pytest.raises(ParameterError, match="no draft"):
        run(Chat(byte_level(), draft=False), "the?")
