"""Events and digests of finished answers, as the small blobs that the database holds.

Events are packed some at a time, as they were written together: a JSON line each as in a trace, but
a step's nodes are rows under one list of names. A digest is all of an answer but its steps, so that
a chat of an earlier day is shown without reading a thousand trees.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from msgspec.structs import astuple

from sequoia_core.events import (
    Event,
    Failed,
    Finished,
    Piece,
    PrefillDone,
    Step,
    TextDelta,
    TreeChosen,
    TreeNode,
)
from sequoia_core.files import (
    MisfitError,
    Record,
    decode,
    decode_tagged,
    encode,
    encode_tagged,
    parse_json,
)
from sequoia_core.recording.trace_file import check_event

from ..state.answer import Answer, Chosen
from ..state.stats import Statistics
from .trouble import DamagedError

CUT_OFF = "cut off: the program was ended in the middle of this answer"

_NODE_NAMES = TreeNode.__struct_fields__
_STEP_NAMES = [name for name in Step.__struct_fields__ if name != "nodes"]
_FAST = 1
_MOST_IDS = 1 << 31
_MOST_BYTES = 64_000_000
"""Of one blob, unpacked."""


class Digest(Record, frozen=True):
    """All of an answer but its steps.

    Attributes:
        deltas: its text as it came.
        token_ids: as in `Answer`.
        trees: as in `Answer`.
        prefill: reading the prompt, or None before it was done.
        statistics: after the last step, or None before the first.
        finished: how it ended, or None if it failed.
        failure: why it failed.
    """

    deltas: tuple[TextDelta, ...] = ()
    token_ids: tuple[int, ...] = ()
    trees: tuple[Chosen, ...] = ()
    prefill: PrefillDone | None = None
    statistics: Statistics | None = None
    finished: Finished | None = None
    failure: str | None = None

    @property
    def text(self) -> str:
        """The text as the model wrote it."""
        return "".join(delta.text for delta in self.deltas)

    @property
    def ending(self) -> str:
        """How it ended, in a word or two."""
        if self.finished is not None:
            return self.finished.reason.value
        return "cut off" if self.failure == CUT_OFF else "failed"

    def answer(self, prompt: str) -> Answer:
        """The answer as the screen remembers an old one."""
        answer = Answer(prompt)
        for delta in self.deltas:
            answer.add(delta)
        answer.token_ids.extend(self.token_ids)
        answer.trees.extend(self.trees)
        answer.prefill = self.prefill
        if self.statistics is not None:
            answer.statistics.append(self.statistics)
        answer.finished, answer.failure = self.finished, self.failure
        answer.forget_steps()
        return answer


class Digesting:
    """A digest that grows with the events of an answer."""

    def __init__(self) -> None:
        self._deltas: list[TextDelta] = []
        self._token_ids: list[int] = []
        self._trees: list[Chosen] = []
        self._prefill: PrefillDone | None = None
        self._finished: Finished | None = None
        self._failure: str | None = None
        self._steps = 0

    def add(self, event: Event) -> None:
        """Take in the next event."""
        match event:
            case TextDelta():
                self._deltas.append(event)
            case Step():
                self._steps += 1
                self._token_ids += event.token_ids
            case TreeChosen():
                self._trees.append(Chosen(event, self._steps + 1))
            case PrefillDone():
                self._prefill = event
            case Finished():
                self._finished = event
            case Failed(message):
                self._failure = message

    def digest(self, statistics: Statistics | None, failure: str | None = None) -> Digest:
        """The digest of what was taken in; an answer that has not ended failed with `failure`."""
        ended = self._finished is not None or self._failure is not None
        return Digest(
            tuple(self._deltas),
            tuple(self._token_ids),
            tuple(self._trees),
            self._prefill,
            statistics,
            self._finished,
            self._failure if ended else failure,
        )


def digest_of(events: Iterable[Event], failure: str = CUT_OFF) -> Digest:
    """What is left of an answer whose events these are; it failed if they do not end it."""
    growing, statistics = Digesting(), Statistics()
    for event in events:
        growing.add(event)
        if isinstance(event, Step):
            statistics = statistics.plus(event)
    return growing.digest(statistics if statistics.totals.steps else None, failure)


def plain_digest(text: str, ending: str) -> Digest:
    """A digest of an answer of which only the text is known."""
    deltas = (TextDelta(0, text, (Piece(text, 0),)),) if text else ()
    return Digest(deltas, failure=f"{ending}; its figures are not in the record")


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


def check_blob(blob: bytes) -> None:
    """Check that a blob is as it was written; it carries a checksum.

    Raises:
        DamagedError: it is not.
    """
    _unpack(blob)


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
