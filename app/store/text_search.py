"""What a search asks for, where a text has it, and the excerpt that shows it. Knows no database.

All words of a query must occur; each may be the beginning of a longer word. "Several words" in
quotes stand together. Case and accents make no difference. What the index cannot find, scripts
without blanks between words and signs such as `->`, is looked for letter by letter.
"""

import re
import unicodedata
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sequoia_core.text.detokenizer import well_formed

from ..state.sanitize import visible

_TERM = re.compile(r'"([^"]*)"?|(\S+)')
_WORD = re.compile(r"[^\W_]+")
_UNSEGMENTED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
_CONTEXT = 24
"""Characters of an excerpt before the first hit."""


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that must occur.

    Attributes:
        words: they stand one after another, the last may go on, as the index takes them; empty
            if only `exact` can be looked for.
        exact: folded text that must occur as it is, or "".
    """

    words: tuple[str, ...]
    exact: str = ""


def terms(query: str) -> tuple[Term, ...]:
    """What a query asks for, without repetitions."""
    found: dict[Term, None] = {}
    for match in _TERM.finditer(well_formed(query)):
        text = (match.group(1) if match.group(2) is None else match.group(2)).strip()
        words = tuple(_WORD.findall(unicodedata.normalize("NFC", text)))
        exact = fold(text)
        if not exact:
            continue
        if not words or _UNSEGMENTED.search(text):
            found[Term((), exact)] = None
        elif _WORD.sub("", exact).strip():
            found[Term(words, exact)] = None
        else:
            found[Term(words)] = None
    return tuple(found)


def index_query(wanted: Sequence[Term]) -> str:
    """The query in the language of FTS5; "" if the index cannot help."""
    return " ".join(f'"{" ".join(term.words)}" *' for term in wanted if term.words)


def hits(text: str, wanted: Sequence[Term]) -> list[tuple[int, int]]:
    """Where a text has the terms: starts and ends in order, without overlaps."""
    folded, places = _fold(text)
    spans: list[tuple[int, int]] = []
    for term in wanted:
        for match in _pattern(term).finditer(folded):
            start, end = match.span()
            spans.append((places[start], places[end - 1] + 1))
    merged: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def answers(text: str, wanted: Sequence[Term]) -> bool:
    """Whether all terms occur in the text."""
    folded = fold(text)
    return all(_pattern(term).search(folded) for term in wanted)


def fold(text: str) -> str:
    """Text without case and accents."""
    return text.lower() if text.isascii() else _fold(text)[0]


@dataclass(frozen=True, slots=True)
class Excerpt:
    """One line of a text.

    Attributes:
        parts: pieces that join to the line, and whether each is a hit.
    """

    parts: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        """The line."""
        return "".join(text for text, _ in self.parts)


def excerpt(text: str, wanted: Sequence[Term], length: int) -> Excerpt | None:
    """The part of a text with the most hits on one line, control characters made visible.

    Args:
        text: as a person or a model wrote it.
        wanted: what was searched for.
        length: most characters of the excerpt.

    Returns:
        The excerpt, or None without a hit.
    """
    spans = hits(text, wanted)
    if not spans:
        return None
    first_hit = fullest(spans, length - _CONTEXT)
    start = max(0, first_hit - _CONTEXT)
    if start:
        blank = text.find(" ", start, first_hit)
        start = blank + 1 if blank >= 0 else start
    end = min(len(text), start + length)
    parts = [("… ", False)] if start else []
    at = start
    for first, last in spans:
        if last <= start:
            continue
        if first >= end:
            break
        parts += [(text[at:first], False), (text[first : min(last, end)], True)]
        at = min(last, end)
    parts.append((text[at:end], False))
    if end < len(text):
        parts.append((" …", False))
    return Excerpt(tuple((_one_line(part), hit) for part, hit in parts if part))


def fullest(spans: Sequence[tuple[int, int]], length: int) -> int:
    """Where the part of `length` characters with the most hits starts; the first of such.

    Args:
        spans: starts and ends of at least one hit, in order.
        length: of the part.
    """
    starts = [start for start, _ in spans]
    counts = [bisect_right(starts, start + max(0, length)) - at for at, start in enumerate(starts)]
    return starts[counts.index(max(counts))]


def _one_line(text: str) -> str:
    return visible(text.replace("\n", " ").replace("\t", " "))


@lru_cache(maxsize=64)
def _pattern(term: Term) -> re.Pattern[str]:
    if term.exact:
        return re.compile(re.escape(term.exact))
    words = [re.escape(fold(word)) for word in term.words]
    return re.compile(r"(?<![^\W_])" + r"[\W_]+".join(words))


def _fold(text: str) -> tuple[str, Sequence[int]]:
    """Folded text, and for each of its characters the place it comes from."""
    if text.isascii():
        return text.lower(), range(len(text))
    folded: list[str] = []
    places: list[int] = []
    for at, character in enumerate(text):
        part = _fold_character(character)
        folded.append(part)
        places += [at] * len(part)
    return "".join(folded), places


@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    if "\uac00" <= character <= "\ud7a3":
        return character  # a Hangul syllable has no accents, only parts
    parts = unicodedata.normalize("NFD", character.casefold())
    return "".join(part for part in parts if not unicodedata.combining(part))
