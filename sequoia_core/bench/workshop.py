"""What systems are made of, loaded once and shared, and only when a system asks for it.

Owns where models come from, and the files that are made of them for other projects' decoders. The
same description builds a system in this process and in one of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sequoia_core.bench.runs import PeerError
from sequoia_core.config import Offload, WeightFormat

if TYPE_CHECKING:
    import torch

    from sequoia_core.decode.tree_choice import TreeAdvisor
    from sequoia_core.measure.tuner import Tuner
    from sequoia_core.model.loading.pair import OpenedDraft, Pair

OPENVINO_DRAFT, GGUF_DRAFT, Q4_0 = "openvino-draft", "draft.gguf", "q4_0.gguf"
"""What `Workshop.made` makes."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Where models come from and how they are run; plain values, so that it can be sent.

    Attributes:
        target: as in `load_pair`.
        draft: likewise.
        peer_draft: a draft for other projects' decoders; None is the pair's own.
        device: resolved, not "auto".
        dtype: of other projects' decoders; the bare number format.
        threads: of every system.
        weights: this engine's, as in `load_pair`.
        own_dtype: this engine's, as in `load_pair`.
        offload: where its target's layers stay.
        gguf: the target's GGUF file, None if it is none.
        folder: where files are made for the systems to read; exists as long as they run.
    """

    target: str | None
    draft: str | None
    peer_draft: str | None
    device: str
    dtype: str
    threads: int
    weights: str = WeightFormat.AUTO.value
    own_dtype: str = "auto"
    offload: str = Offload.NONE.value
    gguf: str | None = None
    folder: str | None = None


class Workshop:
    """Loads what systems need, once.

    Args:
        sources: where from.
        pair: if it is loaded already.
    """

    def __init__(self, sources: Sources, pair: Pair | None = None) -> None:
        self.sources = sources
        self._pair = pair

    @cached_property
    def pair(self) -> Pair:
        """This engine's models."""
        from sequoia_core.model.loading.pair import load_pair

        known = self.sources
        return self._pair or load_pair(
            known.target,
            known.draft,
            dtype=known.own_dtype,
            device=known.device,
            weights=WeightFormat(known.weights),
            offload=Offload(known.offload),
        )

    @cached_property
    def tuner(self) -> Tuner:
        """Has measured the pair, or is about to; systems decode by an `advisor` of their own."""
        from sequoia_core.measure.tuner import Tuner

        return Tuner(self.pair)

    def advisor(self) -> TreeAdvisor:
        """A new one, by the figures as they were measured.

        What it learns while a system decodes is that system's: one that all share would let the
        systems beside it decide its tree.
        """
        from sequoia_core.decode.tree_choice import BundledAdvisor
        from sequoia_core.measure.online_advisor import OnlineAdvisor

        measured = self.tuner.calibration
        if measured is None:
            return BundledAdvisor.default(self.pair.acceptance_rates)
        return OnlineAdvisor(measured)

    @cached_property
    def hugging_face_target(self) -> Any:
        """The target under the classes of `transformers`."""
        from sequoia_core.bench.hugging_face import rebuilt
        from sequoia_core.model.loading.pair import open_target

        checkpoint = open_target(self.sources.target)
        return rebuilt(checkpoint.config, checkpoint.weights, self._device, self.dtype)

    @cached_property
    def hugging_face_draft(self) -> Any:
        """The peers' draft under the classes of `transformers`.

        Raises:
            PeerError: there is none that could be used.
        """
        from sequoia_core.bench.hugging_face import rebuilt_draft

        return rebuilt_draft(self.peer_draft, self._device, self.dtype)

    @cached_property
    def gguf(self) -> str:
        """The target's GGUF file.

        Raises:
            PeerError: it is none.
        """
        if self.sources.gguf is None:
            raise PeerError("it reads GGUF files, which the target is not; give --target FILE.gguf")
        if self.sources.device != "cpu":
            raise PeerError("it is compared on CPUs only")
        return self.sources.gguf

    @cached_property
    def peer_draft(self) -> OpenedDraft:
        """The draft that other projects' decoders can use.

        Raises:
            PeerError: there is none.
        """
        from sequoia_core.model.loading.pair import open_draft

        known = self.sources
        draft = open_draft(known.target, known.peer_draft or known.draft)
        if draft is None:
            raise PeerError("the target has no draft; name one with --peer-draft DIR")
        if draft.config.feature_layers:
            raise PeerError(
                f"{draft.name} reads the target's hidden states, which only this engine hands it; "
                "name an independent draft with --peer-draft DIR"
            )
        return draft

    def is_made(self, name: str) -> bool:
        """Whether a file of this name has been made."""
        return self._place(name).exists()

    def made(self, name: str) -> Path:
        """A file or folder that a system reads, made where it is not there yet.

        Args:
            name: `OPENVINO_DRAFT` is the peers' draft in OpenVINO's format, `GGUF_DRAFT` the same
                as a GGUF file, `Q4_0` the target requantised.

        Raises:
            PeerError: the target is no GGUF file, there is no draft that could be used, or a
                library refuses it.
        """
        place = self._place(name)
        if place.exists():
            return place
        unfinished = place.with_name(f"unfinished-{name}")
        if name == Q4_0:
            from sequoia_core.bench.llama_cpp_system import requantise

            requantise(self.gguf, unfinished, self.sources.threads)
        elif name == GGUF_DRAFT:
            from sequoia_core.bench.openvino_draft import write_gguf

            draft = self.peer_draft
            if draft.vocab_ids is not None:
                raise PeerError(
                    f"{draft.name} has logits for {len(draft.vocab_ids):,} tokens only, and "
                    "llama.cpp takes drafts with the target's vocabulary"
                )
            write_gguf(draft, self.gguf, unfinished)
        else:
            from sequoia_core.bench.openvino_draft import export_draft

            draft, gguf = self.peer_draft, self.gguf
            unfinished.mkdir()
            export_draft(draft, gguf, unfinished)
        unfinished.rename(place)
        return place

    def _place(self, name: str) -> Path:
        assert self.sources.folder is not None
        return Path(self.sources.folder) / name

    @property
    def _device(self) -> torch.device:
        import torch

        return torch.device(self.sources.device)

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        import torch

        dtype = getattr(torch, self.sources.dtype)
        assert isinstance(dtype, torch.dtype)
        return dtype
