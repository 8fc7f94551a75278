"""The file that a chat is recorded in: JSON lines, a header, then prompts and events in order.

A line is written whole and never changed, so a trace grows while an answer is decoded and survives
a kill; only the last line may be incomplete.

Version 1 held events alone; version 2 adds `Asked` before each answer, so that prompts, the time
of each, and which answer follows which are known.
"""

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from sequoia_core.errors import TraceError
from sequoia_core.events import Event, PairDescription, Step, TextDelta
from sequoia_core.files import (
    MisfitError,
    Record,
    decode,
    decode_tagged,
    encode,
    encode_tagged,
    parse_json,
)

FORMAT = "sequoia-trace"
VERSION = 2
VERSIONS_READ = (1, 2)
_NO_TREE = "Step: the nodes are no tree with a path"
_MOST_STEPS = 1 << 31
MOST_STEP_NODES = 4_096
"""Nodes of a step; several times what an engine drafts."""
_LONGEST_HEADER = 1_000_000
LONGEST_LINE = 32_000_000
"""Bytes; a step of 768 nodes has a hundredth of it, and no model reads a prompt that long."""


class Asked(Record, frozen=True):
    """A prompt; the events after it, up to the next prompt, are its answer.

    Attributes:
        prompt: what was asked.
        id: names the prompt with its answer within the chat.
        parent: id of the one that it follows, or None at the start; two with the same parent are
            branches.
        started: seconds since the epoch, or None if not known.
        temperature: as in `SamplingParams`, or None if not known.
    """

    prompt: str
    id: str
    parent: str | None = None
    started: float | None = None
    temperature: float | None = None


Entry = Asked | Event
"""A line of a trace after the header."""


def write_header(file: TextIO, description: PairDescription) -> None:
    """Write the first line of a trace."""
    header = {"format": FORMAT, "version": VERSION, "pair": encode(description)}
    file.write(json.dumps(header) + "\n")


def write_event(file: TextIO, event: Entry) -> None:
    """Append a prompt or an event as one line."""
    file.write(json.dumps(encode_tagged(event)) + "\n")


class TraceReader:
    """Reads a trace line by line, so that the first can be shown before the last is read.

    Iterate once. The file is open until it has been read to its end, or `close`.

    Args:
        path: of the trace.

    Attributes:
        path: of the trace.
        description: the pair that decoded.
        version: of the format.
        size: of the file in bytes.
        done: bytes read so far.
        note: after the end, one line about an incomplete last line; "" if there is none.

    Raises:
        TraceError: there is no such file, it is no trace, or of an unknown version.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.note = ""
        try:
            self._file = path.open("rb")
            self.size = path.stat().st_size
            line = self._file.readline(_LONGEST_HEADER)
        except OSError as error:
            raise TraceError(f"cannot read the trace {path}: {error.strerror}") from None
        self.done = len(line)
        try:
            self.version, self.description = self._header(line)
        except TraceError:
            self.close()
            raise

    def __iter__(self) -> Iterator[Entry]:
        """The entries in order.

        Raises:
            TraceError: a line is damaged.
        """
        with self._file:
            for number, line in enumerate(self._lines(), start=2):
                self.done += len(line)
                if len(line) > LONGEST_LINE:
                    raise self._damage(number, f"it has more than {LONGEST_LINE:,} bytes")
                try:
                    record = self._parse(number, line)
                except TraceError:
                    if not line.startswith(b"{") or line.endswith(b"\n"):
                        raise
                    self.note = (
                        f"line {number}, the last, was only half written; all before it is here"
                    )
                    return
                yield self._entry(number, record)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _lines(self) -> Iterator[bytes]:
        try:
            while line := self._file.readline(LONGEST_LINE + 1):
                yield line
        except OSError as error:
            raise TraceError(f"cannot read the trace {self.path}: {error.strerror}") from None

    def _header(self, line: bytes) -> tuple[int, PairDescription]:
        if not line:
            raise TraceError(f"{self.path} is not a trace: it is empty")
        header = self._parse(1, line)
        if header.get("format") != FORMAT:
            raise TraceError(f"{self.path} is not a trace: line 1 is not a {FORMAT} header")
        version = header.get("version")
        if version not in VERSIONS_READ:
            known = " and ".join(map(str, VERSIONS_READ))
            raise TraceError(
                f"{self.path} is a trace of version {version!r:.40}; this program reads {known}, "
                "a later one may read it"
            )
        try:
            return version, decode(PairDescription, header.get("pair"))
        except MisfitError as error:
            raise self._damage(1, str(error)) from None

    def _entry(self, number: int, record: dict[str, Any]) -> Entry:
        try:
            entry: Entry = decode_tagged(Entry, record)
            check_event(entry)
        except MisfitError as error:
            raise self._damage(number, str(error)) from None
        return entry

    def _parse(self, number: int, line: bytes) -> dict[str, Any]:
        try:
            record = parse_json(line)
        except UnicodeDecodeError:
            if number == 1:
                raise TraceError(f"{self.path} is not a trace: it is not UTF-8 text") from None
            raise self._damage(number, "not UTF-8 text") from None
        except json.JSONDecodeError:
            raise self._damage(number, "not a JSON object") from None
        except ValueError as error:
            raise self._damage(number, f"not a JSON object: {error}") from None
        if not isinstance(record, dict):
            raise self._damage(number, "not a JSON object")
        return record

    def _damage(self, number: int, what: str) -> TraceError:
        return TraceError(f"{self.path} is damaged at line {number}: {what}")


def check_event(event: Entry) -> None:
    """Check what the types do not say: a step is a tree, and numbers are in range.

    Raises:
        MisfitError: it is not.
    """
    if isinstance(event, Step):
        _check_step(event)
    if isinstance(event, TextDelta):
        if not 0 <= event.step < _MOST_STEPS:
            raise MisfitError("TextDelta: a step is out of range")
        if any(not 0 <= piece.rank <= MOST_STEP_NODES for piece in event.pieces):
            raise MisfitError("TextDelta: a piece has no rank")


def _check_step(step: Step) -> None:
    nodes, path = step.nodes, step.path
    if len(nodes) > MOST_STEP_NODES:
        raise MisfitError(f"Step: {len(nodes):,} nodes are more than {MOST_STEP_NODES:,}")
    rooted = bool(nodes) and (nodes[0].parent, nodes[0].depth) == (-1, 0)
    if not rooted or not all(
        0 <= node.parent < at and node.depth == nodes[node.parent].depth + 1
        for at, node in enumerate(nodes[1:], 1)
    ):
        raise MisfitError(_NO_TREE)
    if any(not 0 <= node.rank <= MOST_STEP_NODES for node in nodes):
        raise MisfitError("Step: a node has no rank")
    known = path[:1] == (0,) and all(0 <= node < len(nodes) for node in path)
    if not known or any(nodes[node].parent != above for above, node in pairwise(path)):
        raise MisfitError(_NO_TREE)
