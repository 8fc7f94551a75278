"""Page-locked main memory of the size that is asked for.

PyTorch's own allocator rounds such blocks up to powers of two (pytorch #150517).
"""

import mmap
from contextlib import suppress

import torch
from torch import Tensor

from sequoia_core.errors import MemoryFullError
from sequoia_core.model.loading.memory_plan import size_text

PORTABLE = 1  # cudaHostRegisterPortable: for all GPUs


class PinnedMemory:
    """Blocks from which a GPU copies by itself, until `close`."""

    def __init__(self) -> None:
        self._blocks: list[Tensor] = []
        self._runtime = torch.cuda.cudart()  # type: ignore[no-untyped-call]

    def block(self, size: int) -> Tensor:
        """Uint8 [size], for use before `close`. Raises MemoryFullError if it cannot be locked."""
        whole = torch.empty(size + 2 * mmap.PAGESIZE, dtype=torch.uint8)
        # whole pages, since none can be locked twice
        first = -whole.data_ptr() % mmap.PAGESIZE
        pages = whole[first : first + -(-size // mmap.PAGESIZE) * mmap.PAGESIZE]
        if int(self._runtime.cudaHostRegister(pages.data_ptr(), len(pages), PORTABLE)):
            self._forget_error()
            raise MemoryFullError(
                f"{size_text(size)} of main memory cannot be locked for copies to the GPU; free "
                "some, or leave the layers on disk with --offload disk"
            )
        self._blocks.append(pages)
        return pages[:size]

    def close(self) -> None:
        while self._blocks:
            pages = self._blocks.pop()  # not freed before it is unlocked
            self._runtime.cudaHostUnregister(pages.data_ptr())

    def _forget_error(self) -> None:
        """Else the next kernel that this thread launches is said to have failed."""
        forget = getattr(self._runtime, "cudaGetLastError", None)  # of PyTorch 2.10 and later
        if forget:
            forget()
            return
        with suppress(RuntimeError):
            torch.ones(1, device="cuda")  # a launch that reports it, and so forgets it
