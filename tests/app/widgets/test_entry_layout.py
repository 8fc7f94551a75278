"""Long chats as layout: what is drawn and kept does not grow, what is read stays in place."""

from bisect import bisect_right
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.style import Style

from app.present.markdown import Lines, MarkdownRenderer
from app.state.answer import Answer
from app.widgets.entries import AnswerEntry, Entry, TextEntry
from app.widgets.entry_layout import KEPT_LINES, Anchor, EntryLayout
from app.widgets.transcript_styles import STYLES, Look
from sequoia_core.events import Piece, TextDelta
from tests.fakes import ANSWER, make_answer, words

ROOM = 12
WIDTH = 60


class CountingRenderer(MarkdownRenderer):
    """Counts the characters it draws."""

    def __init__(self) -> None:
        super().__init__(Style(bold=True), Style(), Style(dim=True), "#101010", "lightbulb")
        self.drawn = 0

    def draw(self, source: str, width: int) -> Lines:
        self.drawn += len(source)
        return super().draw(source, width)


class LaidOut(EntryLayout):
    """A layout that is in use."""

    def __init__(self, entries: Iterable[Entry], width: int = WIDTH) -> None:
        super().__init__()
        self.pen = CountingRenderer()
        self.look = Look({name: Style() for name in STYLES}, self.pen)
        self.replace(entries)
        self.use(width, self.look)

    def texts(self, top: int) -> list[str | None]:
        """The lines in view."""
        return [
            line if line is None else "".join(part.text for part in line).rstrip()
            for line in self.window(top, ROOM)
        ]

    def scrolled(self, top: int) -> int:
        """Where the view is after a person scrolled to a row."""
        return self.settle(self.anchor(top, ROOM), ROOM)


def answered(text: str) -> AnswerEntry:
    """An answer that is done."""
    answer = Answer("?")
    for event in make_answer(text):
        answer.add(event)
    answer.forget_steps()
    return AnswerEntry(answer, "Model")


def chat(turns: int) -> list[Entry]:
    """Messages, answers of several lengths, and notes; what stands in a line tells which it is."""
    entries: list[Entry] = []
    for turn in range(turns):
        question = "".join(f"Question {turn}, line {line}\n" for line in range(1 + turn % 4))
        entries.append(TextEntry(question, "text", name="You"))
        paragraphs = [
            "".join(f"Part {part}.{line} of answer {turn}. " for line in range(9))
            for part in range(1 + turn % 5)
        ]
        entries.append(answered("\n\n".join(paragraphs)))
        if turn % 7 == 3:
            entries.append(TextEntry(f"note {turn}", "note", mark="▌ "))
    return entries


# Layout


@settings(deadline=None, max_examples=12)
@given(turns=st.integers(1, 14), width=st.integers(24, 90), step=st.integers(1, ROOM - 1))
def test_scrolling_up_from_the_end_shows_every_line_once(turns: int, width: int, step: int) -> None:
    entries = chat(turns)
    layout = LaidOut(entries, width)
    top = layout.settle(None, ROOM)
    seen = layout.texts(top)
    while top > 0:
        asked = min(step, top)
        before = layout.texts(top)
        top = layout.scrolled(top - asked)
        now = layout.texts(top)
        if top > 0:
            assert now[asked:] == before[: ROOM - asked]
            seen = now[:asked] + seen
        else:  # the beginning came sooner or later than was guessed
            fresh = next(at for at in range(ROOM + 1) if now[at:] == before[: ROOM - at])
            seen = now[:fresh] + seen
    assert [line for line in seen if line is not None] == LaidOut(entries, width).text()


@settings(deadline=None, max_examples=12)
@given(turns=st.integers(1, 12), jumps=st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_wherever_one_jumps_the_view_is_a_stretch_of_the_chat(
    turns: int, jumps: list[float]
) -> None:
    entries = chat(turns)
    layout = LaidOut(entries)
    lines = LaidOut(entries).text()
    for jump in jumps:
        seen = layout.texts(layout.scrolled(int(jump * max(0, layout.height - ROOM))))
        shown = [line for line in seen if line is not None]
        assert len(shown) == min(ROOM, len(lines))
        assert any(
            lines[at : at + len(shown)] == shown for at in range(len(lines) - len(shown) + 1)
        )


@pytest.mark.parametrize("place", [0.0, 0.3, 0.8])
def test_what_grows_below_does_not_move_what_is_read(place: float) -> None:
    events = make_answer(ANSWER + "\n```python\n" + "x = 1\n" * 400)
    growing = AnswerEntry(Answer("?"), "Model")
    layout = LaidOut([*chat(6), growing])
    for event in events[: len(events) // 2]:
        growing.answer.add(event)
    layout.refresh()
    end = layout.settle(None, ROOM)
    top = layout.scrolled(int(place * end))
    read = layout.texts(top)
    for event in events[len(events) // 2 :]:
        growing.answer.add(event)
        anchor = layout.anchor(top, ROOM)
        layout.refresh()
        top = layout.settle(anchor, ROOM)
        assert layout.texts(top) == read
    assert layout.height > end + ROOM


def test_a_reader_within_a_growing_code_block_keeps_the_place() -> None:
    growing = AnswerEntry(Answer("?"), "Model")
    layout = LaidOut([growing])
    events = make_answer("```python\n" + "".join(f"x = {at}\n" for at in range(250)))
    top = 0
    read: list[str | None] = []
    for event in events:
        growing.answer.add(event)
        anchor = layout.anchor(top, ROOM)
        layout.refresh()
        top = layout.settle(anchor, ROOM)
        if not read and layout.height > 3 * ROOM:
            top = layout.scrolled(layout.height - 2 * ROOM - 2)
            read = layout.texts(top)[: ROOM - 4]
        if read:
            assert layout.texts(top)[: ROOM - 4] == read


def test_the_same_place_is_found_at_another_width() -> None:
    entries = chat(30)
    layout = LaidOut(entries, 90)
    for top in range(layout.settle(None, ROOM), 0, -ROOM):
        layout.scrolled(top)
    top = layout.scrolled(layout.height // 2)
    entry = bisect_right(layout._ends, top)
    for width in (20, 200, 7, 41, 90):
        top = layout.settle(layout.anchor(layout.use(width, layout.look, top), ROOM), ROOM)
        assert bisect_right(layout._ends, top) == entry


def test_what_was_looked_at_is_given_up_again() -> None:
    entries = chat(130)
    layout = LaidOut(entries)
    top = layout.settle(None, ROOM)
    while top > 0:
        top = layout.scrolled(max(0, top - ROOM + 1))
        layout.texts(top)
        assert sum(map(layout._height, layout._open)) <= KEPT_LINES + 3 * ROOM
    assert layout.height > 2 * KEPT_LINES
    kept = [entry for entry in entries if isinstance(entry, AnswerEntry) and entry._markdown]
    assert 0 < len(kept) <= len(layout._open)


def test_reading_all_of_a_chat_keeps_no_more_of_it() -> None:
    entries = chat(60)
    layout = LaidOut(entries)
    layout.texts(layout.settle(None, ROOM))
    before = set(layout._open)
    assert layout.text() == layout.text()
    assert set(layout._open) == before


def test_text_of_some_lines_is_a_stretch_of_all() -> None:
    layout = LaidOut(chat(5))
    lines = layout.text()
    assert [layout.text(at, at + 6) for at in range(20)] == [lines[at : at + 7] for at in range(20)]


# Work


def streaming_work(turns: int, pieces: Sequence[str]) -> list[int]:
    """Characters of Markdown drawn as each piece comes to an answer after so many turns."""
    growing = AnswerEntry(Answer("?"), "Model")
    layout = LaidOut([*chat(turns), growing])
    layout.texts(layout.settle(None, ROOM))
    work: list[int] = []
    for at, piece in enumerate(pieces, start=1):
        growing.answer.add(TextDelta(at, piece, (Piece(piece, 1),)))
        layout.pen.drawn = 0
        layout.refresh()
        layout.texts(layout.settle(None, ROOM))
        work.append(layout.pen.drawn)
    return work


def test_an_answer_costs_the_same_after_two_hundred_turns() -> None:
    pieces = words(ANSWER)[:90]
    assert streaming_work(200, pieces) == streaming_work(2, pieces)


@pytest.mark.parametrize(
    ("opening", "piece"),
    [
        ("```python\n", "value = total(1, 2)\n" * 20),
        ("", "- the item\n" * 10),
        ("", "and so on " * 40),
    ],
    ids=["code", "list", "paragraph"],
)
def test_a_long_block_is_not_quadratic(opening: str, piece: str) -> None:
    work = streaming_work(0, [opening, *[piece] * 60])
    late = work[45:]
    assert max(late) <= 1.5 * max(work[:15])
    assert sum(late) <= 1.5 * sum(work) / 4


def test_a_resize_of_a_long_chat_draws_what_is_in_view() -> None:
    layout = LaidOut(chat(200))
    for width in range(20, 120, 20):
        layout.pen.drawn = 0
        layout.use(width, layout.look)
        layout.texts(layout.settle(None, ROOM))
        assert 0 < layout.pen.drawn < 5000


def test_an_anchor_past_the_last_block_is_the_end_of_its_entry() -> None:
    layout = LaidOut(chat(3))
    assert layout.settle(Anchor(0, 10_000, 0), ROOM) <= layout.height
