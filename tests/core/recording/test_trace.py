"""A trace read back is what was written; anything else is one clear error; replay is faithful."""

import gzip
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from sequoia_core.config import SamplingParams
from sequoia_core.errors import ParameterError, TraceError
from sequoia_core.events import (
    Event,
    Finished,
    FinishReason,
    PairDescription,
    Piece,
    PrefillDone,
    Step,
    StepTimings,
    TextDelta,
    Totals,
    TreeChosen,
    TreeNode,
)
from sequoia_core.files import decode, encode
from sequoia_core.recording.trace_file import (
    LONGEST_CAPTION,
    Asked,
    Caption,
    Entry,
    SceneInfo,
    TraceReader,
    write_event,
    write_header,
)
from tests.fakes import PAIR, make_answer, replay
from tests.replay_engine import ReplayEngine, Trace, read_trace

texts = st.text(st.characters(), max_size=8)
nodes = st.builds(TreeNode, text=texts)
pieces = st.builds(Piece, text=texts, rank=st.integers(0, 9))


def tree_of(drawn: list[TreeNode]) -> tuple[TreeNode, ...]:
    """The nodes with parents that come before them."""
    made: list[TreeNode] = []
    for at, node in enumerate(drawn):
        parent = node.parent % at if at else -1
        depth = made[parent].depth + 1 if at else 0
        made.append(replace(node, parent=parent, depth=depth, rank=node.rank % 4))
    return tuple(made)


steps = st.builds(
    Step,
    nodes=st.lists(nodes, min_size=1, max_size=4).map(tree_of),
    path=st.just((0,)),
    bonus_text=texts,
    timings=st.builds(StepTimings),
)
events: st.SearchStrategy[Entry] = st.one_of(
    steps,
    st.builds(Asked, prompt=texts, id=texts),
    st.builds(Caption, text=texts, seconds=st.floats(0, 99), node=st.none() | st.integers(0, 9)),
    st.builds(TextDelta, step=st.integers(0, 99), text=texts, pieces=st.lists(pieces).map(tuple)),
    *(st.builds(kind) for kind in get_args(Event) if kind not in (Step, TextDelta)),
)


def written(recorded: Sequence[Entry]) -> str:
    file = io.StringIO()
    write_header(file, PAIR)
    for event in recorded:
        write_event(file, event)
    return file.getvalue()


@settings(deadline=None, max_examples=150)
@given(recorded=st.lists(events, max_size=6))
def test_what_was_written_is_read_back(
    recorded: list[Entry], tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("trace") / "a.jsonl"
    path.write_text(written(recorded), encoding="utf-8")
    # By repr, since a number may be nan.
    assert repr(read_trace(path)) == repr(Trace(PAIR, tuple(recorded)))


@pytest.mark.parametrize("kind", get_args(Event))
def test_the_round_trip_covers_every_event(kind: type[Event]) -> None:
    many = settings(max_examples=5000, database=None, derandomize=True, phases=[Phase.generate])
    assert find(events, lambda event: isinstance(event, kind), settings=many)


HEADER = written([]).rstrip("\n")


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("", "empty"),
        ("hello", "line 1"),
        ('{"format": "other"}', "line 1 is not a sequoia-trace header"),
        (HEADER.replace('"version": 3', '"version": 9'), "version 9; this program reads 1 to 3"),
        (HEADER.replace('"version": 3', '"version": "' + "9" * 999 + '"'), "version '99"),
        (HEADER[:40], "line 1"),
        (HEADER.replace('"target"', '"goal"'), "line 1"),
        (HEADER + "\n[1]", "line 2"),
        (HEADER + "\n" + "[" * 100_000, "line 2"),
        (HEADER + '\n{"event": "Step"\n', "line 2"),
        (HEADER + '\n{"event": "Step"\n{"event": "Fai', "line 2"),
        (HEADER + '\n{"event": "Asked", "prompt": "a"}', "id"),
        (HEADER[:-1] + ', "scene": {"title": 3}}', "line 1"),
        (HEADER[:-1] + ', "scene": {"title": "' + "x" * 2000 + '"}}', "too long"),
        (HEADER + '\n{"event": "Caption", "text": "a"}', "seconds"),
        (HEADER + '\n{"event": "Explosion"}', "Invalid value 'Explosion'"),
        (HEADER + '\n{"event": []}', "Expected `str`"),
        (HEADER + '\n{"event": "Failed"}', "message"),
        (HEADER + '\n{"event": "Failed", "message": 3}', "Expected `str`"),
        (HEADER + '\n{"event": "Failed", "message": "a", "more": 1}', "more"),
        (HEADER + '\n{"event": "Notice", "kind": "gossip", "message": "a"}', "gossip"),
        (HEADER + '\n{"event": "PrefillProgress", "done": true, "total": 1}', "Expected `int`"),
        (
            HEADER + '\n{"event": "TextDelta", "step": 1, "text": "", "pieces": 4}',
            "`array`",
        ),
        (
            HEADER + '\n{"event": "TextDelta", "step": 1, "text": "", "pieces": [4]}',
            "`object`",
        ),
    ],
)
def test_damage_is_one_clear_line(content: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "damaged.jsonl"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    message = str(caught.value)
    assert complaint in message
    assert str(path) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "changed",
    [
        {"nodes": ()},
        {"path": ()},
        {"path": (1,)},
        {"path": (0, 99)},
        {"path": (0, -1)},
        {"path": (0, 0)},
    ],
)
def test_a_step_without_a_tree_is_one_clear_line(changed: dict[str, Any], tmp_path: Path) -> None:
    step = next(event for event in make_answer("a b c") if isinstance(event, Step))
    path = tmp_path / "damaged.jsonl"
    path.write_text(written([replace(step, **changed)]), encoding="utf-8")
    with pytest.raises(TraceError, match="line 2: Step: the nodes are no tree"):
        read_trace(path)


def test_a_trace_older_than_a_field_with_a_default_still_reads(tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    old = '{"event": "TreeChosen", "mode": "ar", "growmap": "", "nodes": 1, "depth": 0}'
    path.write_text(f"{HEADER}\n{old}\n", encoding="utf-8")
    assert read_trace(path).events == (TreeChosen("ar", "", 1, 0),)


def test_a_prompt_with_all_turns_is_written_as_before_turns_were_counted() -> None:
    usual, cut = PrefillDone(9, 3, 0.5), PrefillDone(9, 3, 0.5, left_out=2)
    assert set(encode(usual)) == {"event", "prompt_tokens", "cached_tokens", "seconds"}
    assert decode(Event, encode(cut)) == cut


def test_a_file_that_is_no_text_or_not_there_is_one_clear_line(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    for path in (binary, tmp_path, tmp_path / "missing"):
        with pytest.raises(TraceError, match=str(path)):
            read_trace(path)


def test_every_prefix_of_a_trace_is_read_as_far_as_its_lines_are_whole(tmp_path: Path) -> None:
    """A recorder that was killed leaves a prefix."""
    recorded = [Asked("Say hello.", "1", None, 12.5, 0.0), *make_answer("Hello there, world.")]
    content = written(recorded)
    path = tmp_path / "part.jsonl"
    for length in range(len(HEADER), len(content) + 1, 61):
        path.write_text(content[:length], encoding="utf-8")
        trace = read_trace(path)
        assert list(trace.entries) == recorded[: len(trace.entries)]
        # All that is missing at most is the line that the cut went through.
        whole = content[:length].count("\n") - 1
        assert len(trace.entries) in (max(0, whole), whole + 1)
        left = length - len(content[:length].rpartition("\n")[0]) - 1
        torn = whole >= 0 and left > 0 and len(trace.entries) == whole
        assert bool(trace.note) == torn
        assert not torn or f"line {whole + 2}," in trace.note


@pytest.mark.parametrize("version", [1, 2])
def test_older_versions_read_as_they_did(version: int, tmp_path: Path) -> None:
    path = tmp_path / "old.jsonl"
    answer = make_answer("Hello.")
    path.write_text(written(answer).replace('"version": 3', f'"version": {version}'), "utf-8")
    assert read_trace(path) == Trace(PAIR, answer)
    reader = TraceReader(path)
    reader.close()
    assert reader.scene is None


@pytest.mark.parametrize(
    "changed",
    [
        {"text": "x" * (LONGEST_CAPTION + 1)},
        {"seconds": -1.0},
        {"seconds": float("nan")},
        {"seconds": float("inf")},
        {"seconds": 1e9},
        {"node": -1},
        {"node": 1 << 40},
    ],
)
def test_a_caption_out_of_range_is_one_clear_line(changed: dict[str, Any], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(written([replace(Caption("Look.", 2.0), **changed)]), encoding="utf-8")
    with pytest.raises(TraceError, match=r"damaged at line 2: Caption: "):
        read_trace(path)


def test_a_header_says_what_the_recording_is(tmp_path: Path) -> None:
    path, file = tmp_path / "a.jsonl", io.StringIO()
    scene = SceneInfo("What a tree is", "a processor", 1000.0)
    write_header(file, PAIR, scene)
    path.write_text(file.getvalue(), encoding="utf-8")
    reader = TraceReader(path)
    reader.close()
    assert (reader.description, reader.scene) == (PAIR, scene)


# Compressed traces


def packed(folder: Path, content: bytes) -> Path:
    path = folder / "a.jsonl.gz"
    path.write_bytes(content)
    return path


def test_a_compressed_trace_reads_as_the_same(tmp_path: Path) -> None:
    recorded = (Asked("Say hello.", "1"), Caption("Look.", 2.0), *make_answer("Hello there."))
    path = packed(tmp_path, gzip.compress(written(recorded).encode()))
    reader = TraceReader(path)
    assert tuple(reader) == recorded
    assert reader.share == 1.0


def test_damage_of_a_compressed_trace_is_one_clear_line(tmp_path: Path) -> None:
    whole = gzip.compress(written(make_answer()).encode())
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 0xFF
    for content in (whole[: len(whole) // 2], whole[:2], bytes(changed), b"\x1f\x8bnonsense"):
        with pytest.raises(TraceError) as caught:
            read_trace(packed(tmp_path, content))
        assert str(tmp_path) in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_trace_is_unpacked_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequoia_core.recording.trace_file.MOST_UNPACKED", 100_000)
    line = json.dumps({"event": "Failed", "message": "x" * 1000}) + "\n"
    path = packed(tmp_path, gzip.compress((HEADER + "\n" + line * 1000).encode()))
    assert path.stat().st_size < 10_000
    with pytest.raises(TraceError, match="unpacks to more than 100,000 bytes"):
        read_trace(path)


def test_events_are_the_entries_without_prompts_and_a_torn_answer_is_no_answer() -> None:
    torn, whole = make_answer("One.")[:-1], make_answer("Two.")
    trace = Trace(PAIR, (Asked("a", "1"), *torn, Asked("b", "2", "1"), *whole))
    assert trace.events == (*torn, *whole)
    assert tuple(ask(ReplayEngine(trace))) == whole


def test_a_reader_tells_how_far_it_is_and_who_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(written(make_answer("Hello.")), encoding="utf-8")
    reader = TraceReader(path)
    description: PairDescription = reader.description
    assert description == PAIR
    places = [reader.done for _ in reader]
    assert places == sorted(set(places))
    assert places[-1] == reader.size == path.stat().st_size


def ask(engine: ReplayEngine, stop_after: int = 10**6) -> list[Event]:
    seen: list[Event] = []
    stop = lambda: sum(isinstance(event, Step) for event in seen) >= stop_after  # noqa: E731
    for event in engine.reply("why?", SamplingParams(), stop):
        seen.append(event)
    return seen


def test_replay_gives_the_answers_in_turn_and_begins_again() -> None:
    first, second = make_answer("One."), make_answer("Two and three.")
    engine = replay(first, second)
    assert [tuple(ask(engine)) for _ in range(3)] == [first, second, first]
    engine.clear()
    assert tuple(ask(engine)) == first


@pytest.mark.parametrize("stop_after", [0, 1, 5])
def test_a_stopped_replay_ends_after_whole_steps_with_their_totals(stop_after: int) -> None:
    seen = ask(replay(), stop_after)
    totals = Totals()
    for event in seen:
        totals = totals.plus(event) if isinstance(event, Step) else totals
    assert totals.steps == stop_after
    assert seen[-1] == Finished(FinishReason.CANCELLED, totals)


def test_replay_refuses_blank_prompts_and_traces_without_an_answer() -> None:
    with pytest.raises(ParameterError):
        replay().reply(" \n", SamplingParams(), lambda: False)
    with pytest.raises(TraceError):
        ReplayEngine(Trace(PAIR, make_answer()[:-1]))
