"""Returning freed memory to the system: loading frees as much as it keeps."""

from __future__ import annotations

import ctypes
import mmap
import sys
from typing import Any

_M_ARENA_MAX = -8  # of glibc's `mallopt`


def keep_to_one_arena() -> None:
    """Let all threads share one arena of glibc, so that one can use what another freed.

    To be called before there are threads. Large tensors lie outside of arenas.
    """
    if (mallopt := _c_function("mallopt")) is not None:
        mallopt(_M_ARENA_MAX, 1)


def return_freed_memory() -> None:
    """Return freed memory now if the C library is glibc; elsewhere do nothing."""
    if (trim := _c_function("malloc_trim")) is not None:
        trim(0)


def _c_function(name: str) -> Any:
    """A function of Linux' C library; None elsewhere, and where it is missing, as in musl."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def release_file_pages(array: Any) -> None:
    """Release all pages of the file that a NumPy array maps; a later read loads them again."""
    while hasattr(array, "base"):
        array = array.base
    if isinstance(array, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        array.madvise(mmap.MADV_DONTNEED)
