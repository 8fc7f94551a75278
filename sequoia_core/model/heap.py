"""Memory that was freed, returned to the system.

Loading frees as much as it keeps: tensors in other formats, buffers of files. The C library keeps
that for later requests of the same sizes, which decoding never makes.
"""

import ctypes
import sys


def return_freed_memory() -> None:
    """Return it now where the C library has a call for that, glibc's; elsewhere do nothing."""
    if sys.platform != "linux":
        return
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:  # musl has none
        trim(0)
