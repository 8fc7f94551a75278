"""The record: what was recorded is there, whatever happens to the program, the disk or the file."""

import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.state.answer import Answer
from app.store import database, writer
from app.store.archive import Archive
from app.store.database import StoreError
from app.store.growing_answers import CLOSED
from app.store.open_windows import LeftOpen
from app.store.packing import CUT_OFF
from app.store.recorder import DatabaseRecorder
from app.store.text_search import terms
from app.store.writer import WriteNews
from sequoia_core.events import Event, Step
from tests.app.records import (
    PATIENCE_SECONDS,
    events_in,
    exchange,
    record_chats,
    recording,
    say,
    steps_in,
    tell,
    wait_until_recovered,
    write_failures,
)
from tests.fakes import make_answer

ROOT = Path(__file__).parents[3]


def steps_of(events: tuple[Event, ...]) -> list[Step]:
    return [event for event in events if isinstance(event, Step)]


# What was recorded is there


def test_a_chat_is_read_as_it_was_recorded(path: Path) -> None:
    with recording(path) as recorder:
        recorder.about("target", "draft", "be brief")
        first = say(recorder, "Why?\nReally, why?")
        second = say(recorder, "And then?", "Then **nothing**.", first.id)
        other = say(recorder, "And else?", "Else.", first.id)
        recorder.select(second.id)
    stored = Archive(path).load(recorder.session or "")
    history = stored.history
    assert [each.id for each in history.branch] == [first.id, second.id]
    assert [each.id for each in history.exchanges.values()] == [first.id, second.id, other.id]
    for told in (first, second, other):
        read = history.exchanges[told.id]
        assert (read.parent, read.prompt, read.started) == (told.parent, told.prompt, told.started)
        assert read.answer.verbatim == told.answer.verbatim
        assert list(read.answer.token_ids) == list(told.answer.token_ids)
        assert read.answer.footer() == told.answer.footer()
        assert read.answer.done
    assert (stored.target, stored.system) == ("target", "be brief")
    assert stored.info.title == "Why?"
    assert stored.info.exchanges == 3


@settings(deadline=None, max_examples=15)
@given(texts=st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=4), data=st.data())
def test_any_text_and_any_tree_of_branches_is_read_as_it_was_recorded(
    tmp_path_factory: pytest.TempPathFactory, texts: list[str], data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("any") / "sessions.db"
    told: list[tuple[str, str | None, str]] = []
    with recording(path) as recorder:
        for text in texts:
            before = [None, *(each[0] for each in told)]
            parent = data.draw(st.sampled_from(before)) if told else None
            asked = exchange(text, parent)
            tell(recorder, asked, make_answer(text))
            told.append((asked.id, parent, text))
    history = Archive(path).load(recorder.session or "").history
    assert [each.id for each in history.exchanges.values()] == [each[0] for each in told]
    for name, parent, text in told:
        read = history.exchanges[name]
        stored = text.encode("utf-8", "replace").decode()
        assert (read.parent, read.prompt, read.answer.verbatim) == (parent, stored, text)
    assert history.branch[-1].id == told[-1][0]


def test_every_event_is_kept_in_order_and_every_step_is_found(path: Path) -> None:
    events = make_answer("word " * 200)
    with recording(path) as recorder:
        asked = tell(recorder, exchange("go on"), events)
        assert list(recorder.steps(asked.id)) == steps_of(events)
    assert events_in(path, asked.id) == list(events)
    assert steps_in(Archive(path), asked.id) == steps_of(events)


def test_nothing_is_made_before_there_is_something_to_keep_but_the_file(path: Path) -> None:
    with recording(path):
        pass
    assert Archive(path).sessions() == []


def test_the_file_is_for_its_owner_only(path: Path) -> None:
    record_chats(path, ("a", "b"))
    assert path.stat().st_mode & 0o077 == 0
    assert path.parent.stat().st_mode & 0o077 == 0


def test_a_chat_that_is_over_is_followed_by_another_session(path: Path) -> None:
    record_chats(path, ("one", "first"), ("two", "second"))
    assert [info.title for info in Archive(path).sessions()] == ["two", "one"]


def test_a_chat_that_began_before_the_models_were_known_is_held_with_them(path: Path) -> None:
    with recording(path) as recorder:
        recorder.about("", None, "be brief")
        say(recorder, "why?")
        recorder.about("target", "draft", "be brief")
        recorder.about("another", None, "be brief")
    stored = Archive(path).load(recorder.session or "")
    assert (stored.target, stored.system) == ("target", "be brief")


def test_a_session_of_yesterday_goes_on(path: Path) -> None:
    with recording(path) as recorder:
        first = say(recorder, "one")
    with recording(path) as again:
        again.resume(recorder.session or "")
        second = say(again, "two", parent=first.id)
    (info,) = Archive(path).sessions()
    assert info.exchanges == 2
    assert Archive(path).load(info.id).history.branch[-1].id == second.id


@dataclass(frozen=True)
class Result:
    """Stands for what a race came to."""

    name: str


def test_races_are_kept_after_the_exchange_they_were_run_after(path: Path) -> None:
    with recording(path) as recorder:
        recorder.race(None, Result("before the first"))
        recorder.race(None, Result("once more"))
        first = say(recorder, "one")
        recorder.race(first.id, Result("the message"))
        second = say(recorder, "two", parent=first.id)
        say(recorder, "three", parent=first.id)
        recorder.select(second.id)
        recorder.race(None, Result("a prompt on a branch"))
        session = recorder.session or ""
    with sqlite3.connect(path) as old:  # as it was written when only the message raced was noted
        old.execute(
            "INSERT INTO race (session, run, result) VALUES (?, ?, 'old')",
            (session, second.started - 1e-6),
        )
    old.close()
    assert Archive(path).races(session) == [
        (None, '{"name": "before the first"}'),
        (None, '{"name": "once more"}'),
        (first.id, '{"name": "the message"}'),
        (second.id, '{"name": "a prompt on a branch"}'),
        (first.id, "old"),
    ]


def leave(recorder: DatabaseRecorder) -> None:
    del recorder


def clear(recorder: DatabaseRecorder) -> None:
    recorder.clear()
    say(recorder, "another chat")


def go_on_with_another(recorder: DatabaseRecorder) -> None:
    recorder.resume("of another day")
    say(recorder, "another chat")


@pytest.mark.parametrize("act", [leave, clear, go_on_with_another])
def test_a_race_without_a_message_after_it_is_kept_nowhere(
    path: Path, act: Callable[[DatabaseRecorder], None]
) -> None:
    with recording(path) as recorder:
        recorder.race(None, Result("alone"))
        act(recorder)
    titles = [info.title for info in Archive(path).sessions()]
    assert titles == ([] if act is leave else ["another chat"])
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM race").fetchone() == (0,)
    connection.close()


# Killed

CHILD = """
import itertools, sys
from pathlib import Path
from app.store.recorder import DatabaseRecorder
from sequoia_core.events import Step, TextDelta, Piece
from tests.app.records import exchange, say
from tests.fakes import make_answer, make_step
recorder = DatabaseRecorder(Path(sys.argv[1]))
first = say(recorder, "first")
asked = exchange("second", first.id)
recorder.begin(asked)
for index in itertools.count(1):
    text = f"{index} "
    recorder.event(asked.id, TextDelta(index, text, (Piece(text, 0),)))
    recorder.event(asked.id, make_step(index, "a", [(text, 0)]))
    if index == 150:
        recorder.settle(60)
        print(index, flush=True)
"""


def killed_in_the_middle(path: Path) -> int:
    """Kill a process that records; how many steps it had seen written."""
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert child.stdout is not None
    with child:
        written = int(child.stdout.readline())
        child.kill()
    return written


def test_a_kill_costs_nothing_that_was_written_and_the_next_start_knows(path: Path) -> None:
    written = killed_in_the_middle(path)
    with recording(path) as recorder:
        recorder.settle(PATIENCE_SECONDS)
        (left,) = recorder.news()
        assert isinstance(left, LeftOpen)
        assert left.cut_off
        history = recorder.archive.load(left.session).history
        first, second = history.branch
        assert first.answer.finished is not None
        assert second.answer.failure == CUT_OFF
        numbers = second.answer.text.split()
        assert len(numbers) >= written
        assert numbers == [str(at) for at in range(1, len(numbers) + 1)]
        steps = steps_in(recorder.archive, second.id)
        assert [step.index for step in steps] == list(range(1, len(steps) + 1))
        assert len(list(second.answer.token_ids)) == len(steps)
        # what was cut off is found by its words
        assert [each.exchange for each in recorder.archive.search(terms("149"), 5)] == [second.id]
        (info,) = recorder.archive.sessions()
        assert (info.cut_off, info.windows) == (1, 0)
    with recording(path) as again:  # and it is offered once
        again.settle(PATIENCE_SECONDS)
        assert again.news() == []
    assert list((path.parent / "windows").iterdir()) == []


def test_an_offer_is_made_again_if_the_window_that_made_it_is_killed_too(path: Path) -> None:
    killed_in_the_middle(path)
    first = DatabaseRecorder(path)
    first.settle(PATIENCE_SECONDS)
    (offered,) = first.news()
    lock = first._writer._lock
    assert lock is not None
    lock.close()  # what is left of a window that was killed
    first._writer._lock = None
    with recording(path) as second:
        second.settle(PATIENCE_SECONDS)
        assert second.news() == [offered]
    first.close()


def test_an_answer_that_another_window_is_writing_is_not_cut_off(path: Path) -> None:
    with recording(path) as recorder:
        asked = exchange("still going")
        recorder.begin(asked)
        for event in make_answer()[:9]:
            recorder.event(asked.id, event)
        recorder.settle(PATIENCE_SECONDS)
        with recording(path) as other:
            other.settle(PATIENCE_SECONDS)
            assert other.news() == []
            (info,) = other.archive.sessions()
            assert (info.cut_off, info.windows) == (0, 1)
            read = other.archive.load(info.id).history.branch[0].answer
            assert read.done
            assert read.text
            assert "another window" in (read.failure or "")
        for event in make_answer()[9:]:
            recorder.event(asked.id, event)
    assert Archive(path).load(info.id).history.branch[0].answer.finished is not None
    assert events_in(path, asked.id) == list(make_answer())


def test_closing_in_the_middle_of_an_answer_keeps_what_there_is(path: Path) -> None:
    with recording(path) as recorder:
        asked = exchange("interrupted")
        recorder.begin(asked)
        for event in make_answer()[:9]:
            recorder.event(asked.id, event)
    answer = Archive(path).load(recorder.session or "").history.branch[0].answer
    assert answer.text
    assert answer.failure == CLOSED
    assert Archive(path).sessions()[0].cut_off == 0


# Two windows


def test_two_windows_write_one_database(path: Path) -> None:
    with recording(path) as left, recording(path) as right:
        for turn in range(10):
            say(left, f"left {turn}")
            say(right, f"right {turn}")
        left.settle(PATIENCE_SECONDS)
        right.settle(PATIENCE_SECONDS)
        assert not [*left.news(), *right.news()]
    infos = Archive(path).sessions()
    assert sorted(info.exchanges for info in infos) == [10, 10]


def test_two_windows_go_on_with_one_session(path: Path) -> None:
    with recording(path) as left:
        first = say(left, "first")
        left.settle(PATIENCE_SECONDS)
        with recording(path) as right:
            right.resume(left.session or "")
            theirs = say(right, "theirs", parent=first.id)
            ours = say(left, "ours", parent=first.id)
            right.settle(PATIENCE_SECONDS)
    history = Archive(path).load(left.session or "").history
    assert set(history.exchanges) == {first.id, theirs.id, ours.id}


# Names, deleting and bringing back


def test_names(path: Path) -> None:
    record_chats(path, ("one", "a"), ("two", "b"))
    with recording(path) as recorder:
        two, one = recorder.archive.sessions()
        recorder.rename(one.id, "Käfer").result(PATIENCE_SECONDS)
        with pytest.raises(StoreError, match="another session is called"):
            recorder.rename(two.id, "KAFER").result(PATIENCE_SECONDS)
        assert recorder.archive.find("käf").id == one.id
        assert recorder.archive.find("TWO").id == two.id
        with pytest.raises(StoreError, match="no session is called"):
            recorder.archive.find("nothing")
        recorder.rename(one.id, None).result(PATIENCE_SECONDS)
        assert recorder.archive.find("one").id == one.id
        with pytest.raises(StoreError, match="not in the record"):
            recorder.rename("nonsense", "x").result(PATIENCE_SECONDS)


def test_what_is_deleted_comes_back_until_the_window_is_closed(path: Path) -> None:
    record_chats(path, ("zebra", "unicorn"), ("two", "unicorn"))
    with recording(path) as recorder:
        two, one = recorder.archive.sessions()
        recorder.delete(one.id).result(PATIENCE_SECONDS)
        recorder.delete(two.id).result(PATIENCE_SECONDS)
        assert recorder.archive.search(terms("unicorn"), 5) == []
        recorder.undelete(two.id).result(PATIENCE_SECONDS)
        assert [found.label for found in recorder.archive.search(terms("uni"), 5)] == ["two"]
    assert [info.id for info in Archive(path).sessions()] == [two.id]
    for file in path.parent.glob("sessions.db*"):
        assert not file.read_bytes().count(b"zebra")
    with recording(path) as recorder, pytest.raises(StoreError, match="gone for good"):
        recorder.undelete(one.id).result(PATIENCE_SECONDS)


def test_a_deleted_session_that_goes_on_in_another_window_is_back(path: Path) -> None:
    with recording(path) as writing, recording(path) as deleting:
        first = say(writing, "first")
        writing.settle(PATIENCE_SECONDS)
        deleting.delete(writing.session or "").result(PATIENCE_SECONDS)
        second = say(writing, "second", parent=first.id)
        writing.settle(PATIENCE_SECONDS)
        (info,) = deleting.archive.sessions()
        assert not info.deleted
    assert Archive(path).load(info.id).history.branch[-1].id == second.id


# Searching


def test_searching_finds_prompts_and_answers_the_newest_first(path: Path) -> None:
    record_chats(
        path,
        ("Why is the sky blue?", "Rayleigh scattering, of course."),
        ("And the sea?", "It mirrors the **blue** sky. x->y, C++"),
        ("天空为什么是蓝色的", "因为瑞利散射"),
    )
    archive = Archive(path)

    def found(query: str) -> list[str]:
        return [each.label for each in archive.search(terms(query), 10)]

    assert found("blue") == ["And the sea?", "Why is the sky blue?"]
    assert found("scat") == ["Why is the sky blue?"]
    assert found("blue course") == ["Why is the sky blue?"]
    assert found('"blue sky"') == ["And the sea?"]
    assert found("x->y") == ["And the sea?"]
    assert found("C++") == ["And the sea?"]
    assert found("散射") == ["天空为什么是蓝色的"]
    assert found('") OR NEAR(* {-') == []
    assert found("") == []


# What can go wrong


def test_a_locked_file_is_reported_and_all_is_written_when_it_is_free(
    path: Path, quick_retries: None
) -> None:
    record_chats(path, ("before", "a"))
    with recording(path) as recorder:
        recorder.settle(PATIENCE_SECONDS)
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            asked = say(recorder, "meanwhile")
            (message,) = write_failures(recorder)
            assert "locked by another program" in message
            assert "memory" in message
            assert list(recorder.steps(asked.id)) == steps_of(make_answer("Because."))
            with pytest.raises(StoreError, match="locked"):
                recorder.rename(recorder.session or "", "x").result(PATIENCE_SECONDS)
            other.execute("ROLLBACK")
        wait_until_recovered(recorder)
        assert recorder.archive.load(recorder.session or "").info.title == "meanwhile"


def broken_by(pragma: str) -> Callable[[Path], sqlite3.Connection]:
    """Opens a database on which a pragma makes writing fail."""

    def open_to_write(path: Path) -> sqlite3.Connection:
        connection = database.open_to_write(path)
        connection.execute(pragma)
        return connection

    return open_to_write


def test_a_full_disk_is_reported_and_all_is_written_when_there_is_room(
    path: Path, quick_retries: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[sqlite3.Connection] = []

    def open_to_write(path: Path) -> sqlite3.Connection:
        opened.append(database.open_to_write(path))
        return opened[-1]

    monkeypatch.setattr(writer, "open_to_write", open_to_write)
    monkeypatch.setattr(sqlite3, "connect", unbound(sqlite3.connect))
    with recording(path) as recorder:
        say(recorder, "before")
        recorder.settle(PATIENCE_SECONDS)
        opened[-1].execute("PRAGMA max_page_count = 1")  # the least that is left: as it is now
        asked = tell(recorder, exchange("meanwhile"), make_answer("word " * 3000))
        (message,) = write_failures(recorder)
        assert "no room is left on the disk" in message
        assert len(list(recorder.steps(asked.id))) == len(steps_of(make_answer("word " * 3000)))
        opened[-1].execute("PRAGMA max_page_count = 1000000")
        wait_until_recovered(recorder)
        history = recorder.archive.load(recorder.session or "").history
        assert history.exchanges[asked.id].answer.verbatim == asked.answer.verbatim
    assert recorder.unsaved == ""


def unbound(connect: Callable[..., sqlite3.Connection]) -> Callable[..., sqlite3.Connection]:
    """Connections that this thread may use too."""

    def connected(*arguments: object, **options: object) -> sqlite3.Connection:
        return connect(*arguments, **options, check_same_thread=False)

    return connected


def test_what_cannot_be_written_to_the_end_is_reported_at_the_end(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "open_to_write", broken_by("PRAGMA query_only = ON"))
    with recording(path) as recorder:
        asked = say(recorder, "meanwhile")
        (message,) = write_failures(recorder)
        assert "read-only" in message
        assert list(recorder.steps(asked.id)) == steps_of(make_answer("Because."))
    assert "read-only" in recorder.unsaved


def test_a_folder_that_cannot_be_made_is_reported(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("in the way")
    with recording(tmp_path / "data" / "sessions.db") as recorder:
        say(recorder, "anyway")
        (message,) = write_failures(recorder)
        assert "memory" in message
        with pytest.raises(StoreError):
            recorder.archive.sessions()
    assert recorder.unsaved


@pytest.mark.parametrize(
    "content", [b"this is no database at all\n" * 200, b"SQLite format 3\0" * 300]
)
def test_a_damaged_file_is_reported_and_left_as_it_is(path: Path, content: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    with recording(path) as recorder:
        asked = say(recorder, "anyway")
        (message,) = write_failures(recorder)
        assert "is damaged" in message
        assert str(path) in message
        assert len(list(recorder.steps(asked.id))) == len(steps_of(make_answer("Because.")))
        with pytest.raises(StoreError):
            recorder.archive.sessions()
    assert path.read_bytes() == content
    assert "is damaged" in recorder.unsaved


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A record of some chats, as the file is when it is closed."""
    path = tmp_path_factory.mktemp("whole") / "sessions.db"
    record_chats(path, *((f"chat {at}", "word " * 40) for at in range(4)))
    return path.read_bytes()


@settings(deadline=None, max_examples=30)
@given(place=st.integers(0, 200_000), junk=st.binary(min_size=50, max_size=5000))
def test_a_file_with_a_hole_in_it_never_ends_the_program(
    tmp_path_factory: pytest.TempPathFactory, whole: bytes, place: int, junk: bytes
) -> None:
    path = tmp_path_factory.mktemp("hole") / "sessions.db"
    at = place % len(whole)
    path.write_bytes(whole[:at] + junk + whole[at + len(junk) :])
    with recording(path) as recorder:
        asked = say(recorder, "anyway")
        recorder.settle(PATIENCE_SECONDS)
        assert all(isinstance(news, WriteNews) and news.failed for news in recorder.news())
        with suppress(StoreError):
            list(recorder.steps(asked.id))
        with suppress(StoreError):
            for info in recorder.archive.sessions():
                recorder.archive.load(info.id)
            recorder.archive.search(terms("word"), 10)
    assert recorder._writer._thread.is_alive() is False


def test_a_later_version_is_reported_and_left_as_it_is(path: Path) -> None:
    record_chats(path, ("a", "b"))
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 99")
    content = path.read_bytes()
    with recording(path) as recorder:
        say(recorder, "anyway")
        (message,) = write_failures(recorder)
        assert "version 99" in message
        with pytest.raises(StoreError, match="version 99"):
            recorder.archive.sessions()
    assert path.read_bytes() == content


def test_a_file_that_was_moved_away_is_reported(path: Path) -> None:
    with recording(path) as recorder:
        say(recorder, "before")
        recorder.settle(PATIENCE_SECONDS)
        path.rename(path.with_name("elsewhere.db"))
        asked = say(recorder, "after")
        (message,) = write_failures(recorder)
        assert "moved away" in message
        assert len(list(recorder.steps(asked.id))) == len(steps_of(make_answer("Because.")))
    assert "moved away" in recorder.unsaved


# The schema


def test_a_migration_is_all_or_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record_chats(path, ("a", "b"))
    later = (*database.MIGRATIONS, "CREATE TABLE more (x);\n\nCREATE TABLE more (x);")
    monkeypatch.setattr(database, "MIGRATIONS", later)
    monkeypatch.setattr(database, "VERSION", len(later))
    with pytest.raises(sqlite3.OperationalError):
        database.open_to_write(path)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (len(later) - 1,)
        assert not connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'more'").fetchall()
    whole = (*database.MIGRATIONS[:-1], "CREATE TABLE more (x)")
    monkeypatch.setattr(database, "MIGRATIONS", whole)
    database.open_to_write(path).close()
    assert Archive(path).sessions()[0].title == "a"


def test_a_digest_that_cannot_be_read_leaves_the_text(path: Path) -> None:
    record_chats(path, ("a", "some **text**"))
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE exchange SET digest = x'00'")
    (info,) = Archive(path).sessions()
    answer: Answer = Archive(path).load(info.id).history.branch[0].answer
    assert answer.text == "some **text**"
    assert answer.done


def test_threads_end(path: Path) -> None:
    before = threading.active_count()
    record_chats(path, ("a", "b"))
    assert threading.active_count() == before
