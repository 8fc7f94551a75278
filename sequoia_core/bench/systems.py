"""Every system by name: what it is made of, where it runs, and why one is absent.

A system that is absent says what would bring it, since a comparison that silently leaves out the
fastest would mislead. Imports no system's library, so that a process pays for the one it measures.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sequoia_core.bench import BenchPlan, names
from sequoia_core.bench.llama_cpp import llama_cpp_python, llama_server, requantise
from sequoia_core.bench.openvino import export_draft, openvino_genai, write_gguf
from sequoia_core.bench.runs import Decode, PeerError, peer_code
from sequoia_core.config import WeightFormat
from sequoia_core.model.native.library import INSTRUCTION_SET_VARIABLE

if TYPE_CHECKING:
    from sequoia_core.measure.tuner import Tuner
    from sequoia_core.model.loading.fitted_draft import OpenedDraft
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.speculate.tree_advisor import TreeAdvisor

INSTALL = "pip install -e '.[peers]'"

_AVX2 = {
    INSTRUCTION_SET_VARIABLE: "avx2",
    "ATEN_CPU_CAPABILITY": "avx2",
    "MKL_ENABLE_INSTRUCTIONS": "AVX2",
    "ONEDNN_MAX_CPU_ISA": "AVX2",
}
"""Variables that limit this engine's native library and PyTorch's libraries to AVX2."""


OPENVINO_DRAFT, GGUF_DRAFT, Q4_0 = "openvino-draft", "draft.gguf", "q4_0.gguf"
"""Files that `ModelFactory.made` makes: the peers' draft for two libraries, the target as Q4_0."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where models come from and how they are run; plain values, sent to processes as JSON."""

    plan: BenchPlan
    device: str  # resolved, not "auto"
    dtype: str  # of other projects' decoders; the bare number format
    threads: int
    gguf: str | None = None  # the target's GGUF file, if it is one
    folder: str = ""  # where files are made for systems; exists as long as they run


class ModelFactory:
    """Loads models and makes files for systems, once each and only when a system needs them."""

    def __init__(self, sources: Sources, pair: Pair | None = None) -> None:
        self.sources = sources
        self._pair = pair

    @cached_property
    def pair(self) -> Pair:
        from sequoia_core.model.loading.pair import load_pair

        plan = self.sources.plan
        return self._pair or load_pair(
            plan.target,
            plan.draft,
            dtype=plan.dtype,
            device=self.sources.device,
            weights=plan.weights,
            offload=plan.offload,
            graphs=plan.graphs,
            tensor_parallel=plan.tensor_parallel,
            quantize=plan.quantize,
            context_window=plan.context_window,
        )

    @cached_property
    def tuner(self) -> Tuner:
        from sequoia_core.measure.tuner import Tuner

        return Tuner(self.pair)

    def advisor(self) -> TreeAdvisor:
        """A new advisor with the measured figures.

        Each system has its own: an advisor learns while its system decodes, and what it learns must
        not change another system's tree.
        """
        from sequoia_core.measure.tuner import OnlineAdvisor
        from sequoia_core.speculate.tree_advisor import BundledAdvisor

        measured = self.tuner.calibration
        if measured is None:
            return BundledAdvisor(self.pair.acceptance_rates)
        return OnlineAdvisor(measured, self.pair.most_nodes)

    @property
    def gguf(self) -> str:
        """The target's GGUF file. Raises PeerError if it is none, or is not run on a CPU."""
        if self.sources.gguf is None:
            raise PeerError("it reads GGUF files, which the target is not; give --target FILE.gguf")
        if self.sources.device != "cpu":
            raise PeerError("it is compared on CPUs only")
        return self.sources.gguf

    @property
    def peer_draft(self) -> OpenedDraft:
        """The draft that other projects' decoders can use. Raises PeerError if there is none."""
        from sequoia_core.model.loading.fitted_draft import open_fitted_draft

        plan = self.sources.plan
        draft = open_fitted_draft(plan.target, plan.peer_draft or plan.draft)
        if draft is None:
            raise PeerError("the target has no draft; name one with --peer-draft DIR")
        if draft.config.feature_layers:
            raise PeerError(
                f"{draft.name} reads the target's hidden states, which only this engine provides; "
                "name an independent draft with --peer-draft DIR"
            )
        return draft

    def place(self, name: str) -> Path:
        return Path(self.sources.folder) / name

    def made(self, name: str) -> Path:
        """A file or folder that a system reads, made if it is missing.

        Raises PeerError if the target is no GGUF file, there is no draft that could be used, or a
        library refuses it.
        """
        place = self.place(name)
        if not place.exists():
            unfinished = place.with_name(f"unfinished-{name}")
            self._make(name, unfinished)
            unfinished.rename(place)
        return place

    def _make(self, name: str, place: Path) -> None:
        if name == Q4_0:
            requantise(self.gguf, place, self.sources.threads)
            return
        draft, gguf = self.peer_draft, self.gguf
        if name == OPENVINO_DRAFT:
            place.mkdir()
            export_draft(draft, gguf, place)
        elif draft.vocab_ids is not None:
            raise PeerError(
                f"{draft.name} has logits for {len(draft.vocab_ids):,} tokens only, and "
                "llama.cpp takes drafts with the target's vocabulary"
            )
        else:
            write_gguf(draft, gguf, place)


@dataclass(frozen=True, slots=True)
class SystemSpec:
    name: str
    module: str  # its library, a name for `import`
    make: Callable[[ModelFactory], Decode]  # or raises `PeerError`
    own: bool = False  # it is this engine, so that its errors are faults and no absence
    here: bool = False  # it runs in the benchmark's process; else in one of its own
    file: str = ""  # name of `ModelFactory.made` that it reads
    changes: Mapping[str, Any] = field(default_factory=dict)  # fields of the plan that differ
    environment: Mapping[str, str] = field(default_factory=dict)  # of its process

    def build(self, factory: ModelFactory) -> Decode:
        """The system, ready to run. Raises PeerError if it cannot take part."""
        with nullcontext() if self.own else peer_code():
            return self.make(factory)


def build(factory: ModelFactory, name: str) -> Decode:
    """One system of any kind by its name; as `SystemSpec.build`."""
    specs = (*OWN, *BASELINES, *AVX2, *PEERS)
    return next(spec for spec in specs if spec.name == name).build(factory)


def _own(factory: ModelFactory, name: str) -> Decode:
    from sequoia_core.bench.own_systems import own_system

    return own_system(factory, name)


def _plain(name: str, environment: Mapping[str, str], **changes: Any) -> SystemSpec:
    """Plain decoding, computed in another way."""
    changes["draft"] = "none"
    make = partial(_own, name=name)
    return SystemSpec(name, "torch", make, own=True, changes=changes, environment=environment)


def _hugging_face(factory: ModelFactory, *, assisted: bool = False, **speculation: Any) -> Decode:
    import torch

    from sequoia_core.bench.hugging_face import hugging_face, rebuilt, rebuilt_draft
    from sequoia_core.model.loading.loader import open_target

    sources = factory.sources
    options = torch.device(sources.device), getattr(torch, sources.dtype)
    if assisted:
        speculation["assistant_model"] = rebuilt_draft(factory.peer_draft, *options)
    target = open_target(sources.plan.target)
    return hugging_face(rebuilt(target.config, target.weights, *options), **speculation)


def _gguf_peer(
    name: str, module: str, make: Callable[..., Decode], file: str = "", **options: Any
) -> SystemSpec:
    """A peer that reads the target's GGUF file; `file` is its Q4_0 form instead, or a draft."""

    def made(factory: ModelFactory) -> Decode:
        gguf, threads = factory.gguf, factory.sources.threads
        if not file:
            return make(gguf, threads, **options)
        read = factory.made(file)
        if file == Q4_0:
            return make(str(read), threads, **options)
        return make(gguf, threads, draft=read, **options)

    return SystemSpec(name, module, made, file=file)


OWN = tuple(
    SystemSpec(name, "sequoia_core", partial(_own, name=name), own=True, here=True)
    for name in (names.PLAIN, *names.TREES)
)
BASELINES = (_plain(names.PYTORCH, {}, weights=WeightFormat.TORCH),)
"""This engine's plain decoding by PyTorch, where the pair is computed by the native library."""
AVX2 = (
    _plain(names.AVX2, _AVX2),
    _plain(names.FLOAT32_AVX2, _AVX2, weights=WeightFormat.TORCH, dtype="float32"),
)
"""Plain decoding with AVX2 alone, as on processors without bfloat16."""
_HF, _CPP, _SERVER, _GENAI = "transformers", "llama_cpp", "xllamacpp", "openvino_genai"
PEERS = (
    SystemSpec(names.HF_PLAIN, _HF, _hugging_face),
    SystemSpec(names.HF_ASSISTED, _HF, partial(_hugging_face, assisted=True)),
    # as many tokens as in the library's own examples
    SystemSpec(names.HF_LOOKUP, _HF, partial(_hugging_face, prompt_lookup_num_tokens=3)),
    _gguf_peer(names.LLAMA_CPP, _CPP, llama_cpp_python),
    _gguf_peer(names.LLAMA_CPP_Q4_0, _CPP, llama_cpp_python, Q4_0),
    _gguf_peer(names.LLAMA_CPP_LOOKUP, _CPP, llama_cpp_python, lookup=True),
    _gguf_peer(names.LLAMA_SERVER, _SERVER, llama_server),
    _gguf_peer(names.LLAMA_SERVER_Q4_0, _SERVER, llama_server, Q4_0),
    _gguf_peer(names.LLAMA_SERVER_LOOKUP, _SERVER, llama_server, speculation="ngram_cache"),
    _gguf_peer(
        names.LLAMA_CPP_DRAFT, _SERVER, llama_server, GGUF_DRAFT, speculation="draft_simple"
    ),
    _gguf_peer(names.OPENVINO, _GENAI, openvino_genai),
    _gguf_peer(names.OPENVINO_SPECULATIVE, _GENAI, openvino_genai, OPENVINO_DRAFT),
)
