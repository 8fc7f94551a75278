"""The exceptions, and what messages say of mistyped names and of counts."""

import difflib
import re
from collections.abc import Iterable, Mapping

_CLOSE = 0.6
_LEAST_PREFIX = 2


class SequoiaError(Exception):
    """What a person can cause; `str(error)` is one line: what was wrong, where, and what to do."""


class GrowMapError(SequoiaError):
    """A tree shape is malformed, unreadable, or too large for its use."""


class ModelLoadError(SequoiaError):
    """A model directory, file or hub id could not be read as a model of a known family."""


class TokenizerMismatchError(SequoiaError):
    """Draft and target do not give the same strings to the same token ids."""


class ContextFullError(SequoiaError):
    """More tokens than the model's context window holds were asked for."""


class MemoryFullError(SequoiaError):
    """The memory of a device does not suffice for what was to be computed or loaded."""


class RankLostError(SequoiaError):
    """One of several processes that compute a model has ended, so that none can go on."""


class ParameterError(SequoiaError):
    """A sampling parameter or setting is outside its range."""


class NumberError(SequoiaError):
    """A model computed something that is no number."""


class TraceError(SequoiaError):
    """A recorded trace is damaged or of an unknown version."""


def counted(number: int, noun: str, plural: str = "") -> str:
    """A number and its noun: "1 step", "2 steps"."""
    return f"{number} {noun if number == 1 else plural or noun + 's'}"


def suggest(
    name: str,
    known: Iterable[str],
    *,
    also: Mapping[str, str] | None = None,
    otherwise: str = "",
    most: int = 1,
) -> str:
    """A question that names at most `most` of `close_names`; else `otherwise`, or all known."""
    known = list(known)
    if close := close_names(name, known, also, most):
        return f"did you mean {' or '.join(close)}?"
    return otherwise or f"there is {', '.join(known)}"


def close_names(
    name: str, known: Iterable[str], also: Mapping[str, str] | None = None, most: int = 1
) -> list[str]:
    """The known names that a wrong one may stand for, best first; of `a/b` also `b` is compared.

    `also` maps other names for some of them, such as other programs use.
    """
    wanted = _plain(name)
    meant: dict[str, list[str]] = {}
    for each in known:
        for spelling in dict.fromkeys((_plain(each), _plain(each.rpartition("/")[2]))):
            meant.setdefault(spelling, []).append(each)
    for other, each in (also or {}).items():
        meant.setdefault(_plain(other), []).append(each)
    begun = [each for each in meant if len(wanted) >= _LEAST_PREFIX and each.startswith(wanted)]
    close = difflib.get_close_matches(wanted, meant, n=most, cutoff=_CLOSE)
    spellings = [wanted] if wanted in meant else begun or close
    found = dict.fromkeys(each for spelling in spellings for each in meant[spelling])
    return list(found)[:most]


def _plain(name: str) -> str:
    """A name in lower case, each separator as one hyphen."""
    return re.sub(r"[\s_.-]+", "-", name.lower()).strip("-/")
