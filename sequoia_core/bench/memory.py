"""The most memory a system needs, measured in a process of its own.

Owns that process: it loads one system, decodes a little and says how large it was at its largest,
so that neither the other systems nor the report count. Run as a module it is that process.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from sequoia_core.bench.lineup import build
from sequoia_core.bench.runs import NoSpeedError, PeerError
from sequoia_core.bench.workshop import Sources, Workshop
from sequoia_core.config import SamplingParams

TOKENS = 64
COMMAND = ("-m", "sequoia_core.bench.memory")
_STATUS = Path("/proc/self/status")


def measure_memory(sources: Sources, name: str, prompt_ids: Sequence[int]) -> int:
    """Load one system in a process of its own, decode; bytes at its largest.

    Raises:
        PeerError: the process failed.
    """
    task = {"sources": asdict(sources), "system": name, "prompt_ids": list(prompt_ids)}
    done = subprocess.run(
        [sys.executable, *COMMAND],
        input=json.dumps(task),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise PeerError(f"its memory could not be measured: {lines[-1]}")
    return int(done.stdout.splitlines()[-1])


def peak_memory() -> int:
    """Bytes this process has had in main memory at most.

    The kernel's own counter for this program: `getrusage` also counts what the process was before
    it became this program, which for a child is as large as its parent.
    """
    try:
        found = re.search(r"^VmHWM:\s+(\d+) kB$", _STATUS.read_text(encoding="ascii"), re.MULTILINE)
    except OSError:
        found = None
    if found is not None:
        return int(found[1]) * 1024
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def weight_bytes(workshop: Workshop) -> int:
    """Size of the pair's weights in bfloat16, a borrowed embedding counted once."""
    from sequoia_core.pair import open_draft, open_target

    known = workshop.sources
    target = open_target(known.target).weights
    count = sum(target[name].numel() for name in target)
    draft = open_draft(known.target, known.draft)
    if draft is not None:
        borrowed = {"model.embed_tokens.weight"} if draft.config.embeddings_from_target else set()
        own = (name for name in draft.weights if name.endswith(".weight"))
        count += sum(draft.weights[name].numel() for name in own if name not in borrowed)
    return 2 * count


def _serve() -> None:
    task = json.load(sys.stdin)
    with Workshop(Sources(**task["sources"])) as workshop:
        system = build(workshop, task["system"])
        params = SamplingParams(0.0, seed=0, max_new_tokens=TOKENS)
        with suppress(NoSpeedError):
            system.run(task["prompt_ids"], params)
    sys.stdout.write(f"{peak_memory()}\n")


if __name__ == "__main__":
    _serve()
