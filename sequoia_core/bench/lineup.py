"""Who takes part: systems made ready, each where it runs, and why others are absent.

Owns the processes of those that run outside this one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from sequoia_core.bench.contenders import Contender
from sequoia_core.bench.runs import PeerError, System
from sequoia_core.bench.worker import ProcessSystem, make_elsewhere

if TYPE_CHECKING:
    from sequoia_core.bench.workshop import Workshop


@dataclass(frozen=True, slots=True)
class Lineup:
    """Systems that take part, in the report's order, and why others do not, by name.

    A context, at whose end the processes have ended.
    """

    systems: list[System]
    absent: dict[str, str]

    def __enter__(self) -> Lineup:
        return self

    def __exit__(self, *_: object) -> None:
        for system in self.systems:
            if isinstance(system, ProcessSystem):
                system.close()


def line_up(workshop: Workshop, contenders: Iterable[Contender]) -> Lineup:
    """Build all that can be built."""
    found = Lineup([], {})
    try:
        for contender in contenders:
            try:
                found.systems.append(_built(workshop, contender))
            except PeerError as error:
                found.absent[contender.name] = str(error)
    except BaseException:
        found.__exit__()
        raise
    return found


def _built(workshop: Workshop, contender: Contender) -> System:
    if contender.here:
        return contender.build(workshop)
    contender.check_installed()
    sources = replace(workshop.sources, **contender.changes)
    for name in contender.files:
        if not workshop.is_made(name):
            make_elsewhere(sources, name)
    return ProcessSystem(sources, contender.name, contender.environment)
