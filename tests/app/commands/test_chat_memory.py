"""The chat's memory is that of its processes, once it has measured the machine and answered."""

import os
from pathlib import Path

import psutil
import pytest

from app.commands import terminal as module
from app.commands.terminal import TerminalError, measure_chat_memory


class FakeTerminal:
    """A chat that has measured the machine when its prompt is there, and answers at once.

    Attributes:
        made: the one that runs.
        measures: whether it ever measures the machine.
    """

    made: "FakeTerminal"
    measures = True

    def __init__(
        self, command: list[str], size: tuple[int, int], environment: dict[str, str]
    ) -> None:
        type(self).made = self
        self.command, self.environment = command, environment
        self.typed: list[str] = []
        self.output_at, self.pid, self.running = 0.0, os.getpid(), True

    def __enter__(self) -> "FakeTerminal":
        return self

    def __exit__(self, *_: object) -> None:
        self.running = False

    def echo(self, keys: str, awaited: str, timeout: float) -> float:
        assert keys == awaited
        if self.measures:
            folder = Path(self.environment["XDG_CACHE_HOME"]) / "sequoia" / "calibration"
            folder.mkdir(parents=True)
            (folder / "pair.json").touch()
        else:
            self.running = False
        return 0.0

    def type(self, text: str) -> None:
        self.typed.append(text)


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "Terminal", FakeTerminal)
    monkeypatch.setattr(module, "QUIET_SECONDS", 0.01)
    monkeypatch.setattr(module, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(FakeTerminal, "measures", True)


def test_the_memory_is_of_the_processes_after_an_answer() -> None:
    used = measure_chat_memory({"draft": "none", "temperature": 0.3})
    assert used >= psutil.Process().memory_info().rss / 2
    chat = FakeTerminal.made
    assert chat.typed[-1] == f"{module.QUESTION}\r"
    assert chat.environment["SEQUOIA_DRAFT"] == "none"
    assert chat.environment["SEQUOIA_TEMPERATURE"] == "0.3"
    assert chat.environment["XDG_DATA_HOME"]
    assert not chat.running


def test_a_chat_that_answers_for_long_is_measured_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "QUIET_SECONDS", 60.0)
    monkeypatch.setattr(module, "LONGEST_SECONDS", 0.1)
    assert measure_chat_memory({}) > 0


def test_a_chat_that_ends_before_it_has_measured_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(FakeTerminal, "measures", False)
    with pytest.raises(TerminalError, match="ended before its memory"):
        measure_chat_memory({})


def test_a_chat_that_never_measures_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FakeTerminal, "echo", lambda *_: 0.0)
    monkeypatch.setattr(module, "LONGEST_SECONDS", 0.05)
    with pytest.raises(TerminalError, match="had not measured"):
        measure_chat_memory({})
