"""The draft in training: a few Llama layers over the target's embedding, with a trimmed head.

An independent draft reads token embeddings. A conditioned one also reads the target's hidden states
of the token before (after EAGLE, arXiv 2401.15077), or, deeper in a tree, its own output there.
Training follows a tree downwards for some steps, as decoding will (EAGLE-3, arXiv 2503.01840).
Shapes: `B` conversations, `t` tokens of each, `F` feature layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from sequoia_core.model.config import ModelConfig
from sequoia_core.model.layers import RotaryEmbedding, rotate
from sequoia_core.model.loading.blocks import BLOCK, rounded
from sequoia_core.model.weight_shapes import (
    DRAFT_VOCAB_IDS,
    EMBEDDING,
    HEAD,
    INPUT_SCALE,
    INPUT_SHIFT,
    OWN_INPUT,
    TARGET_INPUT,
)

Rows = list[tuple[Tensor, Tensor]]
"""Keys and values [B, K, t, D] of one layer, one entry per step down the tree."""


class Matrix(nn.Linear):
    """A matrix that multiplies with the weights that the draft's file will hold.

    `blocks` is the file's format, a name of `blocks.FORMATS`, or None for the weights as they are;
    so are those whose columns fill no blocks.
    """

    def __init__(self, inputs: int, outputs: int, blocks: str | None) -> None:
        super().__init__(inputs, outputs, bias=False)
        self._blocks = blocks if inputs % BLOCK == 0 else None
        self._rounded: Tensor | None = None

    @property
    def read(self) -> Tensor:
        """[outputs, inputs], the rounded weights; their gradient goes to the weights."""
        return self.weight if self._rounded is None else self._rounded

    def round(self) -> None:
        """Round the weights anew."""
        if self._blocks is not None:
            self._rounded = rounded(self.weight, self._blocks)

    def forward(self, x: Tensor) -> Tensor:
        """[..., inputs] -> [..., outputs]."""
        return functional.linear(x, self.read)


class Block(nn.Module):
    """One transformer block whose rows may be nodes of a tree."""

    def __init__(self, config: ModelConfig, blocks: str | None) -> None:
        super().__init__()
        hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
        self._config = config
        self.input_layernorm = nn.Parameter(torch.ones(hidden))
        self.post_attention_layernorm = nn.Parameter(torch.ones(hidden))
        self.q_proj = Matrix(hidden, config.num_heads * dim, blocks)
        self.k_proj = Matrix(hidden, config.num_kv_heads * dim, blocks)
        self.v_proj = Matrix(hidden, config.num_kv_heads * dim, blocks)
        self.o_proj = Matrix(config.num_heads * dim, hidden, blocks)
        self.gate_proj = Matrix(hidden, inner, blocks)
        self.up_proj = Matrix(hidden, inner, blocks)
        self.down_proj = Matrix(inner, hidden, blocks)

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], above: Rows) -> Tensor:
        """Compute one step's rows and append their keys and values to `above`.

        Args:
            hidden: [B, t, hidden].
            rotary: cosines and sines [t, 1, D].
            above: this layer's rows of the steps before, those of committed tokens first.
        """
        config, eps = self._config, self._config.rms_norm_eps
        x = _normed(hidden, self.input_layernorm, eps)
        queries = rotate(self._heads(self.q_proj(x)), *rotary).transpose(1, 2)  # [B, H, t, D]
        keys = rotate(self._heads(self.k_proj(x)), *rotary).transpose(1, 2)  # [B, K, t, D]
        values = self._heads(self.v_proj(x)).transpose(1, 2)
        groups = config.num_heads // config.num_kv_heads
        above.append((keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)))
        mixed = _attend(queries, above).transpose(1, 2).flatten(2)  # [B, t, H D]
        hidden = hidden + self.o_proj(mixed)
        x = _normed(hidden, self.post_attention_layernorm, eps)
        gated = functional.silu(self.gate_proj(x)) * self.up_proj(x)
        added: Tensor = self.down_proj(gated)
        return hidden + added

    def _heads(self, projected: Tensor) -> Tensor:
        return projected.view(*projected.shape[:-1], -1, self._config.head_dim)


def _attend(queries: Tensor, steps: Rows) -> Tensor:
    """[B, H, t, D]: row i of the j-th step sees row i of its own, row i - 1 of the one above, ...

    Of the first step, whose rows are committed tokens, it sees all up to its place on the path.
    """
    depth = len(steps) - 1
    keys, values = steps[0]
    if not depth:
        return functional.scaled_dot_product_attention(queries, keys, values, is_causal=True)
    length, scale = queries.shape[2], queries.shape[-1] ** -0.5
    scores = queries @ keys.transpose(-1, -2)  # [B, H, t, t]
    hidden_keys = torch.ones(length, length, dtype=torch.bool, device=queries.device)
    scores = scores.masked_fill(hidden_keys.triu(1 - depth), float("-inf"))
    path = [_shifted(pair, depth - at) for at, pair in enumerate(steps[1:], start=1)]
    own = [(queries * key).sum(-1, keepdim=True) for key, _ in path]  # [B, H, t, 1] each
    weights = torch.softmax(torch.cat((scores, *own), -1).float() * scale, -1).to(values.dtype)
    mixed = weights[..., :length] @ values
    for at, (_, value) in enumerate(path):
        mixed = mixed + weights[..., length + at : length + at + 1] * value
    return mixed


def _shifted(pair: tuple[Tensor, Tensor], places: int) -> tuple[Tensor, Tensor]:
    """Rows moved towards the end: row i is the former row i - places."""
    keys, values = pair
    length = keys.shape[2]
    padding = (0, 0, places, 0)
    return (
        functional.pad(keys[:, :, : length - places], padding),
        functional.pad(values[:, :, : length - places], padding),
    )


class Student(nn.Module):
    """A draft with float32 weights.

    Args:
        config: of the draft; a conditioned one has `feature_layers`.
        embedding: [V, hidden], the target's, not trained.
        vocab_ids: int64 [V_draft], the target's id of each row of the head.
        blocks: see `Matrix`.
    """

    def __init__(
        self, config: ModelConfig, embedding: Tensor, vocab_ids: Tensor, blocks: str | None = None
    ) -> None:
        super().__init__()
        self.config = config
        self.embedding, self.vocab_ids = embedding, vocab_ids
        self.blocks = [Block(config, blocks) for _ in range(config.num_layers)]
        self.layers = nn.ModuleList(self.blocks)  # registers them; typed, they are `blocks`
        self.norm = nn.Parameter(torch.ones(config.hidden_size))
        self.head = Matrix(config.hidden_size, config.head_vocab_size, blocks)
        slots = len(config.feature_layers)
        width = config.hidden_size
        self.target_input = Matrix((slots + 1) * width, width, blocks) if slots else None
        self.own_input = Matrix(2 * width, width, blocks) if slots else None
        # a few dimensions of hidden states are much larger than the rest
        self.register_buffer("input_shift", torch.zeros(slots + 1, width))
        self.register_buffer("input_scale", torch.ones(slots + 1, width))
        self.input_shift: Tensor
        self.input_scale: Tensor
        self.rotary = RotaryEmbedding(config, embedding.device, torch.float32)

    def unrolled(
        self, tokens: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Iterator[Tensor]:
        """The head's inputs at each step down a tree that follows the text.

        Args:
            tokens: int64 [B, t].
            features: [B, t, F, hidden], the target's, of the token before each; None for an
                independent draft, which has only one step.
            counts: conversations that take each step: the first ones, and never more than take the
                step above.

        Yields:
            [count, t, hidden]; entry [b, i] of step j (from 1) predicts token i + 1 and has read
            the target's hidden states up to token i - j. Its first j - 1 rows mean nothing.
        """
        for module in self.modules():
            if isinstance(module, Matrix):
                module.round()
        eps = self.config.rms_norm_eps
        embedded = functional.embedding(tokens, self.embedding).float()
        rotary = self.rotary(torch.arange(tokens.shape[1], device=tokens.device))
        rows: list[Rows] = [[] for _ in self.blocks]
        read = None if features is None else self._normalised(features.float(), 1).flatten(2)
        for step, count in enumerate(counts):
            embedded = embedded[:count]
            rows = [[(keys[:count], values[:count]) for keys, values in each] for each in rows]
            hidden, project = embedded, self.own_input if step else self.target_input
            if project is not None and read is not None:
                tokens_in = self._normalised(embedded[:, :, None], 0)[:, :, 0]
                hidden = project(torch.cat((tokens_in, read[:count]), -1))
            for layer, above in zip(self.blocks, rows, strict=True):
                hidden = layer(hidden, rotary, above)
            output = _normed(hidden, self.norm, eps)
            read = _down(output)
            yield output

    def _normalised(self, states: Tensor, first: int) -> Tensor:
        """States [B, t, slots, hidden], every dimension with mean 0 and deviation 1."""
        slots = slice(first, first + states.shape[2])
        return (states - self.input_shift[slots]) * self.input_scale[slots]

    def tensors(self) -> dict[str, Tensor]:
        """Weights under Hugging Face's names, as `load_pair` reads them."""
        named = {HEAD: self.head.weight, "model.norm.weight": self.norm}
        named[DRAFT_VOCAB_IDS] = self.vocab_ids.int()
        for index, layer in enumerate(self.blocks):
            for name, parameter in layer.named_parameters():
                named[_hf_name(index, name)] = parameter
        if self.target_input is not None and self.own_input is not None:
            named[TARGET_INPUT] = self.target_input.weight
            named[OWN_INPUT] = self.own_input.weight
            named[INPUT_SHIFT] = self.input_shift.flatten()
            named[INPUT_SCALE] = self.input_scale.flatten()
        return {name: tensor.detach() for name, tensor in named.items()}


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm in x's dtype: with a float32 weight PyTorch has no fused kernel for bfloat16."""
    return functional.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps)


def _down(output: Tensor) -> Tensor:
    """Outputs [B, t, hidden] as features of the next token."""
    return functional.pad(output[:, :-1], (0, 0, 1, 0))


def _hf_name(index: int, name: str) -> str:
    kind = name.removesuffix(".weight")
    part = "self_attn." if kind[0] in "qkvo" and kind.endswith("_proj") else ""
    if kind in ("gate_proj", "up_proj", "down_proj"):
        part = "mlp."
    return f"model.layers.{index}.{part}{kind}.weight"


def student_config(
    target: ModelConfig, layers: int, head_rows: int, feature_layers: Sequence[int]
) -> ModelConfig:
    """The shape of a draft for this target."""
    return replace(
        target,
        num_layers=layers,
        head_vocab_size=head_rows,
        tie_word_embeddings=False,
        embeddings_from_target=True,
        attention_bias=False,
        mlp_bias=False,
        feature_layers=tuple(feature_layers),
    )


@torch.no_grad()
def begin_from_target(
    student: Student, weights: Mapping[str, Tensor], layers: Sequence[int], seed: int
) -> None:
    """Initialise a student with weights of the target, under Hugging Face's names.

    Both kinds take the final norm and the head's rows. An independent draft also takes the named
    layers, one for each of its own. A conditioned one, which begins where the target's last layer
    ended, learns faster from random layers (see docs/decisions).
    """
    student.norm.copy_(weights["model.norm.weight"])
    head = weights[HEAD if HEAD in weights else EMBEDDING]
    student.head.weight.copy_(head[student.vocab_ids])
    generator = torch.Generator().manual_seed(seed)
    for index, (source, layer) in enumerate(zip(layers, student.blocks, strict=True)):
        for name, parameter in layer.named_parameters():
            there = _hf_name(index, name).replace(f"layers.{index}.", f"layers.{source}.", 1)
            if not student.config.feature_layers:
                parameter.copy_(weights[there])
            elif parameter.dim() == 2:
                parameter.copy_(_random(parameter, generator))
    for module in (student.target_input, student.own_input):
        if module is not None:
            module.weight.copy_(_random(module.weight, generator))


@torch.no_grad()
def begin_from_draft(student: Student, weights: Mapping[str, Tensor]) -> None:
    """Initialise a student with a draft of the same shape, under the names of `Student.tensors`."""
    for name, tensor in student.tensors().items():
        if name != DRAFT_VOCAB_IDS:  # the others share memory with the student
            tensor.copy_(weights[name])


def _random(like: Tensor, generator: torch.Generator) -> Tensor:
    """A random matrix that about keeps the norm of its inputs."""
    deviation: float = like.shape[1] ** -0.5
    return torch.randn(like.shape, generator=generator) * deviation


@torch.no_grad()
def normalise_inputs(student: Student, tokens: Tensor, features: Tensor) -> None:
    """Set shift and scale of a conditioned student's inputs from samples of the text.

    Args:
        student: is changed.
        tokens: int64 [n].
        features: [n, F, hidden], the target's.
    """
    embedded = functional.embedding(tokens, student.embedding)[:, None]
    states = torch.cat((embedded.float().cpu(), features.float()), 1)  # [n, F + 1, hidden]
    student.input_shift.copy_(states.mean(0))
    student.input_scale.copy_(1.0 / states.std(0).clamp(min=1e-6))
