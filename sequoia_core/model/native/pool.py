"""The native library's threads, and the lifetime of its objects."""

import weakref
from collections.abc import Callable
from functools import lru_cache

import torch

from sequoia_core.model.cpu import cpu_threads
from sequoia_core.model.native.library import load_library, made


class Pool:
    """Threads that all models of a process share; the caller's is one of them."""

    def __init__(self, threads: int) -> None:
        library = load_library()
        self.handle: int = made(library.sequoia_pool_new(threads))
        self.threads = threads
        free_with(self, self.handle, library.sequoia_pool_free)


@lru_cache(maxsize=1)
def shared_pool() -> Pool:
    """The threads of all models of the process; see `compute_threads`.

    PyTorch is left with one: its threads wait busily after each small operation of a step, on the
    cores that the pool computes on.
    """
    pool = Pool(cpu_threads())
    torch.set_num_threads(1)
    return pool


def free_with(owner: object, handle: int, free: Callable[[int], None]) -> None:
    """Free the library's object when its owner is garbage, but not when the interpreter ends.

    A daemon thread may still compute with it then.
    """
    weakref.finalize(owner, free, handle).atexit = False
