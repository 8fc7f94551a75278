"""The file that a chat is recorded in: JSON lines, a header, then prompts and events in order.

A line is written whole and never changed, so a trace survives a kill; only the last line may be
incomplete. Version 1 held events alone; version 2 adds `Asked` before each answer; version 3 adds
`Caption`, and `SceneInfo` in the header. A file may be compressed by gzip.
"""

import gzip
import json
import zlib
from collections.abc import Iterable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, TextIO

from sequoia_core import files
from sequoia_core.errors import TraceError
from sequoia_core.events import AnswerStart, Event, PairDescription, Step, TextDelta

FORMAT, VERSION = "sequoia-trace", 3
MOST_STEP_NODES = 4_096  # nodes of a step; several times what an engine drafts
LONGEST_LINE = 32_000_000
"""Bytes; a step of 768 nodes has a hundredth of it, and no model reads a prompt that long."""
MOST_UNPACKED = 256_000_000
"""Bytes of a compressed trace when unpacked; a day of decoding has less."""
LONGEST_CAPTION, LONGEST_PAUSE = 1_000, 3_600.0
"""Characters of a caption, or of a scene's title; seconds that a caption may stand."""
LAST_MOMENT = 253_000_000_000.0
"""Seconds since the epoch: in the year 9987, the last that every date can be made of."""
_LONGEST_HEADER = 1_000_000
_MOST_STEPS = _MOST_IDS = 1 << 31
_GZIP = b"\x1f\x8b"


class Asked(files.TaggedRecord, frozen=True):
    """A prompt; the events after it, up to the next prompt, are its answer."""

    prompt: str
    id: str  # names the prompt with its answer within the chat
    parent: str | None = None  # `id` that it follows; two with the same parent are branches
    started: float | None = None  # seconds since the epoch
    temperature: float | None = None  # as in `SamplingParams`


class Caption(files.TaggedRecord, frozen=True):
    """A sentence on what is shown at this place: after the prompt or the step before it."""

    text: str
    seconds: float  # for which a player waits here; 0 if it goes on at once
    node: int | None = None  # of the step, to be explained meanwhile


class SceneInfo(files.Record, frozen=True):
    """What a recording is, for a title over it."""

    title: str
    machine: str = ""  # its processor
    recorded: float | None = None  # seconds since the epoch


Entry = Asked | Caption | Event  # a line after the header


def write_header(
    file: TextIO, description: PairDescription, scene: SceneInfo | None = None
) -> None:
    header = {"format": FORMAT, "version": VERSION, "pair": files.encode(description)}
    if scene is not None:
        header["scene"] = files.encode(scene)
    file.write(json.dumps(header) + "\n")


def write_event(file: TextIO, event: Entry) -> None:
    """Append a prompt or an event as one line."""
    file.write(json.dumps(files.encode(event)) + "\n")


def recorded(
    path: Path, description: PairDescription, asked: Asked, events: Iterable[Event]
) -> Iterator[Event]:
    """Yield the events of an answer as they come, each after it is written into a new trace."""
    try:
        # a chat is not for other users of the machine
        with open(path, "w", encoding="utf-8", opener=files.private_file) as file:
            write_header(file, description)
            write_event(file, asked)
            for event in events:
                write_event(file, event)
                file.flush()
                yield event
    except OSError as error:
        raise TraceError(f"cannot write the trace {path}: {error.strerror}") from None


class TraceReader:
    """Reads a trace line by line, once, so that the first is shown before the last is read.

    The file is open until its end is read, or `close`. Raises TraceError if there is none, it is no
    trace, or of an unknown version, and while it is read if a line is damaged.

    Attributes:
        description: the pair that decoded.
        scene: what the recording is, if its header says so.
        size: of the file in bytes.
        done: bytes of lines read so far.
        share: of the file that was read, 0 to 1.
        note: after the end, one line about an incomplete last line; "" if there is none.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.note = ""
        self.done, self.share = 0, 0.0
        try:
            self._stored = path.open("rb")
            self.size = path.stat().st_size
            self._packed = self._stored.peek(len(_GZIP))[: len(_GZIP)] == _GZIP
        except OSError as error:
            raise TraceError(f"cannot read the trace {path}: {error.strerror}") from None
        self._file = gzip.GzipFile(fileobj=self._stored) if self._packed else self._stored
        try:
            self.description, self.scene = self._header(self._line(_LONGEST_HEADER))
        except TraceError:
            self.close()
            raise

    def __iter__(self) -> Iterator[Entry]:
        with self._stored:
            for number, line in enumerate(self._lines(), start=2):
                try:
                    record = _json_object(line)
                except files.MisfitError as error:
                    torn = line.startswith(b"{") and not line.endswith(b"\n")
                    if torn and len(line) <= LONGEST_LINE:
                        self.note = (
                            f"line {number}, the last, was only half written; all before it is here"
                        )
                        return
                    raise self._damage(number, error) from None
                try:
                    entry: Entry = files.decode(Entry, record)
                    check_event(entry)
                except files.MisfitError as error:
                    raise self._damage(number, error) from None
                yield entry

    def close(self) -> None:
        self._stored.close()

    def _lines(self) -> Iterator[bytes]:
        while line := self._line(LONGEST_LINE + 1):
            yield line

    def _line(self, limit: int) -> bytes:
        """The next line, or its first `limit` bytes; b"" at the end."""
        try:
            line = self._file.readline(limit)
            self.done += len(line)
            place = self._stored.tell() if self._packed else self.done
        except (EOFError, zlib.error, gzip.BadGzipFile):
            raise TraceError(f"{self.path} is damaged: it cannot be unpacked to its end") from None
        except OSError as error:
            reason = error.strerror or error
            raise TraceError(f"cannot read the trace {self.path}: {reason}") from None
        self.share = min(1.0, place / max(1, self.size))
        if self._packed and self.done > MOST_UNPACKED:
            raise TraceError(f"{self.path} unpacks to more than {MOST_UNPACKED:,} bytes")
        return line

    def _header(self, line: bytes) -> tuple[PairDescription, SceneInfo | None]:
        if not line:
            raise TraceError(f"{self.path} is not a trace: it is empty")
        try:
            header = _json_object(line)
        except files.MisfitError as error:
            raise TraceError(f"{self.path} is not a trace: line 1 is {error}") from None
        if header.get("format") != FORMAT:
            raise TraceError(f"{self.path} is not a trace: line 1 is not a {FORMAT} header")
        version = header.get("version")
        if version not in range(1, VERSION + 1):
            raise TraceError(
                f"{self.path} is a trace of version {version!r:.40}; this program reads 1 to "
                f"{VERSION}, a later one may read it"
            )
        try:
            description: PairDescription = files.decode(PairDescription, header.get("pair"))
            scene: SceneInfo | None = files.decode(SceneInfo | None, header.get("scene"))
            if scene is not None and len(scene.title + scene.machine) > LONGEST_CAPTION:
                raise files.MisfitError("SceneInfo: a text is too long")
        except files.MisfitError as error:
            raise self._damage(1, error) from None
        return description, scene

    def _damage(self, number: int, error: files.MisfitError) -> TraceError:
        return TraceError(f"{self.path} is damaged at line {number}: {error}")


def _json_object(line: bytes) -> dict[str, Any]:
    if len(line) > LONGEST_LINE:
        raise files.MisfitError(f"it has more than {LONGEST_LINE:,} bytes")
    try:
        record = files.parse_json(line)
    except UnicodeDecodeError:
        raise files.MisfitError("not UTF-8 text") from None
    except json.JSONDecodeError:
        record = None
    except ValueError as error:
        raise files.MisfitError(f"not a JSON object: {error}") from None
    if not isinstance(record, dict):
        raise files.MisfitError("not a JSON object")
    return record


def check_event(event: Entry) -> None:
    """Raise MisfitError for what the types do not say: no tree, or numbers out of range."""
    if isinstance(event, Step):
        _check_step(event)
    if isinstance(event, Asked) and not 0 <= (event.started or 0.0) <= LAST_MOMENT:
        raise files.MisfitError("Asked: its date is out of range")
    if isinstance(event, AnswerStart) and any(not 0 <= i < _MOST_IDS for i in event.token_ids):
        raise files.MisfitError("AnswerStart: a token id is out of range")
    if isinstance(event, Caption):
        _check_caption(event)
    if isinstance(event, TextDelta):
        if not 0 <= event.step < _MOST_STEPS:
            raise files.MisfitError("TextDelta: a step is out of range")
        if any(not 0 <= piece.rank <= MOST_STEP_NODES for piece in event.pieces):
            raise files.MisfitError("TextDelta: a piece has no rank")


def _check_caption(caption: Caption) -> None:
    if len(caption.text) > LONGEST_CAPTION:
        raise files.MisfitError(f"Caption: it has more than {LONGEST_CAPTION:,} characters")
    if not 0 <= caption.seconds <= LONGEST_PAUSE:
        raise files.MisfitError("Caption: its seconds are out of range")
    if caption.node is not None and not 0 <= caption.node < MOST_STEP_NODES:
        raise files.MisfitError("Caption: there is no such node")


def _check_step(step: Step) -> None:
    nodes, path = step.nodes, step.path
    if len(nodes) > MOST_STEP_NODES:
        raise files.MisfitError(f"Step: {len(nodes):,} nodes are more than {MOST_STEP_NODES:,}")
    is_tree = bool(nodes) and (nodes[0].parent, nodes[0].depth) == (-1, 0)
    is_tree = is_tree and all(
        0 <= node.parent < at and node.depth == nodes[node.parent].depth + 1
        for at, node in enumerate(nodes[1:], 1)
    )
    known = path[:1] == (0,) and all(0 <= node < len(nodes) for node in path)
    if not (is_tree and known) or any(nodes[b].parent != a for a, b in pairwise(path)):
        raise files.MisfitError("Step: the nodes are no tree with a path")
    if any(not 0 <= node.rank <= MOST_STEP_NODES for node in nodes):
        raise files.MisfitError("Step: a node has no rank")
