"""What the engine process costs a window, and what two windows cost each other.

`python -m tests.app.shared_engine_bench [ROUNDS]` decodes the same prompts in this process, through
an engine process, and in two windows at once, in turn, with the embedded pair at temperature 0.
"""

import asyncio
import sys
import threading
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

from app.config.load import load_settings
from app.config.model_choice import build_chat
from app.engine.client import RemoteEngine
from app.web.processes import EngineProcess
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.config import SamplingParams
from sequoia_core.events import Step
from sequoia_core.tree.choice import TreeChoice

PROMPTS = (
    "Write a Python function that reverses a string, and explain it.",
    "Why is the sky blue?",
)
FLAGS = {"temperature": 0.0, "growmap": "smollm2-135m/greedy-8x3", "lookup": "off"}
PARAMS = SamplingParams(temperature=0.0, max_new_tokens=96)


@dataclass(frozen=True, slots=True)
class Run:
    """Answers from their first step to their last.

    Attributes:
        tokens: decoded in that time.
        wall: that time, in seconds.
        between: for each step, milliseconds from the end of the one before that are not its own.
    """

    tokens: int
    wall: float
    between: tuple[float, ...]

    @property
    def speed(self) -> float:
        """Tokens per second."""
        return self.tokens / self.wall


def nothing(message: str, fraction: float | None) -> None:
    del message, fraction


def timed(engine: ChatEngine) -> Run:
    tokens, wall, between = 0, 0.0, []
    for prompt in PROMPTS:
        engine.clear()
        last = None
        for event in engine.reply(prompt, PARAMS, lambda: False):
            if isinstance(event, Step):
                now = perf_counter()
                if last is not None:
                    tokens += len(event.token_ids)
                    wall += now - last
                    between.append((now - last) * 1e3 - event.timings.total_ms)
                last = now
    return Run(tokens, wall, tuple(between))


def together(engines: list[RemoteEngine]) -> Run:
    """All at once; the wall time is that of the whole, the tokens are everybody's."""
    runs: list[Run] = []

    def run(engine: RemoteEngine) -> None:
        runs.append(timed(engine))

    threads = [threading.Thread(target=run, args=(engine,)) for engine in engines]
    began = perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall = perf_counter() - began
    between = tuple(each for run in runs for each in run.between)
    return Run(sum(run.tokens for run in runs), wall, between)


def measure(path: Path, rounds: int) -> None:
    here = build_chat(load_settings(FLAGS), nothing)
    windows = [RemoteEngine(path, TreeChoice(), nothing) for _ in range(2)]
    for engine in (here, *windows):
        timed(engine)  # warms up
    runs: dict[str, list[Run]] = {"in this process": [], "one window": [], "two windows": []}
    for _ in range(rounds):
        runs["in this process"].append(timed(here))
        runs["one window"].append(timed(windows[0]))
        runs["two windows"].append(together(windows))
    for name, each in runs.items():
        speeds = sorted(run.speed for run in each)
        between = median(gap for run in each for gap in run.between)
        print(
            f"{name:16} {median(speeds):6.1f} tokens/s ({speeds[0]:.1f} to {speeds[-1]:.1f}), "
            f"{between:.2f} ms between steps"
        )


async def main(rounds: int) -> None:
    engine = EngineProcess()
    await engine.start(FLAGS)
    watching = asyncio.create_task(engine.watch(lambda message: None))
    await asyncio.to_thread(measure, engine.path, rounds)
    watching.cancel()
    await engine.stop()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if sys.argv[1:] else 5))
