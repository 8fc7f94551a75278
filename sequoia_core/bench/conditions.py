"""Particular conditions to measure systems under, and the memory that they need.

Imports no library of models, so that a measured process pays for none.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sequoia_core.bench.runs import Decode, Run
from sequoia_core.config import SamplingParams

if TYPE_CHECKING:
    from sequoia_core.bench.model_factory import Sources

PREFILL_TOKENS = 1400
PREFILL_PARAMS = SamplingParams(0.0, max_new_tokens=2)
"""One step reads the prompt; the clock needs a second one to know that it has ended."""
_SETTLE_SECONDS = 0.2
_BUSY_LOOP = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: pass"


def busy_name(name: str) -> str:
    """The name of a system that runs while a process is busy."""
    return f"{name}, with a busy process"


def with_busy_process(decode: Decode) -> Decode:
    """The system, while another process keeps one core busy."""

    def decode_in_company(prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        with busy_cores(1):
            return decode(prompt_ids, params)

    return decode_in_company


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


def peak_memory() -> int:
    """Most bytes this process has had in main memory.

    The kernel's own counter is of this program. `getrusage` also counts what the process was before
    it became this program, which for a child is as large as its parent.
    """
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii")
    except OSError:
        status = ""
    if found := re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE):
        return int(found[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def weight_bytes(sources: Sources) -> int:
    """Size of the pair's weights in bfloat16, a borrowed embedding counted once."""
    from sequoia_core.model.loading.loader import open_target
    from sequoia_core.model.loading.pair import open_fitted_draft

    target = open_target(sources.plan.target).weights
    count = sum(target[name].numel() for name in target)
    draft = open_fitted_draft(sources.plan.target, sources.plan.draft)
    if draft is not None:
        borrowed = {"model.embed_tokens.weight"} if draft.config.embeddings_from_target else set()
        own = (name for name in draft.weights if name.endswith(".weight"))
        count += sum(draft.weights[name].numel() for name in own if name not in borrowed)
    return 2 * count
