"""Particular conditions to measure systems under: a busy process, and a long prompt."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sequoia_core.bench.comparison import SpeedComparison
from sequoia_core.bench.runs import Run, System
from sequoia_core.config import SamplingParams

PREFILL_TOKENS = 1400
PREFILL_PARAMS = SamplingParams(0.0, max_new_tokens=2)
"""One step reads the prompt; the clock needs a second one to know that it has ended."""
_SETTLE_SECONDS = 0.2
_BUSY_LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


def busy_name(name: str) -> str:
    """The name of a system that runs while a process is busy."""
    return f"{name}, with a busy process"


class WithBusyProcess:
    """A system that decodes while another process keeps one core busy."""

    def __init__(self, system: System) -> None:
        self.name = busy_name(system.name)
        self._system = system

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode one prompt."""
        with busy_cores(1):
            return self._system.run(prompt_ids, params)


@contextmanager
def busy_cores(processes: int) -> Iterator[None]:
    """Run other processes that each keep a core busy; they end with this one, however it ends."""
    running = [subprocess.Popen([sys.executable, "-c", _BUSY_LOOP]) for _ in range(processes)]
    try:
        time.sleep(_SETTLE_SECONDS)
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def long_prompt(prompts: Sequence[Sequence[int]], length: int) -> list[int]:
    """One prompt of `length` tokens, made by repeating others."""
    joined = [token for prompt in prompts for token in prompt]
    return (joined * -(-length // len(joined)))[:length]


def prefill_speeds(comparison: SpeedComparison, length: int) -> dict[str, list[float]]:
    """Prompt tokens per second of every run, by system."""
    return {
        name: [length / run.first_seconds for run in runs] for name, runs in comparison.runs.items()
    }
