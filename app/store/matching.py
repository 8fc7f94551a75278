"""What a search asks for, and where a text answers it. Pure; knows no database.

Owns the meaning of a query: words and their beginnings, all of which must occur; "several words" in
quotes stand together; case and accents make no difference. What the index cannot know, scripts
without blanks between words and signs such as `->`, is looked for letter by letter.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from sequoia_core.text.detokenizer import well_formed

_TERM = re.compile(r'"([^"]*)"?|(\S+)')
_WORD = re.compile(r"[^\W_]+")
_UNSEGMENTED = re.compile(
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)


@dataclass(frozen=True, slots=True)
class Term:
    """One thing that must occur.

    Attributes:
        written: words that stand one after another, the last one perhaps longer, as the index takes
            them; empty where only `exact` can be looked for.
        exact: folded text that must occur as it is, or "".
    """

    written: tuple[str, ...]
    exact: str = ""


def terms(query: str) -> tuple[Term, ...]:
    """What a query asks for, each thing once; empty where it asks for nothing."""
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
    """What the index is asked, in the language of FTS5; "" where it cannot help."""
    return " ".join(f'"{" ".join(term.written)}" *' for term in wanted if term.written)


def hits(text: str, wanted: Sequence[Term]) -> list[tuple[int, int]]:
    """Where a text answers: beginnings and ends, in order, none overlapping."""
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
    """Whether everything that is wanted occurs in the text."""
    folded = fold(text)
    return all(_pattern(term).search(folded) for term in wanted)


def fold(text: str) -> str:
    """Text without case and accents."""
    return text.lower() if text.isascii() else _fold(text)[0]


@lru_cache(maxsize=64)
def _pattern(term: Term) -> re.Pattern[str]:
    if term.exact:
        return re.compile(re.escape(term.exact))
    words = [re.escape(fold(word)) for word in term.written]
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
