"""The writer when things go wrong for long: the memory is bounded, and nobody waits for ever."""

import errno
import fcntl
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from app.store import growing_answers, writer
from app.store import recorder as recorders
from app.store.archive import Archive
from app.store.database import Operation, StoreError
from app.store.growing_answers import ChunkWritten, EventReceived, GrowingAnswers
from app.store.recorder import DatabaseRecorder
from app.store.writer import WriteNews
from sequoia_core.events import Step, TextDelta
from tests.app.records import (
    PATIENCE_SECONDS,
    exchange,
    recording,
    say,
    tell,
    wait_until_recovered,
)
from tests.fakes import make_answer

LONG = "word and so on. " * 100
STEPS = [event for event in make_answer(LONG) if isinstance(event, Step)]


# A writer that has ended by an error of its own


class Broken(GrowingAnswers):
    """Fails at the first event, once it is let go on."""

    let_go: threading.Event

    def add(self, received: EventReceived) -> Iterator[Operation]:
        assert self.let_go.wait(PATIENCE_SECONDS)
        raise RuntimeError("no such\nthing")
        yield


@pytest.fixture
def breaks(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """The writers made from now on end at the first event, once this is set."""
    monkeypatch.setattr(Broken, "let_go", threading.Event(), raising=False)
    monkeypatch.setattr(writer, "GrowingAnswers", Broken)
    return Broken.let_go


def ended(recorder: DatabaseRecorder) -> None:
    recorder._writer._thread.join(PATIENCE_SECONDS)
    assert not recorder._writer._thread.is_alive()


def test_what_waits_for_a_writer_that_ends_is_answered(path: Path, breaks: threading.Event) -> None:
    with recording(path) as recorder:
        say(recorder, "one")
        waiting = recorder.rename("some session", "a name")
        settled = threading.Thread(target=recorder.settle, args=(PATIENCE_SECONDS,))
        settled.start()
        later = recorder.delete("some session")
        breaks.set()
        for future in (waiting, later):
            with pytest.raises(StoreError, match="failed unexpectedly: no such thing"):
                future.result(PATIENCE_SECONDS)
        settled.join(PATIENCE_SECONDS / 2)
        assert not settled.is_alive()


def test_a_writer_that_has_ended_keeps_nothing_and_says_so(
    path: Path, breaks: threading.Event
) -> None:
    breaks.set()
    with recording(path) as recorder:
        say(recorder, "one")
        ended(recorder)
        for _ in range(100):
            say(recorder, "more")
        assert recorder._writer._inbox.empty()
        assert not recorder._writer.pending.operations
        with pytest.raises(StoreError, match="failed unexpectedly"):
            recorder.rename("some session", "a name").result(0)
        recorder.settle(PATIENCE_SECONDS)
        (news,) = recorder.news()
        assert isinstance(news, WriteNews)
        assert "nothing is saved from now on" in news.message
    assert "failed unexpectedly: no such thing" in recorder.unsaved
    assert "is not saved" in recorder.unsaved
    assert "\n" not in recorder.unsaved


def test_a_record_that_is_closed_takes_nothing_more(path: Path) -> None:
    with recording(path) as recorder:
        say(recorder, "one")
    say(recorder, "two")
    assert recorder._writer._inbox.empty()
    with pytest.raises(StoreError, match="closed"):
        recorder.rename("some session", "a name").result(0)
    assert recorder.unsaved == ""


def test_whoever_asked_may_have_gone(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, let_go = threading.Event(), threading.Event()
    rename = recorders._rename

    def slow(session: str, name: str | None) -> Operation:
        def renamed(to: sqlite3.Connection) -> None:
            begun.set()
            assert let_go.wait(PATIENCE_SECONDS)
            rename(session, name)(to)

        return renamed

    with recording(path) as recorder:
        say(recorder, "one")
        monkeypatch.setattr(recorders, "_rename", slow)
        asked = recorder.rename(recorder.session or "", "a name")
        assert begun.wait(PATIENCE_SECONDS)
        assert asked.cancel()
        let_go.set()
        say(recorder, "two")
    (info,) = Archive(path).sessions()
    assert (info.name, info.exchanges) == ("a name", 2)
    assert recorder.unsaved == ""


def test_a_disk_that_hangs_is_waited_for_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    let_go = threading.Event()

    def hang(_to: sqlite3.Connection) -> None:
        assert let_go.wait(PATIENCE_SECONDS)

    monkeypatch.setattr(recorders, "CLOSE_SECONDS", 0.05)
    recorder = DatabaseRecorder(path)
    recorder._writer.ask(hang)
    recorder.close()
    assert "the disk takes too long" in recorder.unsaved
    monkeypatch.setattr(recorders, "CLOSE_SECONDS", PATIENCE_SECONDS)
    began = time.monotonic()
    recorder.close()
    assert time.monotonic() - began < PATIENCE_SECONDS / 2
    let_go.set()
    ended(recorder)


# A file that cannot be written for long


@pytest.fixture
def little_memory(quick_retries: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for the steps of two long answers."""
    monkeypatch.setattr(growing_answers, "MOST_BYTES", 2 * packed_bytes())


def packed_bytes() -> int:
    """Of a long answer's events, as they come in one piece."""
    growing = GrowingAnswers()
    received = [EventReceived("x", event) for event in make_answer(LONG)]
    told = [each for one in received for each in growing.add(one)]
    return sum(len(each.events) for each in told if isinstance(each, ChunkWritten)) + 1


@contextmanager
def locked(path: Path) -> Iterator[Callable[[], object]]:
    """Another program locks the file; call what is given to free it."""
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield lambda: other.execute("ROLLBACK")


def waiting_bytes(recorder: DatabaseRecorder) -> int:
    """Of packed events with steps."""
    chunks = [
        each for each in recorder._writer.pending.operations if isinstance(each, ChunkWritten)
    ]
    return sum(len(each.events) for each in chunks if each.steps)


def test_steps_that_find_no_room_are_let_go_and_texts_are_kept(
    path: Path, little_memory: None
) -> None:
    with recording(path) as recorder:
        say(recorder, "before")
        recorder.settle(PATIENCE_SECONDS)
        with locked(path) as free:
            asked = []
            for at in range(6):
                asked.append(tell(recorder, exchange(f"meanwhile {at}"), make_answer(LONG)))
                recorder.settle(PATIENCE_SECONDS)
                assert waiting_bytes(recorder) <= growing_answers.MOST_BYTES
            messages = [news.message for news in recorder.news() if isinstance(news, WriteNews)]
            (dropped,) = [message for message in messages if "dropped" in message]
            assert "is locked by another program" in dropped
            assert "the texts are kept" in dropped
            kept = [len(list(recorder.steps(each.id))) for each in asked]
            assert kept == [len(STEPS)] * (6 - kept.count(0)) + [0] * kept.count(0)
            assert 1 <= 6 - kept.count(0) <= 2
            free()
        assert f"but the steps of {kept.count(0)} answers" in wait_until_recovered(recorder)
        history = recorder.archive.load(recorder.session or "").history
        assert len(history.exchanges) == 7
        for each, count in zip(asked, kept, strict=True):
            read = history.exchanges[each.id].answer
            assert read.verbatim == LONG
            assert list(read.token_ids) == list(each.answer.token_ids)
            assert read.footer() == each.answer.footer()
            assert len(list(recorder.steps(each.id))) == count
    assert recorder.unsaved == ""


def test_an_answer_whose_steps_are_let_go_as_it_grows_has_none_of_them(
    path: Path, little_memory: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(growing_answers, "MOST_BYTES", packed_bytes() // 3)
    events = make_answer(LONG)
    with recording(path) as recorder:
        asked = exchange("long")
        recorder.begin(asked)
        for event in events[:20]:
            recorder.event(asked.id, event)
        recorder.settle(PATIENCE_SECONDS)
        assert len(list(recorder.steps(asked.id))) > 0
        with locked(path) as free:
            for event in events[20:-20]:
                recorder.event(asked.id, event)
            recorder.settle(PATIENCE_SECONDS)
            assert len(list(recorder.steps(asked.id))) == 0
            free()
        wait_until_recovered(recorder)
        # a kill now would cost none of its text
        answer = recorder.archive.load(recorder.session or "").history.branch[0].answer
        said = [event.text for event in events[:-20] if isinstance(event, TextDelta)]
        assert answer.verbatim == "".join(said)
        for event in events[-20:]:
            recorder.event(asked.id, event)
        recorder.settle(PATIENCE_SECONDS)
        assert len(list(recorder.steps(asked.id))) == 0
        assert recorder.archive.load(recorder.session or "").history.branch[0].answer.text == LONG
        another = exchange("another")
        recorder.begin(another)
        for at, event in enumerate(events):
            if at % 20 == 0:  # a commit every few steps
                recorder.settle(PATIENCE_SECONDS)
            recorder.event(another.id, event)
        assert len(list(recorder.steps(another.id))) == len(STEPS)


def test_a_file_that_is_never_written_again_takes_no_more_memory_either(
    path: Path, little_memory: None
) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database at all\n" * 200)
    with recording(path) as recorder:
        asked = []
        for at in range(6):
            asked.append(tell(recorder, exchange(f"in memory {at}"), make_answer(LONG)))
            recorder.settle(PATIENCE_SECONDS)
            assert waiting_bytes(recorder) <= growing_answers.MOST_BYTES
        (news,) = recorder.news()
        assert isinstance(news, WriteNews)
        assert "is damaged" in news.message
        assert len(list(recorder.steps(asked[0].id))) == len(STEPS)
    assert "is damaged" in recorder.unsaved


def test_where_files_cannot_be_locked_no_lock_file_stays(
    path: Path, quick_retries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with recording(path) as recorder:
        say(recorder, "one")
    assert "No locks available" in recorder.unsaved
    assert list((path.parent / "windows").iterdir()) == []
