"""The target that a draft is made for, opened and checked before minutes are spent."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from sequoia_core.config import WeightFormat
from sequoia_core.data.prompts import prompt_texts
from sequoia_core.distill.dialogue import TemplateTokens
from sequoia_core.distill.options import Options
from sequoia_core.distill.student import student_config
from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.files import expanded
from sequoia_core.model.device import Placement, choose_device, choose_dtype, prepare
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.backend import choose_backend
from sequoia_core.model.loading.loader import Checkpoint, open_directory, open_target
from sequoia_core.model.loading.models import load_native
from sequoia_core.model.loading.tokenizer import check_embedding_fit
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.model.tensor_names import DRAFT_VOCAB_IDS
from sequoia_core.text.chat_template import turn_ends

LAYERS = {"independent": 4, "conditioned": 1}  # of a draft by kind, where no others are chosen
FEATURES = 3
"""Hidden states of the target that a conditioned draft reads, from evenly spread layers."""


_LEFT_OUT = frozenset({"qkv_bias", "sliding_window", "sliding_layers"})
"""Of `ModelConfig.beyond_llama`, what layers that an independent draft begins with may have."""


@dataclass(frozen=True, slots=True)
class DistillTarget:
    checkpoint: Checkpoint
    template: TemplateTokens
    layers: tuple[int, ...]  # of the target's, those that the draft begins with
    feature_layers: tuple[int, ...]  # whose outputs a conditioned draft reads
    device: torch.device
    dtype: torch.dtype
    initial_draft: Checkpoint | None = None  # whose training is continued

    @classmethod
    def of(cls, options: Options) -> DistillTarget:
        """Open the target that the options name.

        Raises ModelLoadError if it cannot be one: not Llama-like, a draft, without a chat template;
        ParameterError if an option does not fit it.
        """
        device = choose_device(options.device)
        checkpoint = open_target(options.target)
        config = checkpoint.config
        if checkpoint.tokenizer is None:
            raise ModelLoadError(f"{checkpoint.name}: the target brings no tokenizer")
        tokenizer = checkpoint.tokenizer()
        check_embedding_fit(tokenizer, config.vocab_size, (), checkpoint.name)
        ends = turn_ends(tokenizer, checkpoint.eos_token_ids)
        prompts = prompt_texts(options.data) if options.data else []
        count = config.num_layers
        layers = options.chosen_layers(count, min(LAYERS[options.kind], count))
        features = spread_layers(count) if options.kind == "conditioned" else ()
        own = {*config.beyond_llama} - _LEFT_OUT
        if options.kind == "independent" and options.begin_with is None and own:
            raise ParameterError(
                f"kind is independent, which begins with layers of {checkpoint.name}, but they "
                f"have {', '.join(sorted(own))}, which a draft has not; leave --kind out"
            )
        initial_draft = None
        if options.begin_with is not None:
            initial_draft = _open_draft(expanded(options.begin_with), checkpoint)
            layers = tuple(range(initial_draft.config.num_layers))
            features = initial_draft.config.feature_layers
        template = TemplateTokens.of(tokenizer, ends, prompts, config.context_window // 2)
        dtype = choose_dtype("auto", (device,), stored=checkpoint.stored_dtype)
        if dtype is torch.float16 and config.overflows_float16:
            dtype = torch.float32
        return cls(checkpoint, template, layers, features, device, dtype, initial_draft)

    def model(self) -> Llama | NativeLlama:
        """The target itself, loaded; by the native library on a CPU if that can read its file."""
        prepare((self.device,))
        checkpoint, layers = self.checkpoint, self.feature_layers
        placement = Placement((self.device,))
        backend = choose_backend(WeightFormat.AUTO, "auto", placement, (checkpoint,))
        if backend.native:
            return load_native(checkpoint, backend, layers)
        return Llama(checkpoint.config, checkpoint.weights, self.device, self.dtype, layers)


def _open_draft(directory: Path, target: Checkpoint) -> Checkpoint:
    """A draft of this target to continue; raises ModelLoadError or ParameterError."""
    draft = open_directory(directory)
    own = draft.config
    made = student_config(target.config, own.num_layers, own.head_vocab_size, own.feature_layers)
    if own != made or DRAFT_VOCAB_IDS not in draft.weights:
        raise ParameterError(
            f"{directory} is no draft that sequoia distill made for {target.name}; leave out "
            "--begin-with"
        )
    return draft


def spread_layers(count: int) -> tuple[int, ...]:
    """Evenly spread layers of `count`, the last one always among them."""
    return tuple(sorted({max((at + 1) * count // FEATURES - 1, 0) for at in range(FEATURES)}))
