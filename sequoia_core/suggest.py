"""What somebody may have meant by a name that does not exist."""

import difflib
import re
from collections.abc import Iterable, Mapping

_CLOSE = 0.6
_LEAST_PREFIX = 2


def close_names(
    name: str, known: Iterable[str], also: Mapping[str, str] | None = None, most: int = 1
) -> list[str]:
    """The known names that a wrong one may stand for, best first.

    Args:
        name: does not exist.
        known: the names there are; of `a/b` the part `b` is compared too.
        also: other names for some of them, such as other programs use.
        most: how many at most.
    """
    wanted = _plain(name)
    meant: dict[str, list[str]] = {}
    for each in known:
        for spelling in dict.fromkeys((_plain(each), _plain(each.rpartition("/")[2]))):
            meant.setdefault(spelling, []).append(each)
    begun = _begun(wanted, meant)
    for other, each in (also or {}).items():
        meant.setdefault(_plain(other), []).append(each)
    begun = begun or _begun(wanted, meant)
    close = difflib.get_close_matches(wanted, meant, n=most, cutoff=_CLOSE)
    spellings = [wanted] if wanted in meant else begun or close
    found = dict.fromkeys(each for spelling in spellings for each in meant[spelling])
    return list(found)[:most]


def suggest(
    name: str,
    known: Iterable[str],
    *,
    also: Mapping[str, str] | None = None,
    otherwise: str = "",
    most: int = 1,
) -> str:
    """A question that names what was meant, or else what there is.

    Args:
        name: does not exist.
        known: the names there are.
        also: as in `close_names`.
        otherwise: said where nothing is close; "" lists all that is known.
        most: how many names to suggest at most.
    """
    known = list(known)
    if close := close_names(name, known, also, most):
        return f"did you mean {' or '.join(close)}?"
    return otherwise or f"there is {', '.join(known)}"


def _begun(wanted: str, spellings: Iterable[str]) -> list[str]:
    return [each for each in spellings if len(wanted) >= _LEAST_PREFIX and each.startswith(wanted)]


def _plain(name: str) -> str:
    """The letters and digits of a name, and what parts them as one sign."""
    return re.sub(r"[\s_.-]+", "-", name.lower()).strip("-/")
