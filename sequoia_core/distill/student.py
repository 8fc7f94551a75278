"""The draft in training: a few Llama layers over the target's embedding, with a trimmed head.

An independent draft reads token embeddings. A conditioned one also reads the target's hidden states
of the token before (after EAGLE, arXiv 2401.15077), or, deeper in a tree, its own output there, as
training does for some steps (EAGLE-3, arXiv 2503.01840). Shapes: `B` conversations of `t` tokens.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn import functional

from sequoia_core.model import tensor_names as names
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.layers import RotaryEmbedding, rotate
from sequoia_core.model.loading.block_safetensors import BLOCK, pack_weights, rounded

LEFT_OUT = frozenset({
    "quantization_config", "_name_or_path", "transformers_version", "attention_bias", "mlp_bias",
})  # fmt: skip
"""Settings of the target that do not hold for a draft."""

Rows = list[tuple[Tensor, Tensor]]  # keys and values [B, K, t, D] of a layer, by step down a tree


class Matrix(nn.Linear):
    """Multiplies with its weights as a file in `blocks` will hold them; None rounds nothing."""

    def __init__(self, inputs: int, outputs: int, blocks: str | None) -> None:
        super().__init__(inputs, outputs, bias=False)
        self._blocks = blocks if inputs % BLOCK == 0 else None
        self._rounded: Tensor | None = None

    @property
    def read(self) -> Tensor:
        """[outputs, inputs], the rounded weights; their gradient goes to the weights."""
        return self.weight if self._rounded is None else self._rounded

    def round(self) -> None:
        if self._blocks is not None:
            self._rounded = rounded(self.weight, self._blocks)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.read)


class Block(nn.Module):
    """One transformer block whose rows may be nodes of a tree."""

    def __init__(self, config: ModelConfig, blocks: str | None) -> None:
        super().__init__()
        hidden, inner, dim = config.hidden_size, config.intermediate_size, config.head_dim
        self._config = config
        self.input_layernorm = nn.Parameter(torch.ones(hidden))
        self.post_attention_layernorm = nn.Parameter(torch.ones(hidden))
        queries, keys = config.num_heads * dim, config.num_kv_heads * dim
        self.q_proj = Matrix(hidden, queries, blocks)
        self.k_proj = Matrix(hidden, keys, blocks)
        self.v_proj = Matrix(hidden, keys, blocks)
        self.o_proj = Matrix(queries, hidden, blocks)
        self.gate_proj = Matrix(hidden, inner, blocks)
        self.up_proj = Matrix(hidden, inner, blocks)
        self.down_proj = Matrix(inner, hidden, blocks)

    def forward(self, hidden: Tensor, rotary: tuple[Tensor, Tensor], above: Rows) -> Tensor:
        """One step's rows [B, t, hidden]; appends keys and values to those `above`."""
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
    """[B, H, t, D]: row i sees row i of its own step, row i - 1 of the one above, and so on.

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
    path = [
        [functional.pad(each, (0, 0, depth - at, at - depth)) for each in pair]  # moved down
        for at, pair in enumerate(steps[1:], start=1)
    ]
    own = [(queries * key).sum(-1, keepdim=True) for key, _ in path]  # [B, H, t, 1] each
    weights = torch.softmax(torch.cat((scores, *own), -1).float() * scale, -1).to(values.dtype)
    mixed = weights[..., :length] @ values
    for at, (_, value) in enumerate(path):
        mixed = mixed + weights[..., length + at : length + at + 1] * value
    return mixed


class Student(nn.Module):
    """A draft with float32 weights over the target's embedding, which is not trained."""

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
        slots, width = len(config.feature_layers), config.hidden_size
        self.target_input = Matrix((slots + 1) * width, width, blocks) if slots else None
        self.own_input = Matrix(2 * width, width, blocks) if slots else None
        # a few dimensions of hidden states are much larger than the rest
        self.input_shift = nn.Buffer(torch.zeros(slots + 1, width))
        self.input_scale = nn.Buffer(torch.ones(slots + 1, width))
        self.rotary = RotaryEmbedding(config, embedding.device, torch.float32)

    def unrolled(
        self, tokens: Tensor, features: Tensor | None, counts: Sequence[int]
    ) -> Iterator[Tensor]:
        """The head's inputs [count, t, hidden] at each step down a tree that follows the text.

        Entry [b, i] of step j (from 1) predicts token i + 1 and has read the target's hidden states
        up to token i - j. Its first j - 1 rows mean nothing. Features [B, t, F, hidden] are the
        target's of the token before; an independent draft has none.
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
            read = functional.pad(output, (0, 0, 1, -1))  # features of the next token
            yield output

    def _normalised(self, states: Tensor, first: int) -> Tensor:
        """States [B, t, slots, hidden], every dimension with mean 0 and deviation 1."""
        slots = slice(first, first + states.shape[2])
        return (states - self.input_shift[slots]) * self.input_scale[slots]

    def tensors(self) -> dict[str, Tensor]:
        """Weights under Hugging Face's names, as `load_pair` reads them."""
        named = {names.HEAD: self.head.weight, "model.norm.weight": self.norm}
        named[names.DRAFT_VOCAB_IDS] = self.vocab_ids.int()
        for index, layer in enumerate(self.blocks):
            named |= {_hf_name(index, name): each for name, each in layer.named_parameters()}
        if self.target_input is not None and self.own_input is not None:
            named[names.TARGET_INPUT] = self.target_input.weight
            named[names.OWN_INPUT] = self.own_input.weight
            named[names.INPUT_SHIFT] = self.input_shift.flatten()
            named[names.INPUT_SCALE] = self.input_scale.flatten()
        return {name: tensor.detach() for name, tensor in named.items()}

    @torch.no_grad()
    def begin_from_target(
        self,
        weights: Mapping[str, Tensor],
        target: ModelConfig,
        layers: Sequence[int],
        seed: int,
    ) -> None:
        """Take the target's final norm and head, and the named layers if independent.

        A conditioned one, which begins where the target's last layer ended, learns faster from
        random layers (see docs/decisions).
        """
        self.norm.copy_(weights[names.FINAL_NORM].float() + float(target.norms_add_one))
        head = weights[names.HEAD if names.HEAD in weights else names.EMBEDDING]
        self.head.weight.copy_(head[self.vocab_ids].float() / target.logits_divisor)
        drawn: list[Tensor] = []
        for source, layer in zip(layers, self.blocks, strict=True):
            for name, parameter in layer.named_parameters():
                if not self.config.feature_layers:
                    parameter.copy_(weights[_hf_name(source, name)])
                elif parameter.dim() == 2:
                    drawn.append(parameter)
        drawn += [each.weight for each in (self.target_input, self.own_input) if each is not None]
        generator = torch.Generator().manual_seed(seed)
        for matrix in drawn:  # so that it about keeps the norm of its inputs
            deviation = matrix.shape[1] ** -0.5
            matrix.copy_(torch.randn(matrix.shape, generator=generator) * deviation)

    @torch.no_grad()
    def begin_from_draft(self, weights: Mapping[str, Tensor]) -> None:
        """Take the weights of a draft of the same shape, under the names of `tensors`."""
        for name, tensor in self.tensors().items():
            if name != names.DRAFT_VOCAB_IDS:  # the others share memory with the student
                tensor.copy_(weights[name])

    @torch.no_grad()
    def normalise_inputs(self, tokens: Tensor, features: Tensor) -> None:
        """Set shift and scale of the inputs from tokens [n] and features [n, F, hidden]."""
        embedded = functional.embedding(tokens, self.embedding)[:, None]
        states = torch.cat((embedded.float().cpu(), features.float()), 1)  # [n, F + 1, hidden]
        self.input_shift.copy_(states.mean(0))
        self.input_scale.copy_(1.0 / states.std(0).clamp(min=1e-6))


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """RMSNorm in x's dtype: with a float32 weight PyTorch has no fused kernel for bfloat16."""
    return functional.rms_norm(x, x.shape[-1:], weight.to(x.dtype), eps)


def _hf_name(index: int, name: str) -> str:
    kind, part = name.removesuffix(".weight"), ""
    if kind.endswith("_proj"):
        part = "self_attn." if kind[0] in "qkvo" else "mlp."
    return f"model.layers.{index}.{part}{kind}.weight"


def student_config(
    target: ModelConfig, layers: int, head_rows: int, feature_layers: Sequence[int]
) -> ModelConfig:
    """The shape of a draft for this target: a Llama's, whatever the target computes beyond it."""
    plain: dict[str, Any] = {}
    if target.family != "llama":
        fields = ModelConfig.__dataclass_fields__
        rope = ("rope_scaling", "rope_factor", "rope_divisors", "rope_magnitude")
        names = (*target.beyond_llama, "family", *rope)
        plain = {name: fields[name].default for name in names}
    return replace(
        replace(target, **plain),
        num_layers=layers,
        head_vocab_size=head_rows,
        tie_word_embeddings=False,
        embeddings_from_target=True,
        attention_bias=False,
        mlp_bias=False,
        feature_layers=tuple(feature_layers),
    )


def write_draft(
    directory: Path,
    student: Student,
    settings: Mapping[str, Any],
    blocks: str,
    rates: Mapping[str, tuple[float, ...]],
) -> None:
    """Write `model.safetensors`, its matrices as `blocks`, and `config.json`.

    Most of the target's `settings` hold for the draft too.
    """
    config = student.config
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.cpu().contiguous() for name, tensor in student.tensors().items()}
    # not save_file, whose files only their owner may read
    data = save(pack_weights(tensors, blocks), {"format": "pt"})
    (directory / "model.safetensors").write_bytes(data)
    rounded = {kind: [round(rate, 4) for rate in each] for kind, each in rates.items()}
    changed = {
        "num_hidden_layers": config.num_layers,
        "tie_word_embeddings": False,
        "draft_vocab_size": config.head_vocab_size,
        "embeddings_from": "target",
        "quantization": {"format": blocks},
        "sequoia": {"acceptance_rates": rounded},
    }
    if config.feature_layers:
        changed["feature_layers"] = list(config.feature_layers)
    if settings.get("model_type", "llama") == "llama":
        kept = {name: value for name, value in settings.items() if name not in LEFT_OUT}
    else:
        kept = _llama_settings(config, settings.get("eos_token_id"))
    text = json.dumps(kept | changed, indent=2) + "\n"
    (directory / "config.json").write_text(text, encoding="utf-8")


def _llama_settings(config: ModelConfig, eos_token_id: object) -> dict[str, Any]:
    """Of a draft for a target of another family, whose own entries do not hold for a Llama."""
    return {
        "model_type": "llama",
        "architectures": ["LlamaForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "max_position_embeddings": config.context_window,
        "eos_token_id": eos_token_id,
    }
