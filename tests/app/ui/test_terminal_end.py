"""The chat on a real terminal: what is typed is kept whatever ends it, and exit codes say so."""

import os
import pty
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from app.commands.terminal import Terminal
from app.store.unsent import keep_unsent, take_unsent
from app.ui.drivers import GONE

PATIENCE = 60.0
RESUMED = "\x1b[?2026$p"  # written once the terminal is read again
CHAT = """
import sys
import threading
from app import main
from app.config import model_choice
from app.widgets.prompt import Prompt
from tests.fakes import replay

def cursor_down(self, select=False):
    raise ValueError("nobody foresaw this")

def cursor_up(self, select=False):
    readers = [each for each in threading.enumerate() if each.name == "textual-input"]
    self.insert(f"{len(readers)} readers of {self.text}.")

model_choice.build_chat = lambda *given, **named: replay()
Prompt.action_cursor_down = cursor_down
Prompt.action_cursor_up = cursor_up
main()
"""


class Chat(Terminal):
    """A chat without a model, in which Down is a mistake and Up counts what reads the terminal."""

    def __init__(self, data: Path, *flags: str) -> None:
        environment = {"XDG_DATA_HOME": str(data), "PYTHONPATH": str(Path.cwd())}
        super().__init__((sys.executable, "-c", CHAT, *flags), (100, 30), environment)

    def shows(self, awaited: str, keys: str = "") -> None:
        self.echo(keys, awaited, PATIENCE)

    def send(self, data: bytes) -> None:
        os.write(self._ours, data)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


def test_nothing_that_is_typed_ends_the_chat(data: Path) -> None:
    with Chat(data) as chat:
        chat.shows("message, or")
        chat.send(b"caf\xe9 \x1b[<32;NaN;NaNM\x1b[97;1:1u\x1b[1114112u")
        chat.shows("end", "the end")
        chat.send(b"\x1b[200~issues one\x1b[20")
        chat.shows("one")
        chat.type("1~\x11")
        assert chat.wait(PATIENCE) == 0
    assert not (data / "sequoia" / "unsent.txt").exists()


def test_what_is_typed_before_the_chat_has_the_terminal_is_sent(data: Path) -> None:
    with Chat(data) as chat:
        chat.shows("best step", "/set temperature 0\rWhy?\r")  # where an answer rests
        chat.type("\x11")
        assert chat.wait(PATIENCE) == 0


def test_a_process_that_was_stopped_goes_on_with_one_reader(data: Path) -> None:
    with Chat(data) as chat:
        chat.shows("message, or")
        chat.shows("draft", "draft")
        for _ in range(2):
            os.kill(chat.pid, signal.SIGSTOP)
            threading.Timer(0.1, os.kill, (chat.pid, signal.SIGCONT)).start()
            chat.shows(RESUMED)  # what is typed before is dropped
        chat.shows("1 readers of draft.", "\x1b[A")
        chat.type("\x11")
        assert chat.wait(PATIENCE) == 0


ENDS: list[tuple[Callable[[Chat], None], int]] = [
    (lambda chat: chat.type("\x1b[B"), 1),
    (lambda chat: os.kill(chat.pid, signal.SIGTERM), 128 + signal.SIGTERM),
    (lambda chat: os.kill(chat.pid, signal.SIGHUP), 128 + signal.SIGHUP),
]


@pytest.mark.parametrize(("end", "code"), ENDS, ids=["error", "SIGTERM", "SIGHUP"])
def test_what_was_typed_outlives_the_chat(
    data: Path, end: Callable[[Chat], None], code: int
) -> None:
    with Chat(data) as chat:
        chat.shows("message, or")
        chat.shows("draft", "my draft")
        end(chat)
        assert chat.wait(PATIENCE) == code
    kept = data / "sequoia" / "unsent.txt"
    assert kept.read_text() == "my draft\n"
    assert kept.stat().st_mode & 0o777 == 0o600
    with Chat(data) as chat:
        chat.shows("my draft")
        chat.type("\x11")
        assert chat.wait(PATIENCE) == 0
    assert not kept.exists()


def test_what_was_typed_outlives_the_terminal(data: Path) -> None:
    ours, theirs = pty.openpty()
    environment = {"XDG_DATA_HOME": str(data), "PYTHONPATH": str(Path.cwd()), "TERM": "xterm"}
    chat = subprocess.Popen(
        (sys.executable, "-c", CHAT),
        stdin=theirs, stdout=theirs, stderr=theirs, env=os.environ | environment,
    )  # fmt: skip
    os.close(theirs)
    shown, typed = b"", False
    deadline = time.monotonic() + PATIENCE
    while b"draft" not in shown and time.monotonic() < deadline:
        shown += os.read(ours, 65536)
        if not typed and b"message, or" in shown:
            typed = os.write(ours, b"my draft") > 0
    os.close(ours)
    assert chat.wait(PATIENCE) == GONE
    assert (data / "sequoia" / "unsent.txt").read_text() == "my draft\n"


def test_texts_of_several_chats_are_kept_and_taken_once(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(data))
    assert take_unsent() == ""
    for text in ("one", "  ", "two\nlines \udc80"):
        keep_unsent(text, record=True)
    assert take_unsent() == "one\ntwo\nlines ?"
    assert take_unsent() == ""


@pytest.mark.parametrize("record", [True, False])
def test_where_nothing_can_be_kept_the_text_is_printed(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record: bool,
) -> None:
    (tmp_path / "data").write_text("no folder" if record else "")
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    keep_unsent("my \x1b[31mdraft", record=record)
    assert "this was not sent:\nmy ␛[31mdraft\n" in capsys.readouterr().err
