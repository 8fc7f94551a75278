"""The target that a draft is made for, opened and checked.

Owns what can be known of it before minutes are spent: that it is a target at all, its chat
template, which of its layers a draft takes. Knows nothing of stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from sequoia_core.config import Offload, WeightFormat
from sequoia_core.data.prompts import prompt_texts
from sequoia_core.distill.options import Options
from sequoia_core.distill.pieces import Pieces
from sequoia_core.distill.student import student_config
from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.model.device import choose_device, choose_dtype, prepare
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.forward import choose_forward
from sequoia_core.model.loading.loader import Checkpoint, open_directory
from sequoia_core.model.loading.pair import load_native, open_target
from sequoia_core.model.loading.tokenizer import check_embedding_fit
from sequoia_core.model.loading.weights import DRAFT_VOCAB_IDS
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.model.offload.model import Placement
from sequoia_core.text.chat_template import turn_ends

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

INDEPENDENT_LAYERS = 4
CONDITIONED_LAYERS = 1
FEATURES = 3
"""Of the target's hidden states a conditioned draft reads so many, from evenly spread layers."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A target as distillation needs it.

    Attributes:
        checkpoint: its files.
        tokenizer: its own.
        pieces: of its chat template.
        layers: of its layers, those that the draft begins with.
        feature_layers: those whose outputs the draft reads; none for an independent one.
        device: where to compute.
        dtype: of the target.
        begun: the draft that it goes on with, or None.
    """

    checkpoint: Checkpoint
    tokenizer: PreTrainedTokenizerBase
    pieces: Pieces
    layers: tuple[int, ...]
    feature_layers: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype
    begun: Checkpoint | None = None

    @classmethod
    def of(cls, options: Options) -> Subject:
        """Open the target that the options name.

        Raises:
            ModelLoadError: it cannot be one: not Llama-like, a draft, without a chat template.
            ParameterError: an option does not fit it.
        """
        device = choose_device(options.device)
        checkpoint = open_target(options.target)
        dtype = choose_dtype("auto", device, stored=checkpoint.stored_dtype)
        if checkpoint.tokenizer is None:
            raise ModelLoadError(f"{checkpoint.name}: the target brings no tokenizer")
        tokenizer = checkpoint.tokenizer()
        check_embedding_fit(tokenizer, checkpoint.config.vocab_size, (), checkpoint.name)
        ends = turn_ends(tokenizer, checkpoint.eos_token_ids)
        prompts = prompt_texts(options.data) if options.data else []
        count, conditioned = checkpoint.config.num_layers, options.kind == "conditioned"
        default = CONDITIONED_LAYERS if conditioned else INDEPENDENT_LAYERS
        layers = options.chosen_layers(count, min(default, count))
        features = spread_layers(count) if conditioned else ()
        begun = None
        if options.begin_with is not None:
            begun = _open_begun(Path(options.begin_with).expanduser(), checkpoint)
            layers = tuple(range(begun.config.num_layers))
            features = begun.config.feature_layers
        return cls(
            checkpoint=checkpoint,
            tokenizer=tokenizer,
            pieces=Pieces.of(tokenizer, ends, prompts, checkpoint.config.context_window // 2),
            layers=layers,
            feature_layers=features,
            device=device,
            dtype=dtype,
            begun=begun,
        )

    @property
    def settings(self) -> Mapping[str, object]:
        """The target's `config.json`."""
        return self.checkpoint.settings

    def model(self) -> Llama | NativeLlama:
        """The target itself, loaded; on a CPU natively where its file can be read so."""
        prepare((self.device,))
        placement = Placement(self.device, Offload.NONE)
        forward = choose_forward(WeightFormat.AUTO, "auto", placement, (self.checkpoint,))
        if forward.native:
            return load_native(self.checkpoint, forward, self.feature_layers)
        checkpoint, layers = self.checkpoint, self.feature_layers
        return Llama(checkpoint.config, checkpoint.weights, self.device, self.dtype, layers)


def _open_begun(directory: Path, target: Checkpoint) -> Checkpoint:
    """A draft to go on with.

    Raises:
        ModelLoadError: it cannot be read.
        ParameterError: it is no draft that was made for this target here.
    """
    draft = open_directory(directory)
    own, features = draft.config, draft.config.feature_layers
    made = student_config(target.config, own.num_layers, own.head_vocab_size, features)
    if own != made or DRAFT_VOCAB_IDS not in draft.weights:
        raise ParameterError(
            f"{directory} is no draft that sequoia distill made for {target.name}; leave out "
            "--begin-with"
        )
    return draft


def spread_layers(count: int) -> tuple[int, ...]:
    """Evenly spread layers of `count`, the last one always among them."""
    return tuple(sorted({max((at + 1) * count // FEATURES - 1, 0) for at in range(FEATURES)}))
