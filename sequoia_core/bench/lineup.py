"""Who takes part: every system by name, how it is made, and why one is absent.

Owns the list. A system that is not there says what would bring it, since a comparison that
silently leaves out the fastest is none.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sequoia_core.bench import names
from sequoia_core.bench.runs import PeerError, System, peer_code

if TYPE_CHECKING:
    from sequoia_core.bench.workshop import Workshop

INSTALL = "pip install -e '.[peers]'"


@dataclass(frozen=True, slots=True)
class Contender:
    """A system that may take part.

    Attributes:
        name: for the report.
        module: what it runs on; a name for `import`.
        make: builds it, or raises `PeerError`.
        own: it is this engine, whose errors are nobody's absence.
    """

    name: str
    module: str
    make: Callable[[Workshop], System]
    own: bool = False

    def build(self, workshop: Workshop) -> System:
        """The system, ready to run.

        Raises:
            PeerError: it cannot take part; says why, or how to install it.
        """
        if importlib.util.find_spec(self.module) is None:
            raise PeerError(f"{self.module} is not installed; install it with: {INSTALL}")
        with nullcontext() if self.own else peer_code():
            return self.make(workshop)


@dataclass(frozen=True, slots=True)
class Lineup:
    """Systems that take part, in the report's order, and why others do not, by name."""

    systems: list[System]
    absent: dict[str, str]


def line_up(workshop: Workshop, contenders: tuple[Contender, ...]) -> Lineup:
    """Build all that can be built."""
    found = Lineup([], {})
    for contender in contenders:
        try:
            found.systems.append(contender.build(workshop))
        except PeerError as error:
            found.absent[contender.name] = str(error)
    return found


def build(workshop: Workshop, name: str) -> System:
    """One system of any kind by its name.

    Raises:
        PeerError: it cannot take part.
    """
    by_name = {contender.name: contender for contender in (*OWN, *PEERS)}
    return by_name[name].build(workshop)


def _own(name: str) -> Contender:
    def make(workshop: Workshop) -> System:
        from sequoia_core.bench.own import own_choices, own_system

        if name not in own_choices(workshop.pair):
            raise PeerError("the target has no draft; name one with --draft")
        return own_system(workshop.pair, workshop.advisor(), name)

    return Contender(name, "sequoia_core", make, own=True)


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


def _llama_cpp(workshop: Workshop) -> System:
    from sequoia_core.bench.llama_cpp_system import LlamaCppSystem

    return LlamaCppSystem(workshop.gguf, workshop.sources.threads)


def _openvino(workshop: Workshop) -> System:
    from sequoia_core.bench.openvino_system import OpenVinoSystem

    return OpenVinoSystem(workshop.gguf, workshop.sources.threads)


def _openvino_speculative(workshop: Workshop) -> System:
    from sequoia_core.bench.openvino_system import OpenVinoSystem

    gguf, draft = workshop.gguf, workshop.openvino_draft
    return OpenVinoSystem(gguf, workshop.sources.threads, draft)


OWN = tuple(
    _own(name)
    for name in (
        names.PLAIN, names.CHAIN, names.PACKAGED, names.TREE, names.LOOKUP, names.ADAPTIVE,
    )
)  # fmt: skip
PEERS = (
    Contender(names.HF_PLAIN, "transformers", _hugging_face),
    Contender(names.HF_ASSISTED, "transformers", _hugging_face_assisted),
    Contender(names.HF_LOOKUP, "transformers", _hugging_face_lookup),
    Contender(names.LLAMA_CPP, "llama_cpp", _llama_cpp),
    Contender(names.OPENVINO, "openvino_genai", _openvino),
    Contender(names.OPENVINO_SPECULATIVE, "openvino_genai", _openvino_speculative),
)
