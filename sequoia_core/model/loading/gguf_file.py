"""Reading the head of a GGUF file without trusting its counts, and checking its metadata."""

import reprlib
import struct
import sys
from typing import Any

import gguf
import numpy as np

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import shown

READ = frozenset({
    "attention.head_count", "attention.head_count_kv", "attention.key_length",
    "attention.layer_norm_rms_epsilon", "attention.scale", "attention.sliding_window",
    "attention.value_length", "block_count", "context_length", "embedding_length", "expert_count",
    "feed_forward_length", "rope.dimension_count", "rope.freq_base", "rope.scale_linear",
    "rope.scaling.factor", "rope.scaling.type", "vocab_size",
})  # fmt: skip
"""Entries below `llama.` that are computed or compared with the tensors."""

NO_EFFECT = frozenset({
    # read by llama.cpp for the yarn and longrope types only, which are refused
    "rope.scaling.original_context_length", "rope.scaling.finetuned",
    "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow",
})  # fmt: skip

ONLY_VALUES: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.max_alibi_bias": (0.0,),
    "attention.clamp_kqv": (0.0,),
    "embedding_scale": (0.0, 1.0),
    "expert_used_count": (0,),
    "logit_scale": (0.0, 1.0),
    "pooling_type": (0,),
    "residual_scale": (0.0, 1.0),
    "rope.scaling.attn_factor": (1.0,),
    "rope.scaling.yarn_attn_factor": (1.0,),
    "rope.scaling.yarn_ext_factor": (0.0, -1.0),
    "rope.scaling.yarn_log_multiplier": (0.0,),
    "tensor_data_layout": ("Meta AI original pth",),  # the order of rows that every file has
    "use_parallel_residual": (False,),
}
"""Entries below `llama.` of other forward passes, with the values that mean a Llama's."""

OTHER_PREFIXES = {"rope", "attention", *gguf.MODEL_ARCH_NAMES.values()} - {"llama"}
"""Of entries about a model of another architecture, or of no architecture."""

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


def check_entries(reader: StrictReader) -> None:
    """Refuse every entry about the model that is not read and could change it.

    Entries outside `llama.` and `rope.` are about the file, the tokenizer or how it was made.

    Raises:
        ModelLoadError: names the entry.
    """
    for key, field in reader.fields.items():
        prefix, _, name = key.partition(".")
        if prefix in OTHER_PREFIXES:
            raise ModelLoadError(f"{key!r:.80} is unknown; such entries begin with llama.")
        if prefix == "adapter":
            raise ModelLoadError("a LoRA adapter; merge it into its base model")
        if prefix != "llama" or name in READ or name in NO_EFFECT:
            continue
        value = field.contents()
        if name not in ONLY_VALUES or value not in ONLY_VALUES[name]:
            raise ModelLoadError(f"{shown(key)} is {reprlib.repr(value)}, which is not supported")
