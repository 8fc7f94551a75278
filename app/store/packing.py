"""Events, and all of an answer but its steps, as the small blobs that the database holds."""

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec
from msgspec.structs import astuple

from sequoia_core.events import (
    AnswerStart,
    Event,
    Finished,
    PrefillDone,
    Step,
    TextDelta,
    TreeNode,
)
from sequoia_core.files import MisfitError, decode, encode, parse_json
from sequoia_core.recording.trace_file import check_event

from ..state.answer import Answer, Chosen, Statistics
from .database import DamagedError

CUT_OFF = "cut off: the program was ended in the middle of this answer"
_NODE_NAMES = TreeNode.__struct_fields__
_STEP_NAMES = [name for name in Step.__struct_fields__ if name != "nodes"]
_FAST = 1
_MOST_IDS = 1 << 31
_MOST_BYTES = 64_000_000  # of one blob, unpacked

Chunk = tuple[int, bytes]
"""The number of steps, 0 where they were dropped, and the packed events."""


class Digest(msgspec.Struct, forbid_unknown_fields=True):
    """All of an answer but its steps, so that an old chat is shown without reading its trees."""

    deltas: list[TextDelta] = []
    token_ids: list[int] = []
    trees: list[Chosen] = []
    prefill: PrefillDone | None = None
    statistics: Statistics | None = None  # after the last step
    finished: Finished | None = None
    failure: str | None = None
    start: AnswerStart | None = None

    @classmethod
    def of(cls, answer: Answer, failure: str) -> "Digest":
        """Of an answer that has all of its deltas; without an end, it failed by `failure`."""
        return cls(
            answer.deltas,
            list(answer.token_ids),
            answer.trees,
            answer.prefill if isinstance(answer.prefill, PrefillDone) else None,
            answer.statistics[-1] if answer.statistics else None,
            answer.finished,
            answer.failure if answer.done else failure,
            answer.start,
        )

    @property
    def text(self) -> str:
        given = self.start.text if self.start is not None else ""
        return given + "".join(delta.text for delta in self.deltas)

    @property
    def ending(self) -> str:
        if self.finished is not None:
            return self.finished.reason.value
        return "cut off" if self.failure == CUT_OFF else "failed"

    def answer(self, prompt: str) -> Answer:
        """The answer as the screen remembers an old one."""
        answer = Answer(prompt, trees=self.trees, prefill=self.prefill)
        if self.start is not None:
            answer.add(self.start)
        answer.token_ids = self.token_ids
        for delta in self.deltas:
            answer.add(delta)
        if self.statistics is not None:
            answer.statistics.append(self.statistics)
        answer.finished, answer.failure = self.finished, self.failure
        answer.forget_steps()
        return answer


def digest_of(events: Iterable[Event], failure: str = CUT_OFF) -> Digest:
    """The digest of the answer that these events make; without an end, it failed by `failure`."""
    answer = Answer("")
    for event in events:
        answer.add(event)
        if not answer.done:
            answer.forget_steps()
    return Digest.of(answer, failure)


def pack_digest(digest: Digest) -> bytes:
    """Its events without their names, which older versions of the program refuse there.

    So they do what is special about an answer, which is left out where it is a usual one.
    """
    record = encode(digest)
    if digest.start is None:
        del record["start"]
    events = [*record["deltas"], *(each["tree"] for each in record["trees"])]
    events += [record.get("start"), record["prefill"], record["finished"]]
    for event in filter(None, events):
        del event["event"]
    return _pack(json.dumps(record, separators=(",", ":")))


def unpack_digest(blob: bytes) -> Digest:
    """The digest of a blob. Raises DamagedError if it is none."""
    try:
        digest: Digest = decode(Digest, parse_json(unpack(blob)))
        for delta in digest.deltas:
            check_event(delta)
        if digest.start is not None:
            check_event(digest.start)
        if any(not 0 <= token_id < _MOST_IDS for token_id in digest.token_ids):
            raise MisfitError("has a token id out of range")
    except ValueError as error:
        raise DamagedError(f"an answer's figures are damaged: {error}") from None
    return digest


def pack_events(events: Sequence[Event]) -> bytes:
    """A JSON line each as in a trace, but a step's nodes are rows under one list of names."""
    return _pack("\n".join(map(_line, events)))


def without_steps(blob: bytes) -> bytes:
    """What `pack_events` packed but the steps; empty if nothing else was."""
    kept = [line for line in unpack(blob).split("\n") if not line.startswith('{"event":"Step"')]
    return _pack("\n".join(kept)) if kept else b""


def unpack_events(blob: bytes) -> Iterator[Event]:
    """The events of a blob. Raises DamagedError if it holds anything else."""
    for line in unpack(blob).split("\n"):
        try:
            record = parse_json(line)
            if "node_names" in record:
                names = record.pop("node_names")
                record["nodes"] = [dict(zip(names, row, strict=True)) for row in record["nodes"]]
            event: Event = decode(Event, record)
            check_event(event)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DamagedError(f"an event in the record is damaged: {error}") from None
        yield event


def unpack_steps(chunks: Iterable[Chunk]) -> Iterator[Step]:
    """The steps of an answer, unpacked as they are read. Raises DamagedError if one cannot be."""
    for count, blob in chunks:
        if count:
            steps = [event for event in unpack_events(blob) if isinstance(event, Step)]
            if len(steps) != count:
                raise DamagedError("steps of an answer are missing in the record")
            yield from steps


def unpack(blob: Any) -> str:
    """The text of a blob. Raises DamagedError if it is not as it was packed: it has a checksum."""
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


def _line(event: Event) -> str:
    if not isinstance(event, Step):
        record = encode(event)
    else:
        # a tree is hundreds of values, and this runs beside the decoding
        record = {"event": "Step", "node_names": _NODE_NAMES}
        record["nodes"] = list(map(astuple, event.nodes))
        record |= {name: encode(getattr(event, name)) for name in _STEP_NAMES}
    return json.dumps(record, separators=(",", ":"))


def _pack(text: str) -> bytes:
    # a lone surrogate is escaped in JSON, so that this never fails
    return zlib.compress(text.encode(), _FAST)
