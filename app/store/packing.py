"""Events and digests as the small blobs that the database holds.

Events are packed some at a time, as they were written together: a JSON line each as in a trace, but
a step's nodes are rows under one list of names.
"""

import json
import zlib
from collections.abc import Iterator, Sequence
from typing import Any, overload

from msgspec.structs import astuple

from sequoia_core.events import Event, Step, TreeNode
from sequoia_core.files import (
    MisfitError,
    decode,
    decode_tagged,
    encode,
    encode_tagged,
    parse_json,
)
from sequoia_core.recording.trace_file import check_event

from .digest import Digest
from .errors import DamagedError

_NODE_NAMES = TreeNode.__struct_fields__
_STEP_NAMES = [name for name in Step.__struct_fields__ if name != "nodes"]
_KEPT_CHUNKS = 8
_FAST = 1
_MOST_IDS = 1 << 31
_MOST_BYTES = 64_000_000
"""Of one blob, unpacked."""


def pack_digest(digest: Digest) -> bytes:
    """The digest as a blob."""
    return _pack(json.dumps(encode(digest), separators=(",", ":")))


def unpack_digest(blob: bytes) -> Digest:
    """The digest of a blob.

    Raises:
        DamagedError: it is none.
    """
    try:
        digest: Digest = decode(Digest, parse_json(_unpack(blob)))
        for delta in digest.deltas:
            check_event(delta)
        if any(not 0 <= token_id < _MOST_IDS for token_id in digest.token_ids):
            raise MisfitError("has a token id out of range")
    except ValueError as error:
        raise DamagedError(f"an answer's figures are damaged: {error}") from None
    return digest


def pack_events(events: Sequence[Event]) -> bytes:
    """Events as a blob."""
    return _pack("\n".join(map(_line, events)))


def unpack_events(blob: bytes) -> Iterator[Event]:
    """The events of a blob.

    Raises:
        DamagedError: it holds anything else.
    """
    for line in _unpack(blob).split("\n"):
        try:
            record = parse_json(line)
            if "node_names" in record:
                names = record.pop("node_names")
                record["nodes"] = [dict(zip(names, row, strict=True)) for row in record["nodes"]]
            event: Event = decode_tagged(Event, record)
            check_event(event)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"an event in the record is damaged: {error}") from None
        yield event


class RecordedSteps(Sequence[Step]):
    """The steps of an answer: a few of them unpacked, the others packed.

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
        """Check that all chunks are as they were written; each carries a checksum.

        Raises:
            DamagedError: one is not.
        """
        for blob in self._chunks:
            _unpack(blob)

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


def _line(event: Event) -> str:
    if not isinstance(event, Step):
        record = encode_tagged(event)
    else:
        # a tree is hundreds of values, and this runs beside the decoding
        record = {"event": "Step", "node_names": _NODE_NAMES}
        record["nodes"] = list(map(astuple, event.nodes))
        record |= {name: encode(getattr(event, name)) for name in _STEP_NAMES}
    return json.dumps(record, separators=(",", ":"))


def _pack(text: str) -> bytes:
    # a lone surrogate is escaped in JSON, so that this never fails
    return zlib.compress(text.encode(), _FAST)


def _unpack(blob: Any) -> str:
    # a few bytes can stand for gigabytes: no more is unpacked than is ever packed
    unpacking = zlib.decompressobj()
    try:
        text = unpacking.decompress(blob, _MOST_BYTES)
        if not unpacking.eof:
            large = len(text) == _MOST_BYTES
            raise ValueError(f"more than {_MOST_BYTES:,} bytes" if large else "it is cut off")
        return text.decode()
    except (zlib.error, ValueError, TypeError) as error:
        raise DamagedError(f"a part of the record is damaged: {error}") from None
