"""Full searches for unreachable cycles happen between answers, and still happen."""

import gc
import weakref
from collections.abc import Iterator

import pytest

from app.ui.gc_control import ANSWERS, MOST_ANSWERS, NEVER, QUIET_SECONDS, GarbageCollections


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
def schedule(clock: Clock) -> Iterator[GarbageCollections]:
    schedule = GarbageCollections(clock)
    schedule.start()
    schedule.answer_ended()
    yield schedule
    schedule.stop()


def knot() -> "weakref.ref[Knot]":
    return weakref.ref(Knot())


def wait(schedule: GarbageCollections, count: int) -> None:
    for _ in range(count):
        schedule.answer_ended()
        schedule.collect_if_due(idle=True)


def test_a_cycle_is_found_within_so_many_answers(schedule: GarbageCollections) -> None:
    lost = knot()
    wait(schedule, ANSWERS - 1)
    assert lost() is not None
    wait(schedule, 1)
    assert lost() is None


def test_the_collection_waits_until_nobody_types(
    schedule: GarbageCollections, clock: Clock
) -> None:
    lost = knot()
    schedule.note_input()
    wait(schedule, ANSWERS)
    clock.now += QUIET_SECONDS / 2
    schedule.collect_if_due(idle=True)
    assert lost() is not None
    clock.now += QUIET_SECONDS
    schedule.collect_if_due(idle=True)
    assert lost() is None


def test_no_collection_stops_an_answer(schedule: GarbageCollections) -> None:
    lost = knot()
    wait(schedule, ANSWERS - 1)
    schedule.answer_ended()
    schedule.collect_if_due(idle=False)
    assert lost() is not None
    schedule.collect_if_due(idle=True)
    assert lost() is None


def test_a_person_who_never_stops_typing_delays_it_only_so_long(
    schedule: GarbageCollections,
) -> None:
    lost = knot()
    schedule.note_input()
    wait(schedule, MOST_ANSWERS - 1)
    assert lost() is not None
    wait(schedule, 1)
    assert lost() is None


def test_everything_is_collected_between_answers_only_and_as_before_afterwards() -> None:
    before = gc.get_threshold()
    schedule = GarbageCollections()
    frozen = gc.get_freeze_count()
    schedule.answer_ended()  # it was not started
    assert gc.get_freeze_count() == frozen
    schedule.start()
    assert gc.get_threshold() == (*before[:2], NEVER)
    schedule.answer_ended()
    assert gc.get_freeze_count() > 0
    schedule.stop()
    assert gc.get_threshold() == before
    assert gc.get_freeze_count() == 0
