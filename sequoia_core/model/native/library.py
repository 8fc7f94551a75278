"""The compiled library, which is optional: its structures, signatures, errors and threads."""

import ctypes
import os
import weakref
from ctypes import POINTER, Structure, c_char_p, c_float, c_int32, c_size_t, c_uint32, c_void_p
from functools import lru_cache
from pathlib import Path
from typing import Any

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.cpu import cpu_threads

ABI_VERSION = 13  # `SEQUOIA_ABI_VERSION` of abi.h

LIBRARY_NAME = "libsequoia_native.so"
SOURCES = Path(__file__).parent / "cpp"
_REMEDY = "run: make native" if SOURCES.exists() else "install sequoia-chat anew"
INSTRUCTION_SET_VARIABLE = "SEQUOIA_NATIVE_ISA"  # to use instead of the processor's best
UNPROVEN = "amx_int8"  # run by no hardware yet: used only if it is named

_KINDS: dict[str, Any] = {
    "p": c_void_p, "i": c_int32, "u": c_uint32, "f": c_float, "n": c_size_t, "s": c_char_p,
    "I": POINTER(c_int32), "F": POINTER(c_float), "-": None,
}  # fmt: skip


def _fields(text: str) -> list[tuple[str, Any]]:
    """`i rows columns; f scale` -> fields of these kinds."""
    parts = (part.split() for part in text.split(";"))
    return [(name, _KINDS[kind]) for kind, *names in parts for name in names]


class SizedStruct(Structure):
    """A structure of abi.h, which all begin with their size."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**{"size": ctypes.sizeof(self), **fields})


class ModelShapeStruct(SizedStruct):
    _fields_ = _fields(
        "u size; i layers hidden heads kv_heads head_dim inner vocab head_rows; f norm_epsilon;"
        "i half_cache feature_count; I feature_layers; i target_features;"
        "i gelu rotary_dim rotations; F inverse_frequencies rotary_magnitudes;"
        "I layer_rotations layer_windows;"
        "f attention_scale embedding_multiplier residual_multiplier logits_divisor;"
        "f attention_softcap logit_softcap"
    )


class SegmentStruct(SizedStruct):
    _fields_ = _fields(
        "u size; i rows logit_rows; p cache target_cache mask; i prefix slot_count;"
        "p path_lengths path_slots"
    )


class ReadingStruct(SizedStruct):
    _fields_ = _fields(
        "u size; f inverse_temperature; i wanted;"
        "p parents summaries probs uniforms columns picked stated peaks"
    )


class LogitsStruct(SizedStruct):
    _fields_ = _fields("u size; i rows columns; f inverse_temperature; p values")


class LabelsStruct(SizedStruct):
    _fields_ = _fields("u size; i wanted; p temperatures uniforms columns probs drawn")


_SIGNATURES = {
    "abi_version": "i", "error": "s", "instruction_sets": "s",
    "pool_new": "pi", "pool_free": "-p",
    "model_new": "pppsp", "model_free": "-p", "model_bytes": "np",
    "model_declare": "ipiiiii", "model_allocate": "ip", "model_fill": "ipiiiipni",
    "model_set_bias": "ipiipii", "model_set_vector": "ipiipi",
    "cache_new": "pp", "cache_free": "-p", "cache_length": "ip", "cache_bytes": "np",
    "cache_truncate": "ipi", "cache_keep": "ipipi", "cache_features": "ipiip",
    "forward": "ippipppp", "distributions": "ippp", "label": "ippp", "draw_ordered": "ipiiipp",
}  # fmt: skip
"""By a function's name without `sequoia_`: its result, then its arguments, as of `_KINDS`."""


def find_library() -> Path | None:
    path = Path(os.environ.get("SEQUOIA_NATIVE_LIBRARY") or Path(__file__).parent / LIBRARY_NAME)
    return path if path.exists() else None


@lru_cache(maxsize=1)
def load_library() -> ctypes.CDLL:
    """Raises ModelLoadError if it was not built, cannot be loaded, or is of another version."""
    path = find_library()
    if path is None:
        raise ModelLoadError(f"the native library was not built; {_REMEDY}")
    try:
        library = ctypes.CDLL(str(path))
        for name, kinds in _SIGNATURES.items():
            function = getattr(library, f"sequoia_{name}")
            function.restype, *function.argtypes = (_KINDS[each] for each in kinds)
    except (OSError, AttributeError) as error:
        raise ModelLoadError(f"{path}: cannot be loaded ({error}); {_REMEDY}") from None
    if (found := library.sequoia_abi_version()) != ABI_VERSION:
        raise ModelLoadError(
            f"{path}: built for version {found} of the interface, this is version {ABI_VERSION}; "
            f"{_REMEDY}"
        )
    return library


def call(name: str, *arguments: Any) -> None:
    """Call a function that returns a status; raises ModelLoadError with the library's message."""
    if getattr(load_library(), f"sequoia_{name}")(*arguments):
        raise _error()


def made(kind: str, owner: object, *arguments: Any) -> int:
    """The pointer to a new pool, model or cache, which is freed when its owner is garbage."""
    library = load_library()
    pointer: int | None = getattr(library, f"sequoia_{kind}_new")(*arguments)
    if not pointer:
        raise _error()
    # not when the interpreter ends: a daemon thread may still compute with it then
    weakref.finalize(owner, getattr(library, f"sequoia_{kind}_free"), pointer).atexit = False
    return pointer


def _error() -> ModelLoadError:
    return ModelLoadError(f"native forward: {load_library().sequoia_error().decode()}")


def instruction_sets() -> list[str]:
    """Compiled instruction sets that this processor runs: best first, `UNPROVEN` last."""
    return str(load_library().sequoia_instruction_sets().decode()).split()


def forced_instruction_set() -> str | None:
    """The instruction set that the environment names, or None."""
    name = os.environ.get(INSTRUCTION_SET_VARIABLE)
    if not name:
        return None
    if name not in (known := instruction_sets()):
        raise ModelLoadError(
            f"{INSTRUCTION_SET_VARIABLE} is {name!r}, which this processor does not run; "
            f"give one of: {', '.join(known)}"
        )
    return name


class Pool:
    """Threads that all models of a process share; the caller's is one of them."""

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.handle = made("pool", self, threads)


@lru_cache(maxsize=1)
def shared_pool() -> Pool:
    """The threads of all models of the process; see `compute_threads`."""
    import torch

    pool = Pool(cpu_threads())
    # PyTorch's threads wait busily after each small operation, on the cores that the pool needs
    torch.set_num_threads(1)
    return pool
