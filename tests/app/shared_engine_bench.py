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

from app.launch import build_chat
from app.remote_engine import RemoteEngine
from app.settings import load_settings
from app.web.processes import EngineProcess
from sequoia_core.config import SamplingParams
from sequoia_core.events import Step
from sequoia_core.protocols import ChatEngine, TreeChoice

PROMPTS = (
    "Write a Python function that reverses a string, and explain it.",
    "Why is the sky blue?",
)
FLAGS = {"temperature": 0.0, "growmap": "smollm2-135m/greedy-8x3", "lookup": "off"}
PARAMS = SamplingParams(temperature=0.0, max_new_tokens=96)


@dataclass(frozen=True, slots=True)
class Run:
    """Answers from their first step to their last: tokens, wall time, and the steps' own time."""

    tokens: int
    wall: float
    steps: float

    @property
    def speed(self) -> float:
        return self.tokens / self.wall

    @property
    def between_ms(self) -> float:
        """Wall time that is no step's, per token."""
        return (self.wall - self.steps) / self.tokens * 1e3


def nothing(message: str, fraction: float | None) -> None:
    del message, fraction


def timed(engine: ChatEngine) -> Run:
    tokens, wall, steps = 0, 0.0, 0.0
    for prompt in PROMPTS:
        engine.clear()
        began = None
        for event in engine.reply(prompt, PARAMS, lambda: False):
            if isinstance(event, Step):
                now = perf_counter()
                if began is None:
                    began = last = now
                    continue
                tokens += len(event.token_ids)
                steps += event.timings.total_ms / 1e3
                wall += now - last
                last = now
    return Run(tokens, wall, steps)


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
    return Run(sum(run.tokens for run in runs), wall, sum(run.steps for run in runs))


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
        between = median(run.between_ms for run in each)
        print(
            f"{name:16} {median(speeds):6.1f} tokens/s ({speeds[0]:.1f} to {speeds[-1]:.1f}), "
            f"{between:.2f} ms a token between steps"
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
