"""A long evening at the keyboard: `make soak`.

The chat on a real pseudo-terminal, with an engine that makes its answers up: first so many turns
as fast as they come, then 10,000 steps at 100 a second, while somebody types, pages up and down
and drags the window about. In the end every step has to be in the record, every thread gone, and
the memory what it was; how long a key took to be seen is told.
"""

import argparse
import json
import math
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import psutil

from app.app import SequoiaApp
from app.commands.terminal import Terminal, TerminalError
from app.config.settings import Settings
from app.store.archive import Archive
from app.store.recorder import DatabaseRecorder
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.config import SamplingParams
from sequoia_core.events import Event, Progress, Step
from sequoia_core.model.malloc_trim import keep_to_one_arena
from tests.app.records import steps_in
from tests.app.typing_latency import percentile, typing_latencies
from tests.fakes import ANSWER, PAIR, answer_events, make_answer
from tests.replay_engine import ReplayEngine, Trace

SIZE = (160, 50)
SIZES = [(20, 5), (60, 20), (80, 24), (33, 9), (200, 60), (1, 1), (100, 12)]
POLL_SECONDS = 0.05
KEYS_AT_ONCE = 20
GROWTH_MIB = 8.0
"""That the process's highest size may grow by from the second quarter of the paced steps to the
last: what 20,000 tokens of text and the interpreter's own leavings take. The lowest depends on when
cycles were searched for. It would be hundreds if steps were kept."""
KEY_SECONDS = 0.05
"""Within which 99 of 100 keys are seen."""
START_SECONDS, QUIT_SECONDS = 120, 30
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Order:
    """What the chat's process is told.

    Attributes:
        folder: where it leaves what it has to say.
        turns: answered as fast as they come, before anything is measured.
        steps: that are then decoded at the rate.
        rate: steps a second.
    """

    folder: str
    turns: int
    steps: int
    rate: float

    @property
    def paced(self) -> Path:
        """There once the paced steps begin."""
        return Path(self.folder) / "paced"

    @property
    def done(self) -> Path:
        """There once they are over."""
        return Path(self.folder) / "done"

    @property
    def result(self) -> Path:
        """There once the chat was left."""
        return Path(self.folder) / "result.json"

    @property
    def database(self) -> Path:
        """The record."""
        return Path(self.folder) / "chats.db"


class MadeUpEngine(ReplayEngine):
    """Makes each answer up when it is asked for, so that it holds none of them.

    Attributes:
        given: steps so far.
        rate: steps a second, or None for as fast as they are taken.
    """

    def __init__(self) -> None:
        super().__init__(Trace(PAIR, make_answer()))
        self.given = self.turns = 0
        self.rate: float | None = None
        self._due = 0.0

    def reply(
        self, prompt: str, params: SamplingParams, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        """Prose, a list and code, of another length each time."""
        self.turns += 1
        text = (ANSWER + f"\n## Turn {self.turns}\n\n") * (1 + self.turns % 3)
        self._due = time.monotonic()
        for event in self._replay(answer_events(text), should_stop):
            if isinstance(event, Step):
                self.given += 1
                self._pace()
            yield event

    def _pace(self) -> None:
        if self.rate is not None:
            self._due += 1 / self.rate
            time.sleep(max(0.0, self._due - time.monotonic()))


class SoakedChat(SequoiaApp):
    """The chat, with somebody who asks as soon as the last answer is there."""

    def __init__(self, order: Order) -> None:
        super().__init__(
            self._build, Settings(max_new_tokens=100_000), DatabaseRecorder(order.database)
        )
        self._order = order
        self._process = psutil.Process()
        self._paced_from = 0
        self.engine = MadeUpEngine()
        self.memory: list[tuple[int, int]] = []

    def on_ready(self) -> None:
        """Look for the end of each answer."""
        self.set_interval(POLL_SECONDS, self._go_on)

    def _build(self, progress: Progress) -> ChatEngine:
        del progress
        return self.engine

    def _go_on(self) -> None:
        if self.chat.session.pair is None or self.chat.session.busy or self._order.done.exists():
            return
        if self.engine.rate is None and self.engine.turns >= self._order.turns:
            self.engine.rate, self._paced_from = self._order.rate, self.engine.given
            self._order.paced.touch()
        if self.engine.rate is not None:
            paced = self.engine.given - self._paced_from
            self.memory.append((paced, self._process.memory_info().rss))
            if paced >= self._order.steps:
                self._order.done.touch()
                return
        prompt = f"Question {self.engine.turns + 1}: why is the sky blue?"
        self.chat.submit(prompt, "", command=False)


def run_chat(order: Order) -> None:
    """The chat's process: leaves its figures in the folder."""
    keep_to_one_arena()  # as the command does
    app = SoakedChat(order)
    app.run()
    left = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    result = {
        "given": app.engine.given, "turns": app.engine.turns, "memory": app.memory,
        "threads": left,
    }  # fmt: skip
    order.result.write_text(json.dumps(result), encoding="utf-8")


def use(terminal: Terminal, order: Order) -> list[float]:
    """Type, page and resize until the steps are over; how long each key took to be seen."""
    chance = random.Random(1)
    latencies: list[float] = []
    while not order.done.exists():
        latencies += typing_latencies(terminal, KEYS_AT_ONCE, chance)
        terminal.type("\x1b[5~" * 3)  # page up
        time.sleep(0.2)
        for size in chance.sample(SIZES, 5):
            terminal.resize(size)
            time.sleep(0.01)
        terminal.resize(SIZE)
        time.sleep(0.5)
        terminal.type("\x1b[6~" * 5)  # page down
        time.sleep(0.2)
    return latencies


def soak(order: Order, key_seconds: float = math.inf) -> int:
    """Run it all; 0 if nothing was lost.

    Args:
        order: how much of it.
        key_seconds: within which 99 of 100 keys have to be seen.
    """
    command = [sys.executable, "-m", "tests.app.soak", "--chat", json.dumps(asdict(order))]
    home = {
        name: str(Path(order.folder) / name)
        for name in ("XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_CACHE_HOME")
    }
    with Terminal(command, SIZE, home) as terminal:
        give_up = time.monotonic() + START_SECONDS
        while not order.paced.exists():
            if not terminal.running or time.monotonic() > give_up:
                raise TerminalError("the chat did not get to its paced steps")
            time.sleep(POLL_SECONDS)
        latencies = use(terminal, order)
        terminal.type("\x11")  # Ctrl+Q
        begun = time.monotonic()
        code = terminal.wait(QUIT_SECONDS)
        quit_seconds = time.monotonic() - begun
    result = json.loads(order.result.read_text("utf-8"))
    kept = recorded_steps(Archive(order.database))
    second, last = (highest(result["memory"], order.steps, part) for part in (2, 4))
    growth = (last - second) / MIB
    shown = {f"{share:.0%}": percentile(latencies, share) * 1e3 for share in (0.9, 0.99)}
    print(
        f"{result['turns']} turns, {result['given']} steps, "
        f"{order.steps} of them at {order.rate:.0f} steps/s on {SIZE[0]}x{SIZE[1]}\n"
        f"record: {kept} steps\n"
        f"memory: at most {second / MIB:.1f} MiB in the second quarter, "
        f"{last / MIB:.1f} MiB in the last ({growth:+.1f})\n"
        f"key to echo: median {median(latencies) * 1e3:.1f} ms, 90% {shown['90%']:.1f} ms, "
        f"99% {shown['99%']:.1f} ms, longest {max(latencies) * 1e3:.1f} ms, "
        f"{len(latencies)} keys\n"
        f"left in {quit_seconds:.2f} s with code {code}, threads left: "
        f"{', '.join(result['threads']) or 'none'}"
    )
    failures = [
        *(["steps are missing from the record"] if kept != result["given"] else []),
        *(["the memory grew"] if growth > GROWTH_MIB else []),
        *(["keys were seen late"] if percentile(latencies, 0.99) > key_seconds else []),
        *(["threads are left"] if result["threads"] else []),
        *([f"exit code {code}"] if code else []),
    ]
    for failure in failures:
        print(f"soak: {failure}", file=sys.stderr)
    return len(failures)


def highest(memory: Sequence[tuple[int, int]], steps: int, quarter: int) -> int:
    """The most bytes that were in use in a quarter of the steps, the first being 1."""
    first, end = (quarter - 1) * steps / 4, quarter * steps / 4
    return max(size for at, size in memory if first <= at and (at <= end or quarter == 4))


def recorded_steps(archive: Archive) -> int:
    """Steps in the record, read back one by one: those of an answer count as far as they follow."""
    kept = 0
    for session in archive.sessions():
        for exchange in archive.load(session.id).history.exchanges:
            indices = [step.index for step in steps_in(archive, exchange)]
            kept += sum(index == at for at, index in enumerate(indices, start=1))
    return kept


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--turns", type=int, default=115)
    parser.add_argument("--chat", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.chat is not None:
        run_chat(Order(**json.loads(chosen.chat)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        return soak(Order(folder, chosen.turns, chosen.steps, chosen.rate), KEY_SECONDS)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
