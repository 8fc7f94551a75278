"""Full searches for unreachable cycles happen between answers, and still happen."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from app.ui.gc_control import CALM_SECONDS, NEVER, PATIENCE, RESTS, Rests


class Knot:
    """Refers to itself."""

    def __init__(self) -> None:
        self.itself = self


class Clock:
    """Seconds that a test sets."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rests(clock: Clock) -> Iterator[Rests]:
    rests = Rests(clock)
    rests.begin()
    rests.rest()
    yield rests
    rests.end()


def knot() -> "weakref.ref[Knot]":
    return weakref.ref(Knot())


def wait(rests: Rests, count: int) -> None:
    for _ in range(count):
        rests.rest()
        rests.go_on(idle=True)


def test_a_cycle_is_found_within_so_many_rests(rests: Rests) -> None:
    lost = knot()
    wait(rests, RESTS - 1)
    assert lost() is not None
    wait(rests, 1)
    assert lost() is None


def test_the_search_waits_until_nobody_types(rests: Rests, clock: Clock) -> None:
    lost = knot()
    rests.touched()
    wait(rests, RESTS)
    clock.now += CALM_SECONDS / 2
    rests.go_on(idle=True)
    assert lost() is not None
    clock.now += CALM_SECONDS
    rests.go_on(idle=True)
    assert lost() is None


def test_no_search_stops_an_answer(rests: Rests) -> None:
    lost = knot()
    wait(rests, RESTS - 1)
    rests.rest()
    rests.go_on(idle=False)
    assert lost() is not None
    rests.go_on(idle=True)
    assert lost() is None


def test_somebody_who_never_stops_typing_puts_it_off_only_so_long(rests: Rests) -> None:
    lost = knot()
    rests.touched()
    wait(rests, PATIENCE - 1)
    assert lost() is not None
    wait(rests, 1)
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
