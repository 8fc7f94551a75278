"""Loads models and makes files for systems, once each and only when a system needs them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from sequoia_core.bench import BenchPlan
from sequoia_core.bench.llama_cpp import requantise
from sequoia_core.bench.openvino import export_draft, write_gguf
from sequoia_core.bench.runs import PeerError

if TYPE_CHECKING:
    from sequoia_core.measure.tuner import Tuner
    from sequoia_core.model.loading.pair import OpenedDraft, Pair
    from sequoia_core.speculate.tree_advisor import TreeAdvisor

OPENVINO_DRAFT, GGUF_DRAFT, Q4_0 = "openvino-draft", "draft.gguf", "q4_0.gguf"
"""Files that `ModelFactory.made` makes: the peers' draft for two libraries, the requantised target.
"""


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
            return BundledAdvisor.default(self.pair.acceptance_rates)
        return OnlineAdvisor(measured)

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
        from sequoia_core.model.loading.pair import open_fitted_draft

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
