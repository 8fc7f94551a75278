"""Events and what is left of a finished answer, as the small blobs that the database holds.

Events are packed some at a time, as they were written together: a JSON line each as in a trace, but
for a step's nodes, which are rows under one list of names. A digest is all of an answer but its
steps, so that a chat of an earlier day is shown without reading a thousand trees.
"""

import json
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from operator import attrgetter
from types import NoneType
from typing import Any, get_args, get_type_hints

from sequoia_core.events import (
    Event,
    Failed,
    Finished,
    Origin,
    Outcome,
    Piece,
    PrefillDone,
    Step,
    TextDelta,
    TreeChosen,
    TreeNode,
)
from sequoia_core.files import parse_json
from sequoia_core.recording.json_codec import MisfitError, decode, encode
from sequoia_core.recording.trace_file import check_event

from ..state.answer import Answer, Chosen
from ..state.stats import Statistics
from .trouble import DamagedError

CUT_OFF = "cut off: the program was ended in the middle of this answer"

_KINDS: dict[str, type[Event]] = {kind.__name__: kind for kind in get_args(Event)}
_NODE_NAMES = [field.name for field in fields(TreeNode)]
_row_of = attrgetter(*_NODE_NAMES)
_STEP_NAMES = [field.name for field in fields(Step) if field.init and field.name != "nodes"]
_OUTCOME, _ORIGIN = _NODE_NAMES.index("outcome"), _NODE_NAMES.index("origin")
_OUTCOMES = {outcome.value: outcome for outcome in Outcome}
_ORIGINS = {origin.value: origin for origin in Origin}
_NODE_TYPES = tuple(
    frozenset({int}) if kind is int
    else frozenset({int, float, NoneType}) if kind == float | None
    else frozenset({str})
    for kind in (get_type_hints(TreeNode)[name] for name in _NODE_NAMES)
)  # fmt: skip
"""As JSON has them; outcome and origin are names there."""
_FAST = 1
_MOST_IDS = 1 << 31
_MOST_BYTES = 64_000_000
"""Of one blob, unpacked."""


@dataclass(frozen=True, slots=True)
class Digest:
    """All of an answer but its steps.

    Attributes:
        deltas: its text as it came.
        token_ids: as in `Answer`.
        trees: as in `Answer`.
        prefill: reading the prompt, or None before it was done.
        statistics: after the last step, or None before the first.
        finished: how it ended, or None where it failed.
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
    except (ValueError, MisfitError) as error:
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
            kind = _KINDS[record.pop("event")]
            event: Event = _step(record) if kind is Step else decode(kind, record)
            check_event(event)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError, MisfitError) as error:
            raise DamagedError(f"an event in the record is damaged: {error}") from None
        yield event


def _step(record: dict[str, Any]) -> Step:
    names, rows = record.pop("node_names"), record.pop("nodes")
    if names == _NODE_NAMES and _fit(rows):
        # hundreds of values a step: types are looked at by column
        for row in rows:
            row[_OUTCOME], row[_ORIGIN] = _OUTCOMES[row[_OUTCOME]], _ORIGINS[row[_ORIGIN]]
        nodes = tuple([TreeNode(*row) for row in rows])
    else:  # of another version of the program, or damaged
        nodes = tuple(decode(TreeNode, dict(zip(names, row, strict=True))) for row in rows)
    step: Step = decode(Step, record | {"nodes": []})
    return replace(step, nodes=nodes)


def _fit(rows: list[list[Any]]) -> bool:
    columns = zip(*rows, strict=True)
    return all(
        types.issuperset(map(type, column))
        for column, types in zip(columns, _NODE_TYPES, strict=True)
    )


def check_blob(blob: bytes) -> None:
    """Look whether a blob is as it was written; it carries a sum of its bytes.

    Raises:
        DamagedError: it is not.
    """
    _unpack(blob)


def _line(event: Event) -> str:
    if not isinstance(event, Step):
        record = {"event": type(event).__name__, **encode(event)}
    else:
        # a tree is hundreds of values, and this runs beside the decoding
        record = {"event": "Step", "node_names": _NODE_NAMES}
        record["nodes"] = list(map(_row_of, event.nodes))
        record |= {name: encode(getattr(event, name)) for name in _STEP_NAMES}
    return json.dumps(record, separators=(",", ":"), default=encode)


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
