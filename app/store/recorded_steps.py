"""The steps of an answer as the record holds them: packed, and unpacked as they are looked at."""

from collections.abc import Sequence
from typing import overload

from sequoia_core.events import Step

from .packing import check_blob, unpack_events
from .trouble import DamagedError

_KEPT_CHUNKS = 8


class RecordedSteps(Sequence[Step]):
    """A sequence that holds a few of its steps unpacked, the others packed.

    Args:
        chunks: how many steps each holds, and its events, packed.

    Raises:
        DamagedError: by any access, a step cannot be unpacked.
    """

    def __init__(self, chunks: Sequence[tuple[int, bytes]]) -> None:
        self._chunks = [blob for count, blob in chunks if count]
        self._places = [
            (number, at)
            for number, count in enumerate(count for count, _ in chunks if count)
            for at in range(count)
        ]
        self._unpacked: dict[int, list[Step]] = {}

    def check(self) -> None:
        """Look whether all of them can be unpacked.

        Raises:
            DamagedError: one cannot.
        """
        for blob in self._chunks:
            check_blob(blob)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, at: int) -> Step: ...

    @overload
    def __getitem__(self, at: slice) -> Sequence[Step]: ...

    def __getitem__(self, at: int | slice) -> Step | Sequence[Step]:
        if isinstance(at, slice):
            return [self._step(*place) for place in self._places[at]]
        return self._step(*self._places[at])

    def _step(self, number: int, at: int) -> Step:
        steps = self._unpacked.get(number)
        if steps is None:
            events = unpack_events(self._chunks[number])
            steps = [event for event in events if isinstance(event, Step)]
            while len(self._unpacked) >= _KEPT_CHUNKS:
                del self._unpacked[next(iter(self._unpacked))]
            self._unpacked[number] = steps
        if at >= len(steps):
            raise DamagedError("steps of an answer are missing in the record")
        return steps[at]
