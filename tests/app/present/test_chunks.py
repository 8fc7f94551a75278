"""Markdown in chunks: where the cuts fall, that nothing is lost by them, and what they save."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.segment import Segment
from rich.style import Style

from app.present.chunks import LEAST_LINES, MOST_CHARACTERS, MOST_LINES, Chunk, Chunks
from app.present.markdown import Lines, MarkdownRenderer
from tests.fakes import ANSWER

PEN = MarkdownRenderer(Style(bold=True), Style(), Style(dim=True), "#101010", "lightbulb")
PYTHON = '''\
def total_{at}(values: list[float]) -> float:
    """The sum of values.

    Of an empty list it is 0.
    """
    result = 0.0
    for value in values:
        result += value  # one by one

    return result

'''
CODE = "".join(PYTHON.replace("{at}", str(at)) for at in range(24))
ITEMS = "".join(f"{at}. the {at}th\n\n   more of it\n" for at in range(1, 120))
TABLE = "| a | b |\n|---|---|\n" + "".join(f"| {at} | {at * at} |\n" for at in range(250))
ENDLESS = "and so on " * 2000
LONG = {
    "code": f"Look:\n\n```python\n{CODE}```\n\nThat is all.\n",
    "no language": f"~~~~\n{CODE}~~~~\n",
    "list": ITEMS,
    "table": TABLE,
    "paragraph": ENDLESS,
    "answer": ANSWER,
}


def cut(text: str, *places: int) -> list[Chunk]:
    """The chunks of a text that came in pieces."""
    chunks, begun = Chunks(), 0
    for place in [*sorted(places), len(text)]:
        chunks.add(text[begun:place])
        begun = place
        assert chunks.tail is not None
    return [*chunks.final, Chunk(chunks.tail)]


def drawn(source: str) -> Lines:
    return PEN.draw(source, 70)


def words(chunks: list[Chunk]) -> list[str]:
    lines = [line for chunk in chunks for line in drawn(chunk.source)]
    return [word for line in lines for word in "".join(part.text for part in line).split()]


blocks = st.lists(
    st.sampled_from(
        [
            "plain words\n", "\n", "# heading\n", "- item\n", "  more\n", "1. one\n", "> quote\n",
            "```python\n", "```\n", "x = 1\n", "    code\n", "***bold***\n", "---\n", "no end",
            "| a | b |\n|---|---|\n", "| 1 | 2 |\n", "| 1 | 2 | 3 |\n", "$$\n", "\\[\n", "\\]\n",
            "\\[ x \\]\n", "$$x$$ y\n", "[a]: b\n",
        ]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@settings(deadline=None, max_examples=150)
@given(text=blocks, places=st.lists(st.integers(0, 400), max_size=8))
def test_where_the_cuts_fall_does_not_depend_on_how_the_text_came_in(
    text: str, places: list[int]
) -> None:
    assert cut(text, *(min(place, len(text)) for place in places)) == cut(text)


@pytest.mark.parametrize("name", LONG)
def test_long_blocks_are_cut_alike_however_they_came_in(name: str) -> None:
    text = LONG[name]
    assert cut(text, *range(0, len(text), 97)) == cut(text)


@settings(deadline=None, max_examples=60)
@given(text=blocks)
def test_chunks_of_a_short_document_join_to_it(text: str) -> None:
    assert "".join(chunk.source for chunk in cut(text)) == text


@pytest.mark.parametrize("name", LONG)
def test_no_word_of_a_long_block_is_lost_or_told_twice(name: str) -> None:
    chunks = cut(LONG[name])
    assert len(chunks) > 2
    told, expected = words(chunks), words([Chunk(LONG[name])])
    if name == "table":  # its heading stands above each part
        told, expected = ([w for w in each if w.isdigit()] for each in (told, expected))
    assert told == expected


@pytest.mark.parametrize("name", LONG)
def test_no_chunk_is_long(name: str) -> None:
    for chunk in cut(LONG[name]):
        assert chunk.source.count("\n") <= MOST_LINES + 2
        assert len(chunk.source) <= max(MOST_CHARACTERS, 120 * MOST_LINES)


def test_a_streamed_block_is_parsed_in_parts_only(monkeypatch: pytest.MonkeyPatch) -> None:
    chunks = Chunks()
    parsed: list[int] = []
    original = chunks._parser.parse

    def parse(text: str) -> object:
        parsed.append(text.count("\n"))
        return original(text)

    monkeypatch.setattr(chunks._parser, "parse", parse)
    for line in LONG["code"].splitlines(keepends=True):
        chunks.add(line)
        assert chunks.final is not None
    assert max(parsed) <= MOST_LINES + 4


def styled(lines: Lines) -> list[tuple[str, Style | None]]:
    """Each character with its style, however it was parted into segments."""
    return [(char, part.style) for line in lines for part in line for char in part.text]


@pytest.mark.parametrize("marker", ["```python", "~~~~python"])
def test_code_looks_as_if_it_had_not_been_cut(marker: str) -> None:
    text = f"{marker}\n{CODE}"
    chunks = cut(text)
    assert len(chunks) > 4
    assert all(chunk.source.count("\n") >= LEAST_LINES for chunk in chunks[:-1])
    assert not any(chunk.ends_block for chunk in chunks[:-1])
    parts: Lines = [line for chunk in chunks for line in drawn(chunk.source)]
    assert styled(parts) == styled(drawn(text))


def test_a_string_longer_than_a_part_is_cut_anyway() -> None:
    text = '```python\nx = """\n' + "words\n\n" * 400
    assert max(chunk.source.count("\n") for chunk in cut(text)) <= MOST_LINES + 2
    assert words(cut(text)) == words([Chunk(text)])


def test_a_blank_line_of_code_is_kept_at_the_edges() -> None:
    lines = drawn("```\n\na\n```")
    assert ["".join(part.text for part in line).strip() for line in lines] == ["", "a"]
    assert isinstance(lines[0][0], Segment)
