"""What a search asks for, where a text has it, and the excerpt that shows it."""

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
_CONTEXT = 24  # characters of an excerpt before the first hit


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that must occur."""

    words: tuple[str, ...]  # one after another, the last may go on; empty if only `exact` helps
    exact: str = ""  # folded text that must occur as it is


Excerpt = list[tuple[str, bool]]  # one line of a text in pieces, and whether each is a hit


def terms(query: str) -> tuple[Term, ...]:
    """What a query asks for: each of its words, or the beginning of a longer one.

    "Several words" in quotes stand together. What the index cannot find, scripts without blanks
    between words and signs such as `->`, is looked for letter by letter.
    """
    found: dict[Term, None] = {}
    for match in _TERM.finditer(well_formed(query)):
        text = (match.group(1) if match.group(2) is None else match.group(2)).strip()
        words = tuple(_WORD.findall(unicodedata.normalize("NFC", text)))
        exact = fold(text)
        if not exact:
            continue
        if _UNSEGMENTED.search(text):
            words = ()
        elif words and not _WORD.sub("", exact).strip():
            exact = ""
        found[Term(words, exact)] = None
    return tuple(found)


def index_query(wanted: Sequence[Term]) -> str:
    """The query in the language of FTS5; "" if the index cannot help."""
    return " ".join(f'"{" ".join(term.words)}" *' for term in wanted if term.words)


def hits(text: str, wanted: Sequence[Term]) -> list[tuple[int, int]]:
    """Where a text has the terms: starts and ends in order, without overlaps."""
    folded, places = _fold(text)
    spans = (match.span() for term in wanted for match in _pattern(term).finditer(folded))
    merged: list[tuple[int, int]] = []
    for start, end in sorted((places[start], places[end - 1] + 1) for start, end in spans):
        if merged and start < merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def answers(text: str, wanted: Sequence[Term]) -> bool:
    """Whether all terms occur in the text."""
    folded = fold(text)
    return all(_pattern(term).search(folded) for term in wanted)


def excerpt(text: str, wanted: Sequence[Term], length: int) -> Excerpt | None:
    """The `length` characters with the most hits, harmless and on one line; None without a hit."""
    spans = hits(text, wanted)
    if not spans:
        return None
    first_hit = fullest(spans, length - _CONTEXT)
    start = max(0, first_hit - _CONTEXT)
    if start:
        start = text.find(" ", start, first_hit) + 1 or start
    end = min(len(text), start + length)
    parts = [("… ", False)] if start else []
    at = start
    for first, last in spans:
        if start < last and first < end:
            parts += [(text[at:first], False), (text[first : min(last, end)], True)]
            at = min(last, end)
    parts.append((text[at:end], False))
    if end < len(text):
        parts.append((" …", False))
    one_line = str.maketrans("\n\t", "  ")
    return [(visible(part.translate(one_line)), hit) for part, hit in parts if part]


def fullest(spans: Sequence[tuple[int, int]], length: int) -> int:
    """Where the part of `length` characters with the most `spans` starts; there is at least one."""
    starts = [start for start, _ in spans]
    counts = [bisect_right(starts, start + max(0, length)) - at for at, start in enumerate(starts)]
    return starts[counts.index(max(counts))]


def fold(text: str) -> str:
    """Text without case and accents."""
    return _fold(text)[0]


def _fold(text: str) -> tuple[str, Sequence[int]]:
    """Folded text, and for each of its characters the place it comes from."""
    if text.isascii():
        return text.lower(), range(len(text))
    parts = [_fold_character(character) for character in text]
    return "".join(parts), [at for at, part in enumerate(parts) for _ in part]


@lru_cache(maxsize=4096)
def _fold_character(character: str) -> str:
    if "\uac00" <= character <= "\ud7a3":
        return character  # a Hangul syllable has no accents, only parts
    parts = unicodedata.normalize("NFD", character.casefold())
    return "".join(part for part in parts if not unicodedata.combining(part))


@lru_cache(maxsize=64)
def _pattern(term: Term) -> re.Pattern[str]:
    if term.exact:
        return re.compile(re.escape(term.exact))
    words = [re.escape(fold(word)) for word in term.words]
    return re.compile(r"(?<![^\W_])" + r"[\W_]+".join(words))
