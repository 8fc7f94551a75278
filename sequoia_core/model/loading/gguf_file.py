"""Reading the head of a GGUF file without trusting its counts."""

import struct
import sys
from typing import Any

import gguf
import numpy as np

from sequoia_core.errors import ModelLoadError

MOST_ENTRIES = 1 << 16
"""Of metadata and of tensors; the largest Llama has about 1,200."""

MOST_ITEMS = 1 << 21
"""Items of all arrays together, other than numbers; a vocabulary of 256k has under a million."""


class StrictReader(gguf.GGUFReader):  # type: ignore[misc]  # the package ships no types
    """Refuses to read past the end, and counts that no model's file has.

    The package would go on with empty arrays past the end. For a vocabulary it takes seconds, since
    it makes three mapped arrays for each string; this makes one plain array.
    """

    items = 0

    def entry(self, key: str) -> Any:
        """Content of a metadata entry."""
        return self.fields[key].contents()

    def optional(self, key: str, default: Any = None) -> Any:
        """Content of a metadata entry that may be missing."""
        return self.entry(key) if key in self.fields else default

    def number_per_layer(self, key: str, *default: Any) -> Any:
        """An entry that may be stated for each layer, if all layers have the same."""
        value = self.optional(key, *default) if default else self.entry(key)
        if isinstance(value, list):
            if len(set(value)) != 1:
                raise ModelLoadError(f"{key} differs from layer to layer, which is not supported")
            return value[0]
        return value

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> Any:
        found = super()._get(offset, dtype, count, override_order)
        if len(found) < count:
            raise ValueError("it ends too early")
        return found

    def _get_field_parts(self, orig_offs: int, raw_type: int) -> Any:
        if raw_type != gguf.GGUFValueType.ARRAY:
            return super()._get_field_parts(orig_offs, raw_type)
        kind, length = self._get(orig_offs, np.uint32), self._get(orig_offs + 4, np.uint64)
        if kind[0] == gguf.GGUFValueType.ARRAY:
            raise ValueError("an array of arrays, which no model's file has")
        if (number := self.gguf_scalar_to_np.get(kind[0])) is not None:
            values = self._get(orig_offs + 12, number, length[0])
            types = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType(kind[0])]
            return 12 + values.nbytes, [kind, length, values], [2], types
        self.items += int(length[0])
        if self.items > MOST_ITEMS:
            raise ValueError(f"more than {MOST_ITEMS} strings, which no model's file has")
        if kind[0] != gguf.GGUFValueType.STRING:
            raise ValueError(f"an array of unknown kind {kind[0]}")
        strings, size = self._strings(orig_offs + 12, int(length[0]))
        types = [gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.STRING]
        return 12 + size, [kind, length, *strings], list(range(2, 2 + len(strings))), types

    def _strings(self, start: int, count: int) -> tuple[list[Any], int]:
        """Consecutive strings, uint8 each, and the bytes that they take in the file."""
        content = self.data.view(np.ndarray)
        little = (sys.byteorder == "little") == (self.byte_order == "I")
        length = struct.Struct("<Q" if little else ">Q")
        strings, at = [], start
        for _ in range(count):
            if at + 8 > len(content):
                raise ValueError("it ends too early")
            (size,) = length.unpack_from(content, at)
            at += 8 + size
            if at > len(content):
                raise ValueError("it ends too early")
            strings.append(content[at - size : at])
        return strings, at - start

    def _build_fields(self, offs: int, count: int) -> Any:
        return super()._build_fields(offs, _few(count))

    def _build_tensor_info(self, offs: int, count: int) -> Any:
        return super()._build_tensor_info(offs, _few(count))


def _few(count: int) -> int:
    if count > MOST_ENTRIES:
        raise ValueError(f"{count} entries, where no model has more than {MOST_ENTRIES}")
    return int(count)
