"""The cost of drawing: the same answers with the full screen in a terminal, and without it.

Each run is a process on a pseudo-terminal of 160x50 whose output is read and dropped. The clock is
in the decode thread: tokens and wall time from an answer's first step to its last. Another run
measures the time from key to echo at the terminal's other end.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.config import SamplingParams
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Event, Progress, Step

from ..app import SequoiaApp
from ..config.load import load_settings
from ..config.settings import Settings
from ..engine.build import build_chat
from ..store.recorder import DatabaseRecorder
from ..widgets.prompt import Prompt
from .terminal import Terminal, TerminalError, percentile, typing_latencies

COLUMNS, LINES = 160, 50
POLL_SECONDS = 0.1
NO_SCREEN = "headless"
SCREEN = "screen"
_END_SECONDS = 30.0


class AnswerClock:
    """Tokens and seconds of an engine's answers, each from its first step to its last.

    Replaces the engine's `reply`, and its tuning by nothing, since that would run during
    the measurement.
    """

    def __init__(self, engine: ChatEngine) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._reply = engine.reply
        engine.reply = self._timed_reply  # type: ignore[method-assign]
        engine.tune = lambda should_stop: iter(())  # type: ignore[method-assign]  # noqa: ARG005

    def _timed_reply(
        self, prompt: str, params: SamplingParams, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        first = last = None
        for event in self._reply(prompt, params, should_stop):
            if isinstance(event, Step):
                last = perf_counter()
                if first is None:
                    first = last
                else:
                    self.tokens += len(event.token_ids)
            yield event
        if first is not None and last is not None:
            self.seconds += last - first


@dataclass(frozen=True, slots=True)
class _Run:
    """The order for a child process.

    Attributes:
        kind: with the screen or without it.
        prompts: asked one after the other.
        flags: settings.
        result: file for tokens and seconds.
        asked: file that is created when the first prompt is asked.
    """

    kind: str
    prompts: list[str]
    flags: dict[str, str]
    result: str
    asked: str


class _ScriptedApp(SequoiaApp):
    """The chat, sending the prompts one after the other."""

    def __init__(self, settings: Settings, run: _Run) -> None:
        record = DatabaseRecorder(Path(run.result).with_name("chats.db"))  # as a person's chat has
        super().__init__(self._build, settings, record)
        self._settings = settings
        self._left = list(run.prompts)
        self._asked = Path(run.asked)
        self.clock: AnswerClock | None = None

    def on_ready(self) -> None:
        """Send the next prompt after each answer."""
        self.set_interval(POLL_SECONDS, self._go_on)

    def _build(self, progress: Progress) -> ChatEngine:
        engine = build_chat(self._settings, progress)
        self.clock = AnswerClock(engine)
        return engine

    def _go_on(self) -> None:
        if self.chat.session.pair is None or self.chat.session.busy:
            return
        if not self._left:
            self.exit()
            return
        prompt = self._left.pop(0)
        self._asked.touch()
        self.chat.post_message(Prompt.Submitted(prompt, prompt))


def measure_screen(
    prompts: list[str], flags: Mapping[str, Any], rounds: int, progress: Progress
) -> str:
    """Run with and without the screen in turn, and measure the time from key to echo.

    Args:
        prompts: asked one after the other in one chat.
        flags: settings, as on the command line.
        rounds: pairs of runs.
        progress: called with what runs.

    Returns:
        The figures as text.
    """
    speeds: dict[str, list[float]] = {SCREEN: [], NO_SCREEN: []}
    for index in range(rounds):
        kinds = list(speeds) if index % 2 == 0 else list(reversed(speeds))
        for kind in kinds:
            progress(f"Round {index + 1} of {rounds}: {kind}", index / rounds)
            speeds[kind].append(_run_in_terminal(kind, prompts, flags))
    ratios = [drawn / bare for drawn, bare in zip(speeds[SCREEN], speeds[NO_SCREEN], strict=True)]
    progress("Typing while it decodes", 1.0)
    typed = [seconds * 1e3 for seconds in _type_meanwhile(prompts, flags)]
    return (
        f"{len(prompts)} answers, {rounds} rounds, screen of {COLUMNS}x{LINES}; "
        "median (lowest to highest)\n"
        f"with the screen {_spread(speeds[SCREEN])} tokens/s, "
        f"headless {_spread(speeds[NO_SCREEN])} tokens/s, "
        f"ratio {_spread(ratios, 2)}\n"
        f"key to echo while it decodes {median(typed):.1f} ms, 99% within "
        f"{percentile(typed, 0.99):.1f} ms, {len(typed)} keys"
    )


def _spread(values: list[float], digits: int = 1) -> str:
    low, middle, high = min(values), median(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _run_in_terminal(kind: str, prompts: list[str], flags: Mapping[str, Any]) -> float:
    """Tokens per second of one child process on a pseudo-terminal.

    Raises:
        SequoiaError: the child failed.
    """
    with _started(kind, prompts, flags) as (terminal, run):
        code = terminal.wait()
        result = Path(run.result)
        if code or not result.exists():
            raise SequoiaError(f"the {kind} run ended with code {code}; try the chat by itself")
        tokens, seconds = json.loads(result.read_text("utf-8"))
        return float(tokens) / float(seconds)


def _type_meanwhile(prompts: list[str], flags: Mapping[str, Any]) -> list[float]:
    """Seconds from key to echo, of keys pressed one by one until the answers are there.

    Raises:
        SequoiaError: the child failed, or did not show a key.
    """
    chance, latencies = random.Random(1), list[float]()
    with _started(SCREEN, prompts, flags) as (terminal, run):
        while terminal.running and not Path(run.asked).exists():
            time.sleep(POLL_SECONDS)
        try:
            while terminal.running:
                latencies += typing_latencies(terminal, 1, chance)
        except TerminalError:
            terminal.wait(_END_SECONDS)  # an error of its own, unless the chat was ending
    if not latencies:
        raise SequoiaError("the answers were over before a key was pressed; ask for more of them")
    return latencies


@contextmanager
def _started(
    kind: str, prompts: list[str], flags: Mapping[str, Any]
) -> Iterator[tuple[Terminal, _Run]]:
    """A child process on its own terminal."""
    with tempfile.TemporaryDirectory() as folder:
        texts = {name: str(value) for name, value in flags.items()}
        place = Path(folder)
        run = _Run(kind, prompts, texts, str(place / "result.json"), str(place / "asked"))
        order = place / "order.json"  # not for the list of processes
        order.write_text(json.dumps(astuple(run)), encoding="utf-8")
        command = [sys.executable, "-m", __spec__.name, str(order)]
        with Terminal(command, (COLUMNS, LINES)) as terminal:
            yield terminal, run


def _child(order: str) -> None:
    run = _Run(*json.loads(Path(order).read_text("utf-8")))
    settings = replace(load_settings(run.flags), theme="sequoia")
    clock: AnswerClock | None
    if run.kind == SCREEN:
        app = _ScriptedApp(settings, run)
        app.run()
        clock = app.clock
    else:
        engine = build_chat(settings, lambda _message, _fraction: None)
        clock = AnswerClock(engine)
        for prompt in run.prompts:
            for _ in engine.reply(prompt, settings.sampling(), lambda: False):
                pass
    assert clock is not None
    Path(run.result).write_text(json.dumps([clock.tokens, clock.seconds]), encoding="utf-8")


if __name__ == "__main__":
    _child(sys.argv[1])
