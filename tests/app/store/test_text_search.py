"""What a search means: the index and the marking of hits agree with each other."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.store.text_search import answers, excerpt, fold, hits, index_query, terms

WORDS = st.sampled_from(
    ["blue", "Blue", "bluest", "sky", "Straße", "café", "CAFE", "naïve", "x1", "foo_bar", "a",
     "Größe", "the", "don't", "C++", "->", "мир", "天空", "蓝色的天空", "🙂", "İstanbul"]
)  # fmt: skip
TEXTS = st.lists(st.one_of(WORDS, st.sampled_from([" ", "\n", ", ", ". ", '"', "* ", "("]))).map(
    "".join
)


@given(text=st.text(max_size=200) | TEXTS, query=st.text(max_size=12) | TEXTS)
def test_hits_are_in_order_and_read_as_what_was_wanted(text: str, query: str) -> None:
    wanted = terms(query)
    spans = hits(text, wanted)
    end = 0
    for start, stop in spans:
        assert end <= start < stop <= len(text)
        end = stop
    if answers(text, wanted) and wanted:
        assert spans
        marked = fold(" ".join(text[start:stop] for start, stop in spans))
        for term in wanted:
            first = term.exact[:1] if term.exact else fold(term.words[0])[:1]
            assert first in marked


@given(texts=st.lists(TEXTS, max_size=6), query=TEXTS)
def test_the_index_understands_every_query(texts: list[str], query: str) -> None:
    found = indexed(texts, index_query(terms(query)))
    assert found <= set(range(len(texts)))


@given(
    texts=st.lists(st.lists(st.sampled_from(["blue", "Sky", "café", "cats", "x1"])), max_size=6),
    word=st.sampled_from(["blue", "SKY", "cafe", "cat", "ca", "x", "lue", '"sky blue"', "sky cat"]),
)
def test_the_index_finds_what_the_marking_marks(texts: list[list[str]], word: str) -> None:
    joined = [", ".join(words) for words in texts]
    wanted = terms(word)
    expected = {at for at, text in enumerate(joined) if answers(text, wanted)}
    assert indexed(joined, index_query(wanted)) == expected


def indexed(texts: list[str], query: str) -> set[int]:
    """Which texts the index finds."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute(
            "CREATE VIRTUAL TABLE said USING fts5 "
            "(text, tokenize = 'unicode61 remove_diacritics 2', prefix = '2 3')"
        )
        rows = list(enumerate(texts))
        connection.executemany("INSERT INTO said (rowid, text) VALUES (?, ?)", rows)
        if not query:
            return set()
        return {
            row
            for (row,) in connection.execute("SELECT rowid FROM said WHERE said MATCH ?", (query,))
        }
    finally:
        connection.close()


@pytest.mark.parametrize(
    ("text", "query", "marked"),
    [
        ("The Blue sky", "blue", ["Blue"]),
        ("bluest of all", "blue", ["blue"]),
        ("turn blue", "urn", []),
        ("Une CAFÉ noire", "cafe", ["CAFÉ"]),
        ("blue sky, blue sea", '"blue sky"', ["blue sky"]),
        ("blue  \n sky", '"blue sky"', ["blue  \n sky"]),
        ("I use C++ and C", "c++", ["C", "C++", "C"][1:2]),
        ("f(x) -> y", "->", ["->"]),
        ("蓝色的天空", "天空", ["天空"]),
        ("AND OR NOT", "not", ["NOT"]),
    ],
)
def test_what_is_marked(text: str, query: str, marked: list[str]) -> None:
    found = [text[start:stop] for start, stop in hits(text, terms(query))]
    assert found == marked


@given(text=TEXTS, query=TEXTS, length=st.integers(1, 60))
def test_an_excerpt_is_one_line_that_shows_a_hit(text: str, query: str, length: int) -> None:
    part = excerpt(text, terms(query), length)
    assert (part is not None) == bool(hits(text, terms(query)))
    if part is not None:
        assert not any("\n" in piece for piece, _ in part)
        assert any(hit for _, hit in part) or length < 30


def test_an_excerpt_lets_no_control_character_through() -> None:
    part = excerpt("a \x1b[31m blue\x07 sky", terms("blue"), 40)
    assert part is not None
    assert all(piece.isprintable() for piece, _ in part)
