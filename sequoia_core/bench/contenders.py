"""Every system by name: how it is made, where it runs, and why one is absent.

Owns the list. A system that is not there says what would bring it, since a comparison that
silently leaves out the fastest is none.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sequoia_core.bench import names
from sequoia_core.bench.runs import PeerError, System, peer_code
from sequoia_core.bench.workshop import GGUF_DRAFT, OPENVINO_DRAFT, Q4_0
from sequoia_core.config import WeightFormat
from sequoia_core.model.loading.pair import INSTRUCTION_SET_VARIABLE

if TYPE_CHECKING:
    from sequoia_core.bench.workshop import Workshop

INSTALL = "pip install -e '.[peers]'"

_AVX2 = {
    INSTRUCTION_SET_VARIABLE: "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
"""Variables that keep this engine's native library and PyTorch's libraries to AVX2."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A system that may take part.

    Attributes:
        name: for the report.
        module: what it runs on; a name for `import`.
        make: builds it, or raises `PeerError`.
        own: it is this engine, whose errors are nobody's absence.
        here: it runs in the process of the benchmark; else in one of its own.
        files: names of `Workshop.made` that it reads.
        changes: fields of `Sources` that are different for it.
        environment: variables of its process.
    """

    name: str
    module: str
    make: Callable[[Workshop], System]
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

    def build(self, workshop: Workshop) -> System:
        """The system, ready to run.

        Raises:
            PeerError: it cannot take part; says why, or how to install it.
        """
        self.check_installed()
        with nullcontext() if self.own else peer_code():
            return self.make(workshop)


def build(workshop: Workshop, name: str) -> System:
    """One system of any kind by its name.

    Raises:
        PeerError: it cannot take part.
    """
    by_name = {contender.name: contender for contender in (*OWN, *BASELINES, *AVX2, *PEERS)}
    return by_name[name].build(workshop)


def make_file(workshop: Workshop, name: str) -> None:
    """Make one of the files that contenders read.

    Raises:
        PeerError: it cannot be made.
    """
    with peer_code():
        workshop.made(name)


def _own(name: str) -> Callable[[Workshop], System]:
    def make(workshop: Workshop) -> System:
        from sequoia_core.bench.own import own_choices, own_system

        if name not in own_choices(workshop.pair):
            raise PeerError("the target has no draft; name one with --draft")
        return own_system(workshop.pair, workshop.advisor(), name)

    return make


def _plainly(name: str) -> Callable[[Workshop], System]:
    def make(workshop: Workshop) -> System:
        from sequoia_core.bench.own import plain_system

        return plain_system(workshop.pair, name)

    return make


def _hugging_face(workshop: Workshop) -> System:
    from sequoia_core.bench.hugging_face import HuggingFaceSystem

    return HuggingFaceSystem(names.HF_PLAIN, workshop.hugging_face_target)


def _hugging_face_assisted(workshop: Workshop) -> System:
    from sequoia_core.bench.hugging_face import HuggingFaceSystem

    draft = workshop.hugging_face_draft
    target = workshop.hugging_face_target
    return HuggingFaceSystem(names.HF_ASSISTED, target, assistant_model=draft)


def _hugging_face_lookup(workshop: Workshop) -> System:
    from sequoia_core.bench.hugging_face import LOOKUP_TOKENS, HuggingFaceSystem

    target = workshop.hugging_face_target
    return HuggingFaceSystem(names.HF_LOOKUP, target, prompt_lookup_num_tokens=LOOKUP_TOKENS)


def _llama_cpp(name: str, *, q4_0: bool = False, lookup: bool = False) -> Contender:
    def make(workshop: Workshop) -> System:
        from sequoia_core.bench.llama_cpp_system import LlamaCppSystem

        gguf = str(workshop.made(Q4_0)) if q4_0 else workshop.gguf
        return LlamaCppSystem(gguf, workshop.sources.threads, name, lookup=lookup)

    return Contender(name, "llama_cpp", make, files=(Q4_0,) if q4_0 else ())


def _llama_server(name: str, speculation: str = "", *, q4_0: bool = False) -> Contender:
    def make(workshop: Workshop) -> System:
        from sequoia_core.bench.llama_server_system import LlamaServerSystem

        draft = workshop.made(GGUF_DRAFT) if name == names.LLAMA_CPP_DRAFT else None
        gguf = str(workshop.made(Q4_0)) if q4_0 else workshop.gguf
        return LlamaServerSystem(gguf, workshop.sources.threads, name, speculation, draft)

    files = (Q4_0,) if q4_0 else (GGUF_DRAFT,) if name == names.LLAMA_CPP_DRAFT else ()
    return Contender(name, "xllamacpp", make, files=files)


def _openvino(workshop: Workshop) -> System:
    from sequoia_core.bench.openvino_system import OpenVinoSystem

    return OpenVinoSystem(workshop.gguf, workshop.sources.threads)


def _openvino_speculative(workshop: Workshop) -> System:
    from sequoia_core.bench.openvino_system import OpenVinoSystem

    draft = str(workshop.made(OPENVINO_DRAFT))
    return OpenVinoSystem(workshop.gguf, workshop.sources.threads, draft)


OWN = tuple(
    Contender(name, "sequoia_core", _own(name), own=True, here=True)
    for name in (names.PLAIN, *names.TREES)
)
BASELINES = (
    Contender(
        names.PYTORCH,
        "torch",
        _plainly(names.PYTORCH),
        own=True,
        changes={"weights": WeightFormat.TORCH.value, "draft": "none"},
    ),
)
"""This engine's plain decoding by PyTorch, where the pair is computed by the native library."""
AVX2 = (
    Contender(
        names.AVX2,
        "torch",
        _plainly(names.AVX2),
        own=True,
        changes={"draft": "none"},
        environment=_AVX2,
    ),
    Contender(
        names.FLOAT32_AVX2,
        "torch",
        _plainly(names.FLOAT32_AVX2),
        own=True,
        changes={"weights": WeightFormat.TORCH.value, "own_dtype": "float32", "draft": "none"},
        environment=_AVX2,
    ),
)
"""Plain decoding with AVX2 alone, as on processors without bfloat16."""
PEERS = (
    Contender(names.HF_PLAIN, "transformers", _hugging_face),
    Contender(names.HF_ASSISTED, "transformers", _hugging_face_assisted),
    Contender(names.HF_LOOKUP, "transformers", _hugging_face_lookup),
    _llama_cpp(names.LLAMA_CPP),
    _llama_cpp(names.LLAMA_CPP_Q4_0, q4_0=True),
    _llama_cpp(names.LLAMA_CPP_LOOKUP, lookup=True),
    _llama_server(names.LLAMA_SERVER),
    _llama_server(names.LLAMA_SERVER_Q4_0, q4_0=True),
    _llama_server(names.LLAMA_SERVER_LOOKUP, "ngram_cache"),
    _llama_server(names.LLAMA_CPP_DRAFT, "draft_simple"),
    Contender(names.OPENVINO, "openvino_genai", _openvino),
    Contender(
        names.OPENVINO_SPECULATIVE, "openvino_genai", _openvino_speculative, files=(OPENVINO_DRAFT,)
    ),
)
