"""Steps of old answers come from the record while the screen goes on, and only where wanted."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from app.app import SequoiaApp, Settings
from app.screens.chat.step_inspector import READING
from app.state.answer import Answer
from app.state.summary import best_step
from app.store.recorder import DatabaseRecorder, Recorder
from sequoia_core.events import Step
from tests.app.driving import Driver, driving
from tests.app.insights import MemoryRecord
from tests.app.records import PATIENCE_SECONDS, record_chats, say
from tests.fakes import make_answer, replay

ONE = "One two three four five six seven eight nine ten eleven twelve thirteen."
TWO = "Fourteen fifteen sixteen seventeen eighteen."
STEPS_OF_ONE = sum(isinstance(event, Step) for event in make_answer(ONE))


class SlowRecord(MemoryRecord):
    """Gives the steps of an answer once it is let go on.

    Attributes:
        gate: open by default.
        readers: the threads in which steps were asked for and read.
    """

    def __init__(self) -> None:
        super().__init__()
        self.gate = threading.Event()
        self.gate.set()
        self.readers: set[threading.Thread] = set()
        self.asked: list[str] = []

    def steps(self, exchange: str) -> Iterable[Step]:
        self.asked.append(exchange)
        self.readers.add(threading.current_thread())
        return self._read_slowly(super().steps(exchange))

    def _read_slowly(self, steps: Iterable[Step]) -> Iterator[Step]:
        for step in steps:
            self.readers.add(threading.current_thread())
            assert self.gate.wait(PATIENCE_SECONDS)
            yield step


def two_answers(recorder: Recorder | None = None) -> AbstractAsyncContextManager[Driver]:
    """A chat whose engine gives two answers."""
    return driving(replay(make_answer(ONE), make_answer(TWO)), size=(160, 50), recorder=recorder)


async def held(chat: Driver) -> SlowRecord:
    """Two answers; the first one's steps are in the record only, which cannot be read yet."""
    record = chat.app.chat.recorder
    assert isinstance(record, SlowRecord)
    await chat.ask("the first")
    await chat.ask("the second")
    await chat.pilot.press("home")
    record.gate.clear()
    return record


def title(chat: Driver) -> str:
    return str(chat.tree.border_title)


async def test_a_person_types_on_while_steps_are_read() -> None:
    async with driving(
        replay(make_answer(ONE), make_answer(TWO)), size=(160, 50), recorder=SlowRecord()
    ) as chat:
        record = await held(chat)
        await chat.pilot.press("left_square_bracket", *"abc")
        assert chat.prompt.text == "abc"
        assert title(chat) == READING
        record.gate.set()
        await chat.until(lambda: chat.app.chat.inspector.reader is None)
        assert title(chat) == f"Step {STEPS_OF_ONE} of {STEPS_OF_ONE}, answer 1 of 2"
        assert chat.prompt.text == "abc"
        assert threading.main_thread() not in record.readers
        assert len(record.readers) == 1


async def test_keys_pressed_while_steps_are_read_are_carried_out_in_their_order() -> None:
    async with driving(
        replay(make_answer(ONE), make_answer(TWO)), size=(160, 50), recorder=SlowRecord()
    ) as chat:
        record = await held(chat)
        await chat.pilot.press(*["left_square_bracket"] * 3, "right_square_bracket")
        record.gate.set()
        await chat.until(lambda: chat.app.chat.inspector.reader is None)
        assert title(chat) == f"Step {STEPS_OF_ONE - 1} of {STEPS_OF_ONE}, answer 1 of 2"
        assert len(record.asked) == 1


async def test_end_takes_the_place_of_what_waits() -> None:
    async with driving(
        replay(make_answer(ONE), make_answer(TWO)), size=(160, 50), recorder=SlowRecord()
    ) as chat:
        record = await held(chat)
        await chat.pilot.press("left_square_bracket", "left_square_bracket", "end")
        assert ", the best of " in title(chat)
        record.gate.set()
        await chat.pilot.pause(0.1)
        assert ", the best of " in title(chat)
        assert chat.app.chat.inspector.cursor.answer is chat.session.answer
        assert not first(chat).steps


async def test_a_question_takes_the_place_of_what_waits() -> None:
    three = replay(make_answer(ONE), make_answer(TWO), make_answer("Three."))
    async with driving(three, size=(160, 50), recorder=SlowRecord()) as chat:
        record = await held(chat)
        await chat.pilot.press("left_square_bracket")
        await chat.ask("the third")
        record.gate.set()
        await chat.pilot.pause(0.1)
        assert chat.app.chat.inspector.cursor.answer is chat.session.answer
        assert ", the best of " in title(chat)
        assert not first(chat).steps


def first(chat: Driver) -> Answer:
    return chat.session.history.branch[0].answer


async def test_another_branch_shows_the_best_step_of_its_answer() -> None:
    record = SlowRecord()
    async with driving(
        replay(make_answer(ONE), make_answer(TWO)), size=(160, 50), recorder=record
    ) as chat:
        await chat.ask("the first")
        await chat.pilot.press("ctrl+r")
        await chat.finish()
        record.gate.clear()
        await chat.pilot.press("alt+left")
        await chat.until(lambda: title(chat) == READING)
        await chat.pilot.press("alt+right")
        record.gate.set()
        steps = [event for event in make_answer(TWO) if isinstance(event, Step)]
        await chat.until(lambda: title(chat).endswith(f", the best of {len(steps)}"))
        assert chat.tree.step == best_step(steps)
        await chat.pilot.press("alt+left")
        await chat.until(lambda: title(chat).endswith(f", the best of {STEPS_OF_ONE}"))
        await chat.walk("left")
        assert title(chat) == f"Step {STEPS_OF_ONE} of {STEPS_OF_ONE}"
        await chat.walk("end")
        assert title(chat).endswith(f", the best of {STEPS_OF_ONE}")


async def test_what_is_not_on_record_leaves_the_tree_empty() -> None:
    async with two_answers() as chat:
        await chat.ask("the first")
        await chat.pilot.press("ctrl+r")
        await chat.finish()
        await chat.pilot.press("alt+left")
        await chat.until(lambda: title(chat) == "Tree")
        assert chat.tree.step is None
        await chat.walk("left")
        assert "first step of the chat" in chat.hint


async def test_a_person_types_on_while_a_trace_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with driving(
        replay(make_answer(ONE), make_answer(TWO)), size=(160, 50), recorder=SlowRecord()
    ) as chat:
        record = await held(chat)
        await chat.type("/export chat.jsonl", "enter")
        await chat.until(lambda: len(record.asked) == 1)
        await chat.pilot.press(*"abc")
        assert chat.prompt.text == "abc"
        record.gate.set()
        await chat.until(lambda: "exported" in chat.transcript)
        assert threading.main_thread() not in record.readers


async def test_a_session_that_is_opened_shows_the_best_step_of_its_answer(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    record_chats(path, ("old question", ONE))
    app = SequoiaApp(lambda progress: replay(), Settings(), DatabaseRecorder(path))
    async with app.run_test(size=(160, 50)) as pilot:
        chat = Driver(app, pilot)
        await chat.ready()
        await chat.type("/load old", "enter")
        await chat.until(lambda: title(chat).endswith(f", the best of {STEPS_OF_ONE}"))
        assert chat.tree.step is not None
        statistics = chat.app.chat.inspector.cursor.whole
        assert statistics is not None
        assert statistics.totals.steps == STEPS_OF_ONE
        await chat.walk("home")
        assert title(chat) == f"Step 1 of {STEPS_OF_ONE}"


async def test_the_last_answers_steps_are_read_once(tmp_path: Path) -> None:
    path = tmp_path / "sessions.db"
    recorder = DatabaseRecorder(path)
    one = say(recorder, "old question", ONE)
    say(recorder, "newer question", TWO, one.id)
    recorder.close()
    app = SequoiaApp(lambda progress: replay(), Settings(), DatabaseRecorder(path))
    async with app.run_test(size=(160, 50)) as pilot:
        chat = Driver(app, pilot)
        await chat.ready()
        await chat.type("/load old", "enter")
        await chat.until(lambda: ", the best of " in title(chat))
        await chat.walk("home", "left_square_bracket")
        assert title(chat).endswith("answer 1 of 2")
        await chat.pilot.press("end")
        assert app.chat.inspector.reader is None
        assert ", the best of " in title(chat)
        assert not first(chat).steps


async def test_steps_that_are_read_when_the_app_is_closed_are_dropped() -> None:
    async with driving(
        replay(make_answer(ONE), make_answer(TWO)), size=(160, 50), recorder=SlowRecord()
    ) as chat:
        record = await held(chat)
        await chat.pilot.press("left_square_bracket")
        thread = threading.Timer(0.2, record.gate.set)
        thread.start()
    thread.join()
    assert not first(chat).steps
