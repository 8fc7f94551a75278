"""Full searches for unreachable cycles happen between answers, and still happen."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from app.garbage import NEVER, SEARCHED_AGAIN, Rests


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


def test_a_cycle_is_found_at_the_next_rest(rests: Rests) -> None:
    lost = knot()
    rests.rest()
    assert lost() is None


def test_a_cycle_that_was_set_aside_alive_is_found_in_the_end(rests: Rests) -> None:
    alive = Knot()
    lost = weakref.ref(alive)
    rests.rest()
    del alive
    for _ in range(SEARCHED_AGAIN):
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
