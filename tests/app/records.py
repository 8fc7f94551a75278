"""Chats for the tests of the record: exchanges told to a recorder as the screen tells them."""

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from app.state.answer import Answer
from app.state.history import Exchange
from app.store import database
from app.store.archive import Archive, events_of
from app.store.packing import unpack_steps
from app.store.recorder import DatabaseRecorder, Recorder
from app.store.writer import WriteNews
from sequoia_core.events import Event, Step
from tests.fakes import make_answer

PATIENCE_SECONDS = 20.0
"""Longest wait for the writer; it never takes so long."""


def answer_of(events: Iterable[Event], prompt: str = "Why?") -> Answer:
    """The answer that these events make."""
    answer = Answer(prompt)
    for event in events:
        answer.add(event)
    return answer


def exchange(prompt: str, parent: str | None = None, started: float | None = None) -> Exchange:
    """An exchange that nothing was answered to yet."""
    now = time.time() if started is None else started
    return Exchange(uuid4().hex, parent, prompt, Answer(prompt), now)


def tell(recorder: Recorder, asked: Exchange, events: Iterable[Event]) -> Exchange:
    """Record an exchange as the screen does."""
    recorder.begin(asked)
    for event in events:
        recorder.event(asked.id, event)
        asked.answer.add(event)
    return asked


def say(
    recorder: Recorder, prompt: str, answer: str = "Because.", parent: str | None = None
) -> Exchange:
    """Record a whole exchange."""
    return tell(recorder, exchange(prompt, parent), make_answer(answer))


def events_in(path: Path, exchange: str) -> list[Event]:
    """Every event of an exchange that is written."""
    with database.reading(path) as connection:
        query = "SELECT place FROM exchange WHERE id = ?"
        (place,) = connection.execute(query, (exchange,)).fetchone()
        return list(events_of(connection, place))


def steps_in(archive: Archive, exchange: str) -> list[Step]:
    """The steps of an exchange that are written."""
    return list(unpack_steps(archive.chunks(exchange).values()))


def write_failures(recorder: DatabaseRecorder) -> list[str]:
    """The messages since the last call."""
    recorder.settle(PATIENCE_SECONDS)
    return [news.message for news in recorder.news() if isinstance(news, WriteNews) and news.failed]


def wait_until_recovered(recorder: DatabaseRecorder) -> str:
    """Wait until the record can be written again; the message."""
    for _ in range(1000):
        recorder.settle(PATIENCE_SECONDS)
        for news in recorder.news():
            if isinstance(news, WriteNews) and not news.failed:
                return news.message
        threading.Event().wait(0.01)
    raise AssertionError("never recovered")


@contextmanager
def recording(path: Path) -> Iterator[DatabaseRecorder]:
    """A record that is open meanwhile."""
    recorder = DatabaseRecorder(path)
    try:
        yield recorder
    finally:
        recorder.close()


def record_chats(path: Path, *chats: tuple[str, str]) -> None:
    """Record chats of one exchange each, the last one the newest, and close the record."""
    recorder = DatabaseRecorder(path)
    for at, (prompt, answer) in enumerate(chats):
        asked = exchange(prompt, started=1_700_000_000.0 + 60 * at)
        tell(recorder, asked, make_answer(answer))
        recorder.clear()
    recorder.close()
    assert recorder.unsaved == ""
