"""Speeds under particular conditions: with a busy process, and of reading a long prompt.

Owns the wrappers that put a system into them; the runs are compared as all others.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sequoia_core.bench.runner import Comparison
from sequoia_core.bench.runs import Run, System
from sequoia_core.config import SamplingParams

PREFILL_TOKENS = 1400
PREFILL_PARAMS = SamplingParams(0.0, max_new_tokens=2)
"""One step that reads the prompt, and a second one, by which the clock knows that it has ended."""
_SETTLE_SECONDS = 0.2
_BUSY = "{}, with a busy process"
_COMPUTE = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


def busy_name(name: str) -> str:
    """The name of a system that runs while a process is busy."""
    return _BUSY.format(name)


class WithBusyProcess:
    """A system while another process keeps one core busy.

    Args:
        system: that decodes.
    """

    def __init__(self, system: System) -> None:
        self.name = busy_name(system.name)
        self._system = system

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode one prompt."""
        with busy_cores(1):
            return self._system.run(prompt_ids, params)


@contextmanager
def busy_cores(processes: int) -> Iterator[None]:
    """Other processes that each keep a core busy; they end with this one, however it ends."""
    running = [subprocess.Popen([sys.executable, "-c", _COMPUTE]) for _ in range(processes)]
    try:
        time.sleep(_SETTLE_SECONDS)
        yield
    finally:
        for each in running:
            each.kill()
            each.wait()


def long_prompt(prompts: Sequence[Sequence[int]], length: int = PREFILL_TOKENS) -> list[int]:
    """One prompt of so many tokens, made of others, over and over."""
    joined = [token for prompt in prompts for token in prompt]
    return (joined * -(-length // len(joined)))[:length]


def prefill_speeds(comparison: Comparison, length: int = PREFILL_TOKENS) -> dict[str, list[float]]:
    """Prompt tokens per second of every run, by system."""
    return {
        name: [length / run.first_seconds for run in runs] for name, runs in comparison.runs.items()
    }
