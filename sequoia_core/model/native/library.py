"""The compiled library: finding it, its structures and signatures, its errors.

It is optional: without it models are computed by PyTorch.
"""

import ctypes
import os
from collections.abc import Sequence
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

from sequoia_core.errors import ModelLoadError

ABI_VERSION = 5
"""`SEQUOIA_ABI_VERSION` of abi.h."""

LIBRARY_NAME = "libsequoia_native.so"
SOURCES = Path(__file__).parent / "cpp"
_REMEDY = "run: make native" if SOURCES.exists() else "install sequoia-chat anew"
INSTRUCTION_SET_VARIABLE = "SEQUOIA_NATIVE_ISA"
"""Environment variable: the instruction set to use instead of the processor's best."""
UNPROVEN = "amx_int8"
"""The instruction set that no hardware has run yet: it is used only if it is named."""


class ModelShapeStruct(Structure):
    """`sequoia_model_shape` of abi.h."""

    _fields_ = (
        ("size", c_uint32),
        *((name, c_int32) for name in (
            "layers", "hidden", "heads", "kv_heads", "head_dim", "inner", "vocab", "head_rows",
        )),
        ("norm_epsilon", c_float),
        ("half_cache", c_int32),
        ("feature_count", c_int32),
        ("feature_layers", POINTER(c_int32)),
        ("target_features", c_int32),
        ("inverse_frequencies", POINTER(c_float)),
    )  # fmt: skip


class SegmentStruct(Structure):
    """`sequoia_segment` of abi.h."""

    _fields_ = (
        ("size", c_uint32),
        ("rows", c_int32),
        ("logit_rows", c_int32),
        ("cache", c_void_p),
        ("target_cache", c_void_p),
        ("mask", c_void_p),
        ("prefix", c_int32),
        ("slot_count", c_int32),
        ("path_lengths", c_void_p),
        ("path_slots", c_void_p),
    )


class ReadingStruct(Structure):
    """`sequoia_reading` of abi.h."""

    _fields_ = (
        ("size", c_uint32),
        ("inverse_temperature", c_float),
        ("wanted", c_int32),
        *((name, c_void_p) for name in (
            "parents", "summaries", "probs", "uniforms", "columns", "picked", "stated", "peaks",
        )),
    )  # fmt: skip


class LogitsStruct(Structure):
    """`sequoia_logits` of abi.h."""

    _fields_ = (
        ("size", c_uint32),
        ("rows", c_int32),
        ("columns", c_int32),
        ("inverse_temperature", c_float),
        ("values", c_void_p),
    )


class LabelsStruct(Structure):
    """`sequoia_labels` of abi.h."""

    _fields_ = (
        ("size", c_uint32),
        ("wanted", c_int32),
        *((name, c_void_p) for name in (
            "temperatures", "uniforms", "columns", "probs", "drawn",
        )),
    )  # fmt: skip


_SIGNATURES: dict[str, tuple[Any, Sequence[Any]]] = {
    "sequoia_abi_version": (c_int32, ()),
    "sequoia_error": (c_char_p, ()),
    "sequoia_instruction_sets": (c_char_p, ()),
    "sequoia_pool_new": (c_void_p, (c_int32,)),
    "sequoia_pool_free": (None, (c_void_p,)),
    "sequoia_model_new": (c_void_p, (POINTER(ModelShapeStruct), c_void_p, c_char_p, c_void_p)),
    "sequoia_model_free": (None, (c_void_p,)),
    "sequoia_model_declare": (c_int32, (c_void_p, *(c_int32,) * 5)),
    "sequoia_model_allocate": (c_int32, (c_void_p,)),
    "sequoia_model_fill": (
        c_int32,
        (c_void_p, *(c_int32,) * 4, c_void_p, c_size_t, c_int32),
    ),
    "sequoia_model_set_scale": (c_int32, (c_void_p, c_int32, c_int32, c_void_p, c_int32)),
    "sequoia_model_set_bias": (c_int32, (c_void_p, c_int32, c_int32, c_void_p, c_int32, c_int32)),
    "sequoia_model_set_vector": (c_int32, (c_void_p, c_int32, c_int32, c_void_p, c_int32)),
    "sequoia_model_bytes": (c_size_t, (c_void_p,)),
    "sequoia_cache_new": (c_void_p, (c_void_p,)),
    "sequoia_cache_free": (None, (c_void_p,)),
    "sequoia_cache_length": (c_int32, (c_void_p,)),
    "sequoia_cache_bytes": (c_size_t, (c_void_p,)),
    "sequoia_cache_truncate": (c_int32, (c_void_p, c_int32)),
    "sequoia_cache_keep": (c_int32, (c_void_p, c_int32, c_void_p, c_int32)),
    "sequoia_cache_features": (c_int32, (c_void_p, c_int32, c_int32, c_void_p)),
    "sequoia_forward": (
        c_int32,
        (c_void_p, POINTER(SegmentStruct), c_int32, *(c_void_p,) * 3, POINTER(ReadingStruct)),
    ),
    "sequoia_distributions": (c_int32, (c_void_p, POINTER(LogitsStruct), c_void_p)),
    "sequoia_label": (c_int32, (c_void_p, POINTER(LogitsStruct), POINTER(LabelsStruct))),
    "sequoia_draw_ordered": (
        c_int32,
        (c_void_p, c_int32, c_int32, c_int32, c_void_p, c_void_p),
    ),
}


def find_library() -> Path | None:
    """The compiled library in this folder, or None where it was not built."""
    path = Path(os.environ.get("SEQUOIA_NATIVE_LIBRARY") or Path(__file__).parent / LIBRARY_NAME)
    return path if path.exists() else None


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL:
    """The library with its functions' signatures.

    Raises:
        ModelLoadError: it was not built, cannot be loaded, or is of another version.
    """
    path = find_library()
    if path is None:
        raise ModelLoadError(f"the native library was not built; {_REMEDY}")
    try:
        library = ctypes.CDLL(str(path))
        for name, (result, arguments) in _SIGNATURES.items():
            function = getattr(library, name)
            function.restype, function.argtypes = result, arguments
    except (OSError, AttributeError) as error:
        raise ModelLoadError(f"{path}: cannot be loaded ({error}); {_REMEDY}") from None
    if (found := library.sequoia_abi_version()) != ABI_VERSION:
        raise ModelLoadError(
            f"{path}: built for version {found} of the interface, this is version {ABI_VERSION}; "
            f"{_REMEDY}"
        )
    return library


def check(status: int) -> None:
    """Raise the library's message if a call returned a status other than 0.

    Raises:
        ModelLoadError: the call failed.
    """
    if status:
        raise ModelLoadError(f"native forward: {load_library().sequoia_error().decode()}")


def made(pointer: int | None) -> int:
    """The pointer that a constructor returned.

    Raises:
        ModelLoadError: it is null.
    """
    check(0 if pointer else 1)
    assert pointer
    return pointer


def instruction_sets() -> list[str]:
    """Compiled instruction sets that this processor runs: best first, `UNPROVEN` last."""
    return str(load_library().sequoia_instruction_sets().decode()).split()


def forced_instruction_set() -> str | None:
    """The instruction set that the environment names, or None.

    Raises:
        ModelLoadError: this processor does not run it, or it was not compiled in.
    """
    name = os.environ.get(INSTRUCTION_SET_VARIABLE)
    if not name:
        return None
    if name not in (known := instruction_sets()):
        raise ModelLoadError(
            f"{INSTRUCTION_SET_VARIABLE} is {name!r}, which this processor does not run; "
            f"give one of: {', '.join(known)}"
        )
    return name
