"""Keys and values of one conversation in the native library."""

from __future__ import annotations

from collections.abc import Sequence
from ctypes import c_int32
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from sequoia_core.model.native.library import check, load_library, made
from sequoia_core.model.native.pool import free_with

if TYPE_CHECKING:
    from sequoia_core.model.native.llama import NativeLlama


class NativeCache:
    """A `KVCache` of a `NativeLlama`.

    A conditioned draft's reads the target's cache, or zeros without one.
    """

    def __init__(self, model: NativeLlama, target: NativeCache | None = None) -> None:
        self._library = load_library()
        self.handle: int = made(self._library.sequoia_cache_new(model.handle))
        self.target = target
        self._keeps_root_only = model.config.feature_layers != ()
        self._feature_shape = (len(model.kept_layers), model.config.hidden_size)
        free_with(self, self.handle, self._library.sequoia_cache_free)

    @property
    def length(self) -> int:
        """Tokens held, `S`."""
        return int(self._library.sequoia_cache_length(self.handle))

    @property
    def nbytes(self) -> int:
        """Memory of its pages."""
        return int(self._library.sequoia_cache_bytes(self.handle))

    def keep(self, committed: int, rows: Sequence[int]) -> None:
        """See `KVCache.keep`; a conditioned draft keeps only the first row, a tree's root.

        The rows below it were computed from the draft's own outputs, and are read again with the
        target's hidden states.
        """
        kept = list(rows[:1] if self._keeps_root_only else rows)
        array = (c_int32 * len(kept))(*kept)
        check(self._library.sequoia_cache_keep(self.handle, committed, array, len(kept)))

    def truncate(self, length: int) -> None:
        """Forget all tokens from `length` on; pages that are not needed are freed."""
        check(self._library.sequoia_cache_truncate(self.handle, length))

    def release(self) -> None:
        """Return memory that the tokens held do not need."""
        self.truncate(self.length)

    def features(self, first: int, stop: int) -> Tensor:
        """Outputs of the model's kept layers for tokens `first` to `stop - 1`.

        Returns:
            float32 [stop - first, F, hidden].
        """
        found = torch.empty((stop - first, *self._feature_shape))
        pointer = found.data_ptr()
        check(self._library.sequoia_cache_features(self.handle, first, stop - first, pointer))
        return found
