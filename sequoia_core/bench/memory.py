"""Peak memory of a process, and the size of weights.

Imports no library of models, so that a measured process pays for none.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sequoia_core.bench.model_factory import Sources

_STATUS = Path("/proc/self/status")


def peak_memory() -> int:
    """Most bytes this process has had in main memory.

    The kernel's own counter is of this program. `getrusage` also counts what the process was before
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


def weight_bytes(sources: Sources) -> int:
    """Size of the pair's weights in bfloat16, a borrowed embedding counted once."""
    from sequoia_core.model.loading.sources import open_fitted_draft, open_target

    target = open_target(sources.target).weights
    count = sum(target[name].numel() for name in target)
    draft = open_fitted_draft(sources.target, sources.draft)
    if draft is not None:
        borrowed = {"model.embed_tokens.weight"} if draft.config.embeddings_from_target else set()
        own = (name for name in draft.weights if name.endswith(".weight"))
        count += sum(draft.weights[name].numel() for name in own if name not in borrowed)
    return 2 * count
