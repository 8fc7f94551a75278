"""Matches of a search in lines that were wrapped."""

from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from app.store.text_search import hits, terms
from app.widgets.blocks import find_densest, highlight, match_line, wrap

MARK = Style(underline=True)


def drawn(text: str, width: int, lead: str = "") -> list[list[Segment]]:
    """Plain text as an entry draws it."""
    return [[Segment(lead), *line] for line in wrap(Text(text), width)]


@settings(deadline=None)
@given(
    words=st.lists(st.sampled_from(["sky", "Ski", "skýline", "is", "->", "blue,"]), max_size=30),
    query=st.sampled_from(["sk", '"sky is', "->", "blue -> s", '"is blue, is"', "ÍS"]),
    width=st.integers(8, 30),
    lead=st.sampled_from(["", "  "]),
)
def test_what_is_marked_is_what_was_found(
    words: list[str], query: str, width: int, lead: str
) -> None:
    text, wanted = " ".join(words), terms(query)
    plain = drawn(text, width, lead)
    lines = highlight(plain, wanted, MARK)
    shown = ["".join(part.text for part in line) for line in plain]
    assert ["".join(part.text for part in line) for line in lines] == shown
    parts = [part.text for line in lines for part in line if part.style and part.style.underline]
    found = "".join(text[start:end] for start, end in hits(text, wanted))
    assert "".join("".join(parts).split()) == "".join(found.split())


@given(before=st.integers(0, 40), after=st.integers(0, 40), width=st.integers(8, 30))
def test_a_word_without_blanks_around_it_is_marked_where_lines_end(
    before: int, after: int, width: int
) -> None:
    lines = highlight(drawn("因" * before + "天空" + "为" * after, width), terms("天空"), MARK)
    parts = [part.text for line in lines for part in line if part.style and part.style.underline]
    assert "".join(parts) == "天空"


@given(
    parts=st.lists(st.lists(st.sampled_from(["a", "b", "c"]), max_size=20), min_size=1),
    at=st.integers(0),
    width=st.integers(8, 30),
)
def test_the_only_hit_is_found_in_its_part_and_line(
    parts: list[list[str]], at: int, width: int
) -> None:
    at %= len(parts)
    parts[at].insert(at % (1 + len(parts[at])), "zebra")
    texts = [" ".join(part) for part in parts]
    found = find_densest(texts, terms("zebra"))
    assert found is not None
    part, share = found
    assert part == at
    lines = drawn(texts[part], width)
    row = match_line(lines, terms("zebra"), share)
    assert "zebra" in "".join(piece.text for piece in lines[row])
    assert find_densest(texts, terms("nowhere")) is None


def test_what_is_not_drawn_is_about_where_it_was_written() -> None:
    lines = drawn("\n".join("abcdefgh"), 20)
    assert match_line(lines, terms("python"), 0.0) == 0
    assert match_line(lines, terms("python"), 0.5) == 4
    assert match_line(lines, terms("python"), 1.0) == 7


@settings(deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["name", "", "long name"]), st.text("ab 日", max_size=60)),
        min_size=1,
    ),
    width=st.integers(8, 60),
)
def test_what_is_wrapped_goes_on_below_the_value(rows: list[tuple[str, str]], width: int) -> None:
    hang = 10
    text = Text("\n".join(f"{name:<{hang}}{value}" for name, value in rows))
    lines = ["".join(segment.text for segment in line) for line in wrap(text, width, hang)]
    assert all(cell_len(line) <= max(width, 1) for line in lines)
    assert "".join(" ".join(lines).split()) == "".join(text.plain.split())
    if width >= 2 * hang:
        labels = [line[:hang].rstrip() for line in lines]
        assert [each for each in labels if each] == [name for name, _ in rows if name]
