"""Memory that is not needed is not taken, or returned to the system.

Loading frees as much as it keeps: tensors in other formats, buffers of files. The C library keeps
that for later requests of the same sizes, which decoding never makes.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

_M_ARENA_MAX = -8
"""Of glibc's `mallopt`."""


def keep_to_one_arena() -> None:
    """Let all threads share one heap, in glibc; call it before there are threads.

    Else each thread has its own, and what one of them frees is not used by another. Large tensors
    lie outside of heaps, and decoding makes few small ones: it takes as long.
    """
    if (mallopt := _c_function("mallopt")) is not None:
        mallopt(_M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Return it now where the C library has a call for that, glibc's; elsewhere do nothing."""
    if (trim := _c_function("malloc_trim")) is not None:
        trim(0)


def _c_function(name: str) -> Any:
    """A function of Linux' C library; None elsewhere, and where it has none, as musl."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def release_file_pages(array: np.ndarray[Any, Any]) -> None:
    """Let go of all pages of the file that an array maps; a later read brings them back.

    Without it, a file that is copied part by part counts whole as memory of the process.
    """
    import numpy as np  # late: the chat calls another function before it may take time

    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        base.madvise(mmap.MADV_DONTNEED)
