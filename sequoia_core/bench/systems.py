"""Every system by name: how it is made, where it runs, and why one is absent.

A system that is absent says what would bring it, since a comparison that silently leaves out the
fastest would mislead.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sequoia_core.bench import names
from sequoia_core.bench.model_factory import GGUF_DRAFT, OPENVINO_DRAFT, Q4_0
from sequoia_core.bench.runs import PeerError, System, peer_code
from sequoia_core.config import WeightFormat
from sequoia_core.model.native.library import INSTRUCTION_SET_VARIABLE

if TYPE_CHECKING:
    from sequoia_core.bench.model_factory import ModelFactory

INSTALL = "pip install -e '.[peers]'"

_AVX2 = {
    INSTRUCTION_SET_VARIABLE: "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
"""Variables that limit this engine's native library and PyTorch's libraries to AVX2."""


@dataclass(frozen=True, slots=True)
class SystemSpec:
    """A system that may take part.

    Attributes:
        module: its library, a name for `import`.
        make: builds it, or raises `PeerError`.
        own: it is this engine, so that its errors are faults and no absence.
        here: it runs in the benchmark's process; else in one of its own.
        files: names of `ModelFactory.made` that it reads.
        changes: fields of `Sources` that are different for it.
        environment: variables of its process.
    """

    name: str
    module: str
    make: Callable[[ModelFactory], System]
    own: bool = False
    here: bool = False
    files: tuple[str, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)

    def check_installed(self) -> None:
        """Look for its library without importing it.

        Raises:
            PeerError: it is not installed; says how to install it.
        """
        if importlib.util.find_spec(self.module) is None:
            raise PeerError(f"{self.module} is not installed; install it with: {INSTALL}")

    def build(self, factory: ModelFactory) -> System:
        """The system, ready to run.

        Raises:
            PeerError: it cannot take part; says why.
        """
        with nullcontext() if self.own else peer_code():
            return self.make(factory)


def build(factory: ModelFactory, name: str) -> System:
    """One system of any kind by its name.

    Raises:
        PeerError: it cannot take part.
    """
    by_name = {spec.name: spec for spec in (*OWN, *BASELINES, *AVX2, *PEERS)}
    return by_name[name].build(factory)


def _own(name: str) -> SystemSpec:
    def make(factory: ModelFactory) -> System:
        from sequoia_core.bench.own_systems import own_choices, own_system

        if name not in own_choices(factory.pair):
            raise PeerError("the target has no draft; name one with --draft")
        return own_system(factory.pair, factory.advisor(), name)

    return SystemSpec(name, "sequoia_core", make, own=True, here=True)


def _plain(name: str, environment: Mapping[str, str], **changes: Any) -> SystemSpec:
    """Plain decoding, computed in another way."""

    def make(factory: ModelFactory) -> System:
        from sequoia_core.bench.own_systems import plain_system

        return plain_system(factory.pair, name)

    changes["draft"] = "none"
    return SystemSpec(name, "torch", make, own=True, changes=changes, environment=environment)


def _hugging_face(name: str, *, assisted: bool = False, **speculation: Any) -> SystemSpec:
    def make(factory: ModelFactory) -> System:
        import torch

        from sequoia_core.bench.hugging_face import HuggingFaceSystem, rebuilt, rebuilt_draft
        from sequoia_core.model.loading.sources import open_target

        sources = factory.sources
        options = torch.device(sources.device), getattr(torch, sources.dtype)
        draft = rebuilt_draft(factory.peer_draft, *options) if assisted else None
        target = open_target(sources.target)
        model = rebuilt(target.config, target.weights, *options)
        return HuggingFaceSystem(name, model, assistant_model=draft, **speculation)

    return SystemSpec(name, "transformers", make)


def _llama_cpp(name: str, *, q4_0: bool = False, lookup: bool = False) -> SystemSpec:
    def make(factory: ModelFactory) -> System:
        from sequoia_core.bench.llama_cpp import LlamaCppSystem

        gguf = str(factory.made(Q4_0)) if q4_0 else factory.gguf
        return LlamaCppSystem(gguf, factory.sources.threads, name, lookup=lookup)

    return SystemSpec(name, "llama_cpp", make, files=(Q4_0,) if q4_0 else ())


def _llama_server(name: str, speculation: str = "", file: str = "") -> SystemSpec:
    def make(factory: ModelFactory) -> System:
        from sequoia_core.bench.llama_cpp import LlamaServerSystem

        draft = factory.made(GGUF_DRAFT) if file == GGUF_DRAFT else None
        gguf = str(factory.made(Q4_0)) if file == Q4_0 else factory.gguf
        return LlamaServerSystem(gguf, factory.sources.threads, name, speculation, draft)

    return SystemSpec(name, "xllamacpp", make, files=(file,) if file else ())


def _openvino(name: str, *files: str) -> SystemSpec:
    def make(factory: ModelFactory) -> System:
        from sequoia_core.bench.openvino import OpenVinoSystem

        draft = str(factory.made(OPENVINO_DRAFT)) if files else None
        return OpenVinoSystem(name, factory.gguf, factory.sources.threads, draft)

    return SystemSpec(name, "openvino_genai", make, files=files)


OWN = tuple(map(_own, (names.PLAIN, *names.TREES)))
BASELINES = (_plain(names.PYTORCH, {}, weights=WeightFormat.TORCH),)
"""This engine's plain decoding by PyTorch, where the pair is computed by the native library."""
AVX2 = (
    _plain(names.AVX2, _AVX2),
    _plain(names.FLOAT32_AVX2, _AVX2, weights=WeightFormat.TORCH, own_dtype="float32"),
)
"""Plain decoding with AVX2 alone, as on processors without bfloat16."""
PEERS = (
    _hugging_face(names.HF_PLAIN),
    _hugging_face(names.HF_ASSISTED, assisted=True),
    # as many tokens as in the library's own examples
    _hugging_face(names.HF_LOOKUP, prompt_lookup_num_tokens=3),
    _llama_cpp(names.LLAMA_CPP),
    _llama_cpp(names.LLAMA_CPP_Q4_0, q4_0=True),
    _llama_cpp(names.LLAMA_CPP_LOOKUP, lookup=True),
    _llama_server(names.LLAMA_SERVER),
    _llama_server(names.LLAMA_SERVER_Q4_0, file=Q4_0),
    _llama_server(names.LLAMA_SERVER_LOOKUP, "ngram_cache"),
    _llama_server(names.LLAMA_CPP_DRAFT, "draft_simple", GGUF_DRAFT),
    _openvino(names.OPENVINO),
    _openvino(names.OPENVINO_SPECULATIVE, OPENVINO_DRAFT),
)
