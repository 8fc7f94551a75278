"""The target that a draft is made for, opened and checked before minutes are spent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sequoia_core.config import WeightFormat
from sequoia_core.data.prompts import prompt_texts
from sequoia_core.distill.options import Options
from sequoia_core.distill.student import student_config
from sequoia_core.distill.template_tokens import TemplateTokens
from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.model.device import Placement, choose_device, choose_dtype, prepare
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.forward import choose_forward
from sequoia_core.model.loading.loader import Checkpoint, open_directory
from sequoia_core.model.loading.pair import load_native
from sequoia_core.model.loading.sources import open_target
from sequoia_core.model.loading.tokenizer import check_embedding_fit
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.model.weight_shapes import DRAFT_VOCAB_IDS
from sequoia_core.text.chat_template import turn_ends

INDEPENDENT_LAYERS = 4
CONDITIONED_LAYERS = 1
FEATURES = 3
"""Hidden states of the target that a conditioned draft reads, from evenly spread layers."""


@dataclass(frozen=True, slots=True)
class DistillTarget:
    """A target as distillation needs it.

    Attributes:
        layers: of the target's, those that the draft begins with.
        feature_layers: those whose outputs the draft reads; none for an independent one.
        initial_draft: the draft whose training is continued, or None.
    """

    checkpoint: Checkpoint
    template: TemplateTokens
    layers: tuple[int, ...]
    feature_layers: tuple[int, ...]
    device: torch.device
    dtype: torch.dtype
    initial_draft: Checkpoint | None = None

    @classmethod
    def of(cls, options: Options) -> DistillTarget:
        """Open the target that the options name.

        Raises:
            ModelLoadError: it cannot be one: not Llama-like, a draft, without a chat template.
            ParameterError: an option does not fit it.
        """
        device = choose_device(options.device)
        checkpoint = open_target(options.target)
        config = checkpoint.config
        dtype = choose_dtype("auto", (device,), stored=checkpoint.stored_dtype)
        if checkpoint.tokenizer is None:
            raise ModelLoadError(f"{checkpoint.name}: the target brings no tokenizer")
        tokenizer = checkpoint.tokenizer()
        check_embedding_fit(tokenizer, config.vocab_size, (), checkpoint.name)
        ends = turn_ends(tokenizer, checkpoint.eos_token_ids)
        prompts = prompt_texts(options.data) if options.data else []
        conditioned = options.kind == "conditioned"
        default = CONDITIONED_LAYERS if conditioned else INDEPENDENT_LAYERS
        layers = options.chosen_layers(config.num_layers, min(default, config.num_layers))
        features = spread_layers(config.num_layers) if conditioned else ()
        initial_draft = None
        if options.begin_with is not None:
            initial_draft = _open_draft(Path(options.begin_with).expanduser(), checkpoint)
            layers = tuple(range(initial_draft.config.num_layers))
            features = initial_draft.config.feature_layers
        return cls(
            checkpoint=checkpoint,
            template=TemplateTokens.of(tokenizer, ends, prompts, config.context_window // 2),
            layers=layers,
            feature_layers=features,
            device=device,
            dtype=dtype,
            initial_draft=initial_draft,
        )

    def model(self) -> Llama | NativeLlama:
        """The target itself, loaded; by the native library on a CPU if that can read its file."""
        prepare((self.device,))
        placement = Placement((self.device,))
        checkpoint, layers = self.checkpoint, self.feature_layers
        forward = choose_forward(WeightFormat.AUTO, "auto", placement, (checkpoint,))
        if forward.native:
            return load_native(checkpoint, forward, layers)
        return Llama(checkpoint.config, checkpoint.weights, self.device, self.dtype, layers)


def _open_draft(directory: Path, target: Checkpoint) -> Checkpoint:
    """A draft whose training is continued.

    Raises:
        ModelLoadError: it cannot be read.
        ParameterError: it was not made for this target by distillation.
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
