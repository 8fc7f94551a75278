"""What systems are made of, loaded once and shared, and only when a system asks for it.

Owns where models come from. The same description builds one system in a process of its own, so
that its memory can be measured without the others'.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sequoia_core.bench.runs import PeerError
from sequoia_core.config import Offload, WeightFormat

if TYPE_CHECKING:
    import torch

    from sequoia_core.measure.tuning import Tuner
    from sequoia_core.pair import OpenedDraft, Pair
    from sequoia_core.trees import TreeAdvisor


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
        own_dtype: likewise.
        offload: where its target's layers stay.
        gguf: the target's GGUF file, None if it is none.
        openvino_draft: a directory that `openvino_draft.export_draft` has filled, if any.
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
    openvino_draft: str | None = None


class Workshop:
    """Loads what systems need; a context, at whose end files it has made are gone.

    Args:
        sources: where from.
        pair: if it is loaded already.
    """

    def __init__(self, sources: Sources, pair: Pair | None = None) -> None:
        self.sources = sources
        self._pair = pair
        self._files = ExitStack()

    def __enter__(self) -> Workshop:
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()

    @cached_property
    def pair(self) -> Pair:
        """This engine's models."""
        from sequoia_core.pair import load_pair

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
        from sequoia_core.measure.tuning import Tuner

        return Tuner(self.pair)

    def advisor(self) -> TreeAdvisor:
        """A new one, by the figures as they were measured.

        What it learns while a system decodes is that system's: one that all share would let the
        systems beside it decide its tree.
        """
        from sequoia_core.measure.online import OnlineAdvisor
        from sequoia_core.trees import BundledAdvisor

        measured = self.tuner.calibration
        if measured is None:
            return BundledAdvisor.default(self.pair.acceptance_rates)
        return OnlineAdvisor(measured)

    @cached_property
    def hugging_face_target(self) -> Any:
        """The target under the classes of `transformers`."""
        from sequoia_core.bench.hugging_face import rebuilt
        from sequoia_core.pair import open_target

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
        from sequoia_core.pair import open_draft

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

    @cached_property
    def openvino_draft(self) -> str:
        """The peers' draft in OpenVINO's format; made where the description names none.

        Raises:
            PeerError: there is no draft that could be used, or the library cannot read it.
        """
        if self.sources.openvino_draft is not None:
            return self.sources.openvino_draft
        from sequoia_core.bench.openvino_draft import export_draft

        directory = Path(self._files.enter_context(TemporaryDirectory()))
        export_draft(self.peer_draft, self.gguf, directory)
        return str(directory)

    def for_a_process(self) -> Sources:
        """The description for another process, with what has been made here already."""
        made = self.__dict__.get("openvino_draft", self.sources.openvino_draft)
        return replace(self.sources, openvino_draft=made)

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
