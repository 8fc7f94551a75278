"""The cost of drawing, `make bench-screen`: the same answers with the full screen and without it.

Each run is a process on a pseudo-terminal. Its clock is in the decode thread.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

from app.app import SequoiaApp
from app.commands.terminal import SIZE, Terminal, TerminalError
from app.config.load import load_settings
from app.config.model_choice import build_chat
from app.config.settings import Settings
from app.store.recorder import DatabaseRecorder
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.config import SamplingParams
from sequoia_core.data.prompts import prompt_texts
from sequoia_core.errors import SequoiaError
from sequoia_core.events import Event, Progress, Step
from sequoia_core.measure.spread import Spread
from tests.app.typing_latency import percentile, typing_latencies

ROUNDS = 7
_POLL_SECONDS = 0.1
_END_SECONDS = 30.0
NO_SCREEN, SCREEN = "headless", "screen"
_ORDER, _ASKED, _RESULT = "order.json", "asked", "result.json"
"""Files in the folder of a run: what to do; there when the first prompt is asked; the figures."""


class AnswerClock:
    """Tokens and seconds of an engine's answers, each from its first step to its last.

    The engine's tuning is replaced by nothing, since it would run during the measurement.
    """

    def __init__(self, engine: ChatEngine) -> None:
        self.tokens = 0
        self.seconds = 0.0
        self._reply = engine.reply
        engine.reply = self._timed_reply  # type: ignore[method-assign]
        engine.tune = lambda should_stop: iter(())  # type: ignore[method-assign]

    def _timed_reply(
        self, prompt: str, params: SamplingParams, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        times: list[float] = []
        for event in self._reply(prompt, params, should_stop):
            if isinstance(event, Step):
                self.tokens += len(event.token_ids) if times else 0
                times.append(perf_counter())
            yield event
        self.seconds += times[-1] - times[0] if times else 0.0


class _ScriptedApp(SequoiaApp):
    """The chat, sending the prompts one after the other."""

    def __init__(self, settings: Settings, prompts: list[str], folder: Path) -> None:
        record = DatabaseRecorder(folder / "chats.db")  # as a person's chat has
        super().__init__(self._build, settings, record)
        self._settings, self._left, self._folder = settings, prompts, folder
        self.clock: AnswerClock | None = None

    def on_ready(self) -> None:
        self.set_interval(_POLL_SECONDS, self._go_on)

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
        (self._folder / _ASKED).touch()
        self.chat.submit(prompt, "", command=False)


def measure_screen(
    prompts: list[str], flags: Mapping[str, Any], rounds: int, progress: Progress
) -> str:
    """Ask the prompts in one chat, with and without the screen in turn, then type meanwhile.

    Returns the figures as text.
    """
    speeds: dict[str, list[float]] = {SCREEN: [], NO_SCREEN: []}
    for index in range(rounds):
        kinds = (SCREEN, NO_SCREEN) if index % 2 == 0 else (NO_SCREEN, SCREEN)
        for kind in kinds:
            progress(f"Round {index + 1} of {rounds}: {kind}", index / rounds)
            speeds[kind].append(_run_in_terminal(kind, prompts, flags))
    ratios = [drawn / bare for drawn, bare in zip(speeds[SCREEN], speeds[NO_SCREEN], strict=True)]
    progress("Typing while it decodes", 1.0)
    typed: list[float] = []
    _run_in_terminal(SCREEN, prompts, flags, typed)
    if not typed:
        raise SequoiaError("the answers were over before a key was pressed; ask for more of them")
    return (
        f"{len(prompts)} answers, {rounds} rounds, screen of {SIZE[0]}x{SIZE[1]}; "
        "median (lowest to highest)\n"
        f"with the screen {Spread.of(speeds[SCREEN]).text(1)} tokens/s, "
        f"headless {Spread.of(speeds[NO_SCREEN]).text(1)} tokens/s, "
        f"ratio {Spread.of(ratios).text(2)}\n"
        f"key to echo while it decodes {1e3 * median(typed):.1f} ms, 99% within "
        f"{1e3 * percentile(typed, 0.99):.1f} ms, {len(typed)} keys"
    )


def _run_in_terminal(
    kind: str, prompts: list[str], flags: Mapping[str, Any], typed: list[float] | None = None
) -> float:
    """Tokens per second of one child process; `typed` is filled with seconds from key to echo."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        order = json.dumps([kind, prompts, {name: str(value) for name, value in flags.items()}])
        (folder / _ORDER).write_text(order, encoding="utf-8")  # not in the list of processes
        with Terminal([sys.executable, "-m", __spec__.name, "--run", temporary], SIZE) as terminal:
            if typed is not None:
                typed += _type_meanwhile(terminal, folder / _ASKED)
            code = terminal.wait()
        result = folder / _RESULT
        if code or not result.exists():
            raise SequoiaError(f"the {kind} run ended with code {code}; try the chat by itself")
        tokens, seconds = json.loads(result.read_text("utf-8"))
        return float(tokens) / float(seconds)


def _type_meanwhile(terminal: Terminal, asked: Path) -> list[float]:
    """Press keys one by one until the answers are there."""
    chance, latencies = random.Random(1), list[float]()
    while terminal.running and not asked.exists():
        time.sleep(_POLL_SECONDS)
    try:
        while terminal.running:
            latencies += typing_latencies(terminal, 1, chance)
    except TerminalError:
        terminal.wait(_END_SECONDS)  # an error of its own, unless the chat was ending
    return latencies


def _child(folder: Path) -> None:
    kind, prompts, flags = json.loads((folder / _ORDER).read_text("utf-8"))
    settings = replace(load_settings(flags), theme="sequoia")
    clock: AnswerClock | None
    if kind == SCREEN:
        app = _ScriptedApp(settings, prompts, folder)
        app.run()
        clock = app.clock
    else:
        engine = build_chat(settings, lambda _message, _fraction: None)
        clock = AnswerClock(engine)
        for prompt in prompts:
            for _ in engine.reply(prompt, settings.sampling(), lambda: False):
                pass
    assert clock is not None
    (folder / _RESULT).write_text(json.dumps([clock.tokens, clock.seconds]), encoding="utf-8")


def main() -> None:
    """One tree for both, since the one that learns may choose another in each run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prompts")
    parser.add_argument("--count", type=int, default=3)
    parser.add_argument("--temperature", type=float, default=0.0)
    parser.add_argument("--run", type=Path, help="folder with the order of a single run")
    given = parser.parse_args()
    if given.run is not None:
        _child(given.run)
        return
    flags = {
        "temperature": given.temperature,
        "growmap": "smollm2-135m/greedy-8x3",
        "lookup": "off",
        "max_new_tokens": 128,
    }
    prompts = prompt_texts(given.prompts, given.count)
    print(measure_screen(prompts, flags, ROUNDS, lambda message, _fraction: print(message)))


if __name__ == "__main__":
    main()
