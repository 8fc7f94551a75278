"""Full searches for unreachable cycles happen between answers, and still happen."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from app.garbage import NEVER, RESTS, Rests


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def rests() -> Iterator[Rests]:
    rests = Rests()
    rests.begin()
    yield rests
    rests.end()


def knot() -> "weakref.ref[Knot]":
    return weakref.ref(Knot())


def test_a_cycle_is_found_within_so_many_rests(rests: Rests) -> None:
    rests.rest()
    lost = knot()
    for _ in range(RESTS):
        rests.rest()
    assert lost() is None


def test_everything_is_searched_in_rests_only_and_as_before_afterwards() -> None:
    before = gc.get_threshold()
    rests = Rests()
    frozen = gc.get_freeze_count()
    rests.rest()  # nothing was begun
    assert gc.get_freeze_count() == frozen
    rests.begin()
    assert gc.get_threshold() == (*before[:2], NEVER)
    rests.rest()
    assert gc.get_freeze_count() > 0
    rests.end()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
