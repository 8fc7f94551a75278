"""What a finished answer came to, and its bars."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.present.accessible import summary_in_words, summary_rows
from app.state.summary import Summary, summary_of
from app.widgets.answer_summary import summary_line, summary_lines
from app.widgets.line import bar_chart
from sequoia_core.events import Finished, Step
from tests.app.records import answer_of
from tests.fakes import make_answer, plain_answer, with_baseline


def summed_up() -> Summary:
    summary = summary_of(answer_of(make_answer()))
    assert summary is not None
    return summary


def test_who_wrote_the_tokens_adds_up_and_the_best_step_is_the_first_longest() -> None:
    answer = answer_of(make_answer())
    summary, lengths = summed_up(), [len(step.token_ids) for step in answer.steps]
    assert summary.tokens == tuple(lengths)
    assert summary.drafted == sum(span.rank > 0 for span in answer.spans)
    assert summary.totals.tokens - summary.drafted == len(answer.steps)
    assert summary.best == lengths.index(max(lengths))
    assert summary.best_step == answer.steps[summary.best].index
    assert summary.best_tokens == max(lengths)
    assert summary.best_text in answer.text
    assert sum(summary.totals.accepted_lengths) == len(lengths)


def test_a_measuring_step_is_no_pass_and_a_cut_step_claims_no_more_than_it_gave() -> None:
    measured = summary_of(answer_of(with_baseline(make_answer(), at=2)))
    assert measured is not None
    assert len(measured.tokens) == measured.totals.steps - 1
    cut = [
        replace(each, token_ids=each.token_ids[:1]) if isinstance(each, Step) else each
        for each in make_answer()
    ]
    summary = summary_of(answer_of(cut))
    assert summary is not None
    assert summary.drafted == sum(isinstance(each, Step) and each.accepted > 0 for each in cut)


def test_an_answer_of_which_only_a_measuring_step_is_on_record_has_one() -> None:
    answer = answer_of(with_baseline(make_answer(), at=2))
    answer.recall([(answer.steps[1], answer.statistics[-1])])
    summary = summary_of(answer)
    assert summary is not None
    assert summary.tokens == ()
    assert "best step 2: 1 token, " in summary_in_words(summary)[2]


def test_there_is_none_while_the_answer_grows_or_without_steps_or_guesses() -> None:
    events = make_answer()
    assert summary_of(None) is None
    assert summary_of(answer_of(each for each in events if not isinstance(each, Finished))) is None
    forgotten = answer_of(events)
    forgotten.forget_steps()
    assert summary_of(forgotten) is None
    assert summary_of(answer_of(plain_answer("One two."))) is None


@given(
    values=st.lists(st.integers(0, 9), max_size=90).map(tuple),
    cells=st.integers(0, 60),
    rows=st.integers(1, 3),
)
def test_bars_fill_their_cells_and_the_highest_reaches_the_top(
    values: tuple[int, ...], cells: int, rows: int
) -> None:
    chart = bar_chart(values, cells, rows)
    assert [len(row) for row in chart] == [cells] * rows
    if cells >= len(values) and any(values):
        assert "█" in chart[0]
        assert ("█" in chart[-1][0]) == (values[0] * 8 * rows >= 8 * max(values))


@pytest.mark.parametrize("height", range(1, 12))
@pytest.mark.parametrize("width", [30, 46, 69, 100])
def test_the_lines_keep_to_their_room(width: int, height: int) -> None:
    lines = summary_lines(summed_up(), width, height, "alt+up")
    assert len(lines) <= height
    assert all(line.cell_length <= width for line in lines)
    assert "tokens per pass" in lines[0].plain
    text = "\n".join(line.plain for line in lines)
    assert ("best step" in text) == (height >= 2 or "best step" in lines[0].plain)
    assert height < 8 or "accepted in a pass" in text or width < 69
    assert summary_line(summed_up(), width).cell_length <= width
    rows = summary_rows(summed_up(), width, height)
    told = " ".join(row.plain for row in rows)
    assert len(rows) <= height
    assert all(row.cell_length <= width for row in rows)
    whole = summary_in_words(summed_up())
    sentences = {". ".join(whole[:many]) for many in range(1, 6)}
    assert told in sentences or whole[0].startswith(f"the answer: {told}")
