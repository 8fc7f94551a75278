"""Leaving: the shell is back at once, the terminal as it was, and the answer so far kept."""

import errno
import logging
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from app import cli
from app.app import SequoiaApp, Settings
from app.engine.decode_thread import DecodeThread
from app.store.archive import Archive
from app.store.recorder import DatabaseRecorder
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.events import Event, FinishReason, Progress, Step
from tests.app.driving import Driver, driving
from tests.fakes import PAIR, make_answer, replay
from tests.replay_engine import ReplayEngine, Trace

ROOT = Path(__file__).parents[3]
PATIENCE = 20.0
LEAVES_ALTERNATE_SCREEN = b"\x1b[?1049l"


class Measuring(ReplayEngine):
    """Measures between answers until somebody wants something, as a calibration does."""

    def __init__(self) -> None:
        super().__init__(Trace(PAIR, make_answer()))
        self.measures = threading.Event()
        self.left = threading.Event()

    def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        self.measures.set()
        while not should_stop():
            self.left.wait(0.001)
        self.left.set()
        yield from ()


def test_measuring_between_answers_ends_when_the_app_is_left() -> None:
    engine = Measuring()
    decoder = DecodeThread(lambda progress: engine)
    decoder.start()
    assert engine.measures.wait(PATIENCE)
    decoder.close()
    assert engine.left.wait(PATIENCE)
    assert decoder.shutdown(PATIENCE)


async def test_the_decode_thread_ends_while_the_screen_is_still_closing() -> None:
    engine = Measuring()
    app = SequoiaApp(lambda progress: engine, Settings())
    async with app.run_test() as pilot:
        await Driver(app, pilot).until(engine.measures.is_set)
        app.exit()
        assert engine.left.wait(PATIENCE)  # nothing of the app runs meanwhile
    assert app.return_code == 0


async def test_a_step_that_takes_long_is_given_up_and_what_came_before_it_is_kept(
    tmp_path: Path,
) -> None:
    held = threading.Event()
    steps = 0

    def hold(event: Event) -> None:
        nonlocal steps
        steps += isinstance(event, Step)
        if steps == 3:
            held.wait(PATIENCE)

    recorder = DatabaseRecorder(tmp_path / "sessions.db")
    app = SequoiaApp(lambda progress: replay(before=hold), Settings(), recorder)
    try:
        async with app.run_test() as pilot:
            chat = Driver(app, pilot)
            await chat.ready()
            await chat.type("Why?", "enter")
            await chat.until(lambda: chat.steps == 2)
            await pilot.press("ctrl+q")
        assert app.decoder.alive
        (session,) = Archive(tmp_path / "sessions.db").sessions()
        (exchange,) = Archive(tmp_path / "sessions.db").load(session.id).history.branch
        assert exchange.answer.text.startswith("The sky is")
        assert exchange.answer.finished is not None
        assert exchange.answer.finished.reason is FinishReason.CANCELLED
        assert exchange.answer.finished.totals.steps == 2
    finally:
        held.set()
    assert app.decoder.shutdown(PATIENCE)


async def test_a_question_sent_while_loading_is_kept_and_the_load_not_waited_for(
    tmp_path: Path,
) -> None:
    loaded = threading.Event()

    def factory(progress: Progress) -> ChatEngine:
        loaded.wait(PATIENCE)
        return replay()

    recorder = DatabaseRecorder(tmp_path / "sessions.db")
    app = SequoiaApp(factory, Settings(), recorder)
    try:
        async with app.run_test() as pilot:
            await Driver(app, pilot).type("Why?", "enter")
            await pilot.press("ctrl+q")
        assert app.decoder.alive
        (session,) = Archive(tmp_path / "sessions.db").sessions()
        (exchange,) = Archive(tmp_path / "sessions.db").load(session.id).history.branch
        assert exchange.prompt == "Why?"
        assert exchange.answer.done
        assert exchange.answer.failure is None
    finally:
        loaded.set()
    assert app.decoder.shutdown(PATIENCE)


def test_the_interpreter_is_not_unwound_after_a_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the libraries that decode it would hold the shell for a second or more."""

    class LeftError(Exception):
        pass

    def leave(code: int) -> NoReturn:
        raise LeftError(code)

    def chat(prog_name: str) -> NoReturn:
        raise SystemExit(3)

    monkeypatch.setattr("app.commands.chat.os._exit", leave)
    monkeypatch.setattr(cli, "app", chat)
    with pytest.raises(LeftError, match="3"):
        cli.main()
    monkeypatch.delitem(sys.modules, "app.app")
    with pytest.raises(SystemExit):
        cli.main()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_the_terminal_as_it_was(tmp_path: Path, number: signal.Signals) -> None:
    ours, theirs = pty.openpty()
    command = "from app import main; main()"
    child = subprocess.Popen(
        [sys.executable, "-c", command, "replay", "docs/img/answer.jsonl"],
        cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "XDG_CONFIG_HOME": str(tmp_path), "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    try:
        assert b"quit" in read_until(ours, b"quit")
        child.send_signal(number)
        assert LEAVES_ALTERNATE_SCREEN in read_until(ours, re.escape(LEAVES_ALTERNATE_SCREEN))
        assert child.wait(PATIENCE) == 128 + number
    finally:
        child.kill()
        child.wait()
        os.close(ours)


def read_until(terminal: int, wanted: bytes) -> bytes:
    """What the program writes, up to something it should write."""
    written = b""
    while not re.search(wanted, written):
        ready, _, _ = select.select([terminal], [], [], PATIENCE)
        if not ready:
            break
        try:
            written += os.read(terminal, 65536)
        except OSError:  # it has closed the terminal
            break
    return written


async def test_a_log_that_cannot_be_written_does_not_keep_the_chat_from_ending(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(handler: logging.Handler) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    async with driving() as chat:
        chat.prompt.text = "my draft"
        monkeypatch.setattr("app.app._PrivateLog.close", refuse)
    assert chat.app.unsent == "my draft"
    assert chat.app.failure is None


async def test_a_folder_for_the_log_that_cannot_be_made_is_no_reason_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    async with driving() as chat:
        await chat.ask()
        assert "Rayleigh scattering" in chat.transcript
