"""The pure parts of the screen: visible text, statistics, walking and pace."""

import itertools
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.cells import cell_len

from app.screens.chat.redraw import LONGEST_SECONDS, SHARE, FramePacer
from app.state.answer import Answer, Statistics, step_speedup
from app.state.sanitize import END_OF_ANSWER, fit, quote_token, spelt_token, visible
from app.state.step_cursor import StepCursor
from app.state.summary import best_step
from sequoia_core.events import Origin, Outcome, Step, Totals
from tests.fakes import ANSWER, make_answer, plain_answer, unmeasured, with_baseline

quick = settings(deadline=None, max_examples=80)
any_text = st.text(st.characters(codec=None), max_size=40)
wild = st.text(
    st.sampled_from("ab \t\n\r\x1b\x00\x07\x7f\x9b\u202e\u2066\u200b\u2028\ud800\U0001f600日é"),
    max_size=30,
)


# Text


@quick
@given(text=any_text | wild)
def test_visible_text_holds_nothing_a_terminal_obeys(text: str) -> None:
    shown = visible(text)
    assert not [c for c in shown if unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t"]
    assert not set(shown) & set("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
    assert visible(shown) == shown


@quick
@given(text=st.text(st.characters(categories=["L", "N", "P", "S", "Zs"])))
def test_harmless_text_stays_as_it_is(text: str) -> None:
    assert visible(text) == text


def test_an_escape_sequence_is_shown() -> None:
    assert visible("\x1b[31mred\x1b]52;c;aGk=\x07") == "␛[31mred␛]52;c;aGk=␇"


@quick
@given(text=any_text | wild)
def test_a_quoted_token_is_one_line_without_anything_invisible(text: str) -> None:
    quoted = spelt_token(text)
    assert quote_token(text) in (quoted, END_OF_ANSWER)
    assert quoted[0] == quoted[-1] == '"'
    assert all(c.isprintable() or unicodedata.combining(c) for c in quoted)
    assert " " not in quoted


@pytest.mark.parametrize(
    "mark",
    ["<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|end|>", "</s>", "<eos>",
     "<end_of_turn>", "<｜end▁of▁sentence｜>", "[EOS]"],
)  # fmt: skip
def test_the_mark_at_the_end_of_an_answer_is_shown_in_words(mark: str) -> None:
    assert quote_token(mark) == "end of answer"
    assert spelt_token(mark) == f'"{mark}"'


@pytest.mark.parametrize("text", ["<|im_start|>", "<s>", "</p>", "<b>", "end", "<end_of_story>"])
def test_other_tokens_are_quoted(text: str) -> None:
    assert quote_token(text) == f'"{text}"'


def test_tokens_read_as_in_the_sketch() -> None:
    assert quote_token(" the") == '"·the"'
    assert quote_token('\n\t"\\') == '"\\n\\t\\"\\\\"'


@quick
@given(text=st.text(st.sampled_from("ab 日本😀é…"), max_size=20), cells=st.integers(0, 12))
def test_fit_is_exactly_as_wide_as_asked(text: str, cells: int) -> None:
    fitted = fit(text, cells)
    assert cell_len(fitted) == cells
    if cell_len(text) <= cells:
        assert fitted.rstrip() == text.rstrip()


# Figures

STEPS = [event for event in make_answer() if isinstance(event, Step)]


def test_statistics_are_the_plain_counts() -> None:
    statistics = Statistics()
    for step in STEPS:
        statistics = statistics.plus(step)
    assert statistics.totals.tokens == sum(len(step.token_ids) for step in STEPS)
    assert list(statistics.accepted) == [step.accepted for step in STEPS]
    for depth, rate in enumerate(statistics.by_depth, start=1):
        assert rate.trials == len(STEPS)
        assert rate.hits == sum(step.accepted >= depth for step in STEPS)
    for rank, rate in enumerate(statistics.by_rank, start=1):
        children = [
            node
            for step in STEPS
            for node in step.nodes
            if node.parent in step.path and node.rank == rank
        ]
        assert rate.trials == len(children)
        assert rate.hits == sum(node.outcome is Outcome.ACCEPTED for node in children)
    assert sum(rate.hits for rate in statistics.by_rank) == sum(statistics.accepted)


def grafted(step: Step) -> Step:
    """The step with a path looked up: below the deepest accepted node, its first node accepted."""
    size, end = len(step.nodes), step.path[-1]
    rank = 1 + sum(node.parent == end for node in step.nodes)
    first = replace(
        step.nodes[end],
        parent=end,
        depth=step.nodes[end].depth + 1,
        rank=rank,
        outcome=Outcome.ACCEPTED,
        draft_prob=None,
        origin=Origin.LOOKUP,
    )
    second = replace(first, parent=size, depth=first.depth + 1, rank=1, outcome=Outcome.REJECTED)
    return replace(
        step,
        nodes=(*step.nodes, first, second),
        path=(*step.path, size),
        token_ids=(*step.token_ids, 1),
    )


def test_rates_beside_the_growmap_are_those_of_drafted_nodes() -> None:
    drafted = known = Statistics()
    for step in STEPS:
        drafted, known = drafted.plus(step), known.plus(grafted(step))
    assert known.by_depth == drafted.by_depth
    assert known.by_rank == drafted.by_rank
    assert list(known.accepted) == [count + 1 for count in drafted.accepted]
    assert known.totals.tokens == drafted.totals.tokens + len(STEPS)


def test_a_step_that_only_looked_up_tells_nothing_of_the_draft() -> None:
    plain = replace(STEPS[0], nodes=STEPS[0].nodes[:1], path=(0,), token_ids=(1,))
    statistics = Statistics().plus(grafted(plain))
    assert (statistics.by_depth, statistics.by_rank) == ((), ())
    assert statistics.accepted == (1,)


def test_a_plain_step_to_compare_with_is_no_tree_that_failed() -> None:
    answer, trees = Answer("why?"), Answer("why?")
    for event in with_baseline(make_answer(), at=2):
        answer.add(event)
        if not isinstance(event, Step) or not event.baseline:
            trees.add(event)
    with_it, without = answer.statistics[-1], trees.statistics[-1]
    assert with_it.accepted == without.accepted
    assert with_it.speedups == without.speedups
    assert with_it.by_depth == without.by_depth
    assert with_it.by_rank == without.by_rank
    assert with_it.totals.tokens_per_step == pytest.approx(without.totals.tokens_per_step)
    assert with_it.totals.tokens == without.totals.tokens + 1
    seconds = with_it.totals.seconds - without.totals.seconds
    assert seconds == pytest.approx(0.021)
    assert with_it.totals.plain_seconds - without.totals.plain_seconds == pytest.approx(seconds)


def test_a_speed_up_that_was_not_measured_is_not_shown() -> None:
    answer = Answer("why?")
    for event in unmeasured(make_answer()):
        answer.add(event)
    assert answer.statistics[-1].speedup is None
    assert step_speedup(answer.steps[0]) is None
    assert "plain" not in answer.footer()
    assert "tokens per pass" in answer.footer()


def test_one_unmeasured_step_takes_the_running_speed_up_away() -> None:
    statistics = Statistics()
    for step in STEPS:
        statistics = statistics.plus(step)
    assert statistics.speedup is not None
    assert statistics.plus(replace(STEPS[1], plain_ms=0.0)).speedup is None


def test_the_first_steps_and_plain_decoding_have_no_speed_up() -> None:
    assert Statistics().plus(STEPS[0]).speedup is None
    root = replace(STEPS[0].nodes[0], outcome=Outcome.ACCEPTED)
    plain = replace(STEPS[0], nodes=(root,), path=(0,), token_ids=STEPS[0].token_ids[:1])
    statistics = Statistics()
    for _ in range(2 * len(STEPS)):
        statistics = statistics.plus(plain)
    assert statistics.speedup is None


# Answer and walk


def whole_answer() -> Answer:
    answer = Answer("why?")
    for event in make_answer():
        answer.add(event)
    return answer


def test_an_answer_is_its_text_its_steps_and_its_end() -> None:
    answer = whole_answer()
    assert answer.text == ANSWER
    assert answer.steps == STEPS
    assert answer.done
    totals = Totals()
    for step, statistics in zip(STEPS, answer.statistics, strict=True):
        totals = totals.plus(step)
        assert statistics.totals == totals
    assert answer.finished is not None
    assert answer.finished.totals == totals
    answer.forget_steps()
    assert answer.statistics[-1].totals == totals
    assert answer.text == ANSWER


def test_walking_stays_within_the_answer_and_comes_back_to_live() -> None:
    walk = StepCursor(whole_answer())
    seen = []
    for _ in range(len(STEPS) + 3):
        walk.go("back")
        seen.append(walk.highlighted)
    assert seen[:3] == [len(STEPS), len(STEPS) - 1, len(STEPS) - 2]
    assert seen[-1] == 1
    walk.go("live")
    assert walk.highlighted is None
    walk.go("first")
    assert walk.step == STEPS[0]
    for _ in STEPS:
        walk.go("forward")
    assert walk.at is None


def test_a_finished_answer_rests_on_its_best_step_with_the_figures_of_all() -> None:
    answer, walk = whole_answer(), StepCursor(whole_answer())
    best = best_step(STEPS)
    assert best.index != len(STEPS)
    assert all(len(step.token_ids) <= len(best.token_ids) for step in STEPS)
    assert walk.step == best
    assert walk.title(paused=False) == f"Step {best.index}, the best of {len(STEPS)}"
    assert walk.statistics == answer.statistics[best.index - 1]
    assert walk.whole == answer.statistics[-1]
    assert walk.context_tokens == answer.context_tokens()
    assert walk.highlighted is None
    walk.go("back")
    assert (walk.step, walk.whole) == (STEPS[-1], answer.statistics[-1])
    walk.go("back")
    assert walk.statistics == walk.whole == answer.statistics[-2]
    assert StepCursor(whole_answer(), rests=False).step == STEPS[-1]


def test_an_answer_that_grows_or_has_no_trees_shows_its_last_step() -> None:
    answer = Answer("why?")
    for event in make_answer():
        if isinstance(event, Step):
            answer.add(event)
            assert StepCursor(answer).step == event
    plain = Answer("why?")
    for event in plain_answer("a b c"):
        plain.add(event)
    assert plain.done
    assert StepCursor(plain).step == plain.steps[-1]
    assert StepCursor(plain).title(paused=False) == f"Step {len(plain.steps)}, the last"


def test_a_plain_step_is_the_best_only_among_plain_ones() -> None:
    one = [replace(step, token_ids=(1,)) for step in STEPS[:3]]
    assert best_step([replace(one[0], baseline=True), *one[1:]]).index == 2
    assert best_step([replace(step, baseline=True) for step in one]).index == 1


def test_there_is_nowhere_to_walk_before_the_first_step() -> None:
    for walk in (StepCursor(), StepCursor(Answer("why?"))):
        for where in ("back", "forward", "first", "live"):
            walk.go(where)
        assert (walk.step, walk.statistics, walk.at) == (None, None, None)


# Pace


def test_pictures_take_their_share_and_no_more() -> None:
    now, spent, pictures = 0.0, 0.0, 0
    pace = FramePacer(lambda: now, lambda: spent)
    for _ in range(2000):
        now += 0.05
        if pace.due():
            pictures += 1
            spent += 0.02
    assert spent / now <= SHARE * 1.01
    assert spent / now >= SHARE * 0.8


def test_pictures_come_even_if_other_work_takes_the_whole_thread() -> None:
    now = 0.0
    pace = FramePacer(lambda: now, lambda: now)
    drawn = []
    for _ in range(200):
        now += 0.05
        if pace.due():
            drawn.append(now)
    waits = [later - earlier for earlier, later in itertools.pairwise(drawn)]
    assert waits
    assert max(waits) <= LONGEST_SECONDS + 0.051


def test_cheap_pictures_come_at_every_tick() -> None:
    now, spent = 0.0, 0.0
    pace = FramePacer(lambda: now, lambda: spent)
    for _ in range(100):
        now += 0.05
        spent += 0.001
        assert pace.due()
