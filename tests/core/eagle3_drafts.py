"""EAGLE-3 drafts on disk in each published style, with random weights, and what they compute.

`Reference` is written from the paper and the files' own descriptions. It shares no code with the
program: float64, no cache, one row after the other.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaForCausalLM

TARGET: dict[str, Any] = {"num_hidden_layers": 8, "max_position_embeddings": 256}
VOCAB, HIDDEN, INNER, HEADS, KV_HEADS, KEPT = 96, 32, 48, 4, 2, 40

SHAPE: dict[str, Any] = {
    "hidden_act": "silu",
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "max_position_embeddings": 64,
    "model_type": "llama",
    "num_attention_heads": HEADS,
    "num_hidden_layers": 1,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": 1e-5,
    "vocab_size": VOCAB,
}


@dataclass(frozen=True)
class Style:
    """How a publisher writes its drafts."""

    settings: Mapping[str, Any]
    layer: str  # what its layer's tensors are called
    prefix: str = ""  # of all but the head and the tables
    kept: int = KEPT  # the draft's tokens
    width: int = HIDDEN  # of the draft
    head_dim: int = HIDDEN // HEADS
    inputs: tuple[int, ...] = (2, 4, 5)  # of 8 layers: Hugging Face's `hidden_states` of these
    theta: float = 10000.0
    own_embedding: bool = False
    fc_bias: bool = False
    switches: frozenset[str] = field(default_factory=frozenset)
    file: str = "model.safetensors"


def nested(layer: Mapping[str, Any], **around: Any) -> dict[str, Any]:
    """Settings of speculators."""
    return {
        "architectures": ["Eagle3Speculator"],
        "auto_map": {"": "eagle3.Eagle3SpeculatorConfig"},
        "draft_vocab_size": KEPT,
        "has_no_defaults_at_init": False,
        "speculators_config": {
            "algorithm": "eagle3",
            "default_proposal_method": "greedy",
            "proposal_methods": [{"proposal_type": "greedy", "speculative_tokens": 3}],
            "verifier": {"architectures": ["LlamaForCausalLM"], "name_or_path": "a/target"},
        },
        "speculators_model_type": "eagle3",
        "speculators_version": "0.1.0",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "transformer_layer_config": {**layer, "attention_bias": False, "mlp_bias": False},
        **around,
    }


FLAT = {**SHAPE, "architectures": ["LlamaForCausalLMEagle3"], "draft_vocab_size": KEPT}
STYLES: dict[str, Style] = {
    "SafeAILab": Style(FLAT, "midlayer", file="pytorch_model.bin"),
    "SGLang": Style(
        {
            **FLAT,
            "head_dim": 12,
            "rope_theta": 500.0,
            "eagle_config": {
                "eagle_aux_hidden_state_layer_ids": [0, 4, 6],
                "use_aux_hidden_state": True,
            },
        },
        "midlayer",
        own_embedding=True,
        head_dim=12,
        theta=500.0,
        inputs=(1, 5, 7),
    ),
    "vLLM": Style(
        {**FLAT, "eagle_aux_hidden_state_layer_ids": [6, 1, 3]},
        "layers.0",
        prefix="model.",
        inputs=(1, 3, 6),
    ),
    "AngelSlim": Style(  # of Qwen3: an entry of its windows, and a tied head that is stored
        {
            **FLAT,
            "architectures": ["Eagle3LlamaForCausalLM"],
            "max_window_layers": 36,
            "rope_scaling": None,
            "rope_theta": 1000000,
            "sliding_window": None,
            "tie_word_embeddings": True,
            "use_sliding_window": False,
        },
        "midlayer",
        theta=1e6,
        file="pytorch_model.bin",
    ),
    "wider than the target": Style(
        {**FLAT, "hidden_size": 48, "target_hidden_size": HIDDEN},
        "midlayer",
        width=48,
        head_dim=12,
        own_embedding=True,
    ),
    "whole vocabulary": Style(
        {**SHAPE, "architectures": ["LlamaForCausalLMEagle3"]}, "midlayer", kept=VOCAB
    ),
    "speculators": Style(
        nested(SHAPE, norm_before_residual=True),
        "layers.0",
        own_embedding=True,
        fc_bias=True,
        switches=frozenset({"norm_before_residual"}),
    ),
    "EAGLE 3.1": Style(
        nested(
            SHAPE,
            eagle_aux_hidden_state_layer_ids=[2, 6],
            fc_norm=True,
            norm_before_fc=False,
            norm_before_residual=False,
            norm_output=True,
        ),
        "layers.0",
        inputs=(2, 6),
        switches=frozenset({"fc_norm", "norm_output"}),
    ),
    "NVIDIA": Style(
        {
            **FLAT,
            "eagle_config": {
                "eagle_aux_hidden_state_layer_ids": [],
                "norm_before_fc": True,
                "use_aux_hidden_state": True,
                "use_input_layernorm_in_first_layer": True,
                "use_last_layernorm": True,
                "use_mtp_layernorm": False,
            },
        },
        "midlayer",
        switches=frozenset({"norm_before_fc"}),
    ),
}


def layout(style: Style) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor of a published file."""
    width, joined = style.width, len(style.inputs) * HIDDEN
    queries, keys = HEADS * style.head_dim, KV_HEADS * style.head_dim
    layer, model = f"{style.prefix}{style.layer}", style.prefix
    shapes: dict[str, tuple[int, ...]] = {
        f"{model}fc.weight": (width, joined),
        f"{layer}.input_layernorm.weight": (width,),
        f"{layer}.hidden_norm.weight": (width,),
        f"{layer}.post_attention_layernorm.weight": (width,),
        f"{layer}.self_attn.q_proj.weight": (queries, 2 * width),
        f"{layer}.self_attn.k_proj.weight": (keys, 2 * width),
        f"{layer}.self_attn.v_proj.weight": (keys, 2 * width),
        f"{layer}.self_attn.o_proj.weight": (width, queries),
        f"{layer}.mlp.gate_proj.weight": (INNER, width),
        f"{layer}.mlp.up_proj.weight": (INNER, width),
        f"{layer}.mlp.down_proj.weight": (width, INNER),
        f"{model}norm.weight": (width,),
        "lm_head.weight": (style.kept, width),
    }
    if style.own_embedding:
        shapes[f"{model}embed_tokens.weight"] = (VOCAB, width)
    if style.fc_bias:
        shapes[f"{model}fc.bias"] = (width,)
    if "fc_norm" in style.switches:
        shapes |= {f"{model}fc_norm.{n}.weight": (HIDDEN,) for n in range(len(style.inputs))}
    if "norm_before_fc" in style.switches:
        shapes[f"{model}input_norm.weight"] = (joined,)
    return shapes


def random_tensors(style: Style, seed: int = 0) -> dict[str, Tensor]:
    """Weights of a style, and the tables of its vocabulary if it has fewer tokens."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        name: torch.randn(shape, generator=generator) * (0.1 if len(shape) > 1 else 0.3)
        for name, shape in layout(style).items()
    }
    for name in tensors:
        if "norm" in name:
            tensors[name] += 1.0
    if style.kept < VOCAB:
        ids = torch.randperm(VOCAB, generator=generator)[: style.kept].sort().values
        tensors["d2t"] = ids - torch.arange(style.kept)
        tensors["t2d"] = torch.zeros(VOCAB, dtype=torch.bool).index_fill(0, ids, True)
    return tensors


def save_draft(folder: Path, style: Style, **changes: Any) -> dict[str, Tensor]:
    """Write a draft as its publisher would, without a tokenizer; None leaves an entry out."""
    folder.mkdir()
    tensors = random_tensors(style)
    settings = {**style.settings, **changes}
    stated = {name: value for name, value in settings.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(stated))
    if style.file.endswith(".bin"):
        torch.save(tensors, folder / style.file)
    else:
        save_file(tensors, folder / style.file)
    return tensors


class Reference:
    """What a draft computes next to a target of transformers."""

    def __init__(
        self, style: Style, tensors: Mapping[str, Tensor], target: LlamaForCausalLM
    ) -> None:
        self._style, self._target = style, target
        named = {name.removeprefix("model."): value for name, value in tensors.items()}
        named = {name.replace(style.layer, "layer"): value for name, value in named.items()}
        self._of = {name: value.double() for name, value in named.items()}
        own = self._of.get("embed_tokens.weight")
        shared = target.model.embed_tokens.weight.detach().double()
        self._embedding = shared if own is None else own

    def states(self, token_ids: Tensor) -> Tensor:
        """The target's states that are read, float64 [n, F, hidden]."""
        with torch.inference_mode():
            output = self._target(token_ids[None], output_hidden_states=True)
        return torch.stack([output.hidden_states[n][0] for n in self._style.inputs], 1).double()

    def logits(self, text: Sequence[int], path: Sequence[int] = ()) -> Tensor:
        """float64 [n - 1 + m, V_draft] after each token of a text but the first, then of a path.

        The path's tokens are guesses: they have no states of the target.
        """
        states = self.states(torch.tensor(text))
        features = [self._fused(state) for state in states[:-1]]
        keys: list[Tensor] = []
        values: list[Tensor] = []
        found: list[Tensor] = []
        last = torch.empty(0)
        for at, token in enumerate([*text[1:], *path]):
            feature = features[at] if at < len(features) else last
            out = self._layer(at, self._embedding[token], feature, keys, values)
            normed = self._norm("norm", out)
            last = normed if "norm_output" in self._style.switches else out
            found.append(self._of["lm_head.weight"] @ normed)
        return torch.stack(found)

    def _norm(self, name: str, x: Tensor) -> Tensor:
        return x / (x.square().mean() + 1e-5).sqrt() * self._of[f"{name}.weight"]

    def _fused(self, state: Tensor) -> Tensor:
        if "fc_norm" in self._style.switches:
            rows = [self._norm(f"fc_norm.{n}", row) for n, row in enumerate(state)]
            state = torch.stack(rows)
        joined = state.flatten()
        if "norm_before_fc" in self._style.switches:
            joined = self._norm("input_norm", joined)
        return self._of["fc.weight"] @ joined + self._of.get("fc.bias", torch.zeros(()))

    def _layer(
        self,
        position: int,
        token: Tensor,
        feature: Tensor,
        keys: list[Tensor],
        values: list[Tensor],
    ) -> Tensor:
        normed = self._norm("layer.hidden_norm", feature)
        both = torch.cat((self._norm("layer.input_layernorm", token), normed))
        query, key, value = (
            (self._of[f"layer.self_attn.{name}_proj.weight"] @ both).view(-1, self._style.head_dim)
            for name in "qkv"
        )
        keys.append(self._turned(key, position))
        values.append(value)
        query = self._turned(query, position)
        mixed = []
        for head in range(HEADS):
            of = head * KV_HEADS // HEADS
            scores = torch.stack([query[head] @ key[of] for key in keys])
            shares = (scores / math.sqrt(self._style.head_dim)).softmax(0)
            mixed += [sum(share * value[of] for share, value in zip(shares, values, strict=True))]
        before = normed if "norm_before_residual" in self._style.switches else feature
        hidden = before + self._of["layer.self_attn.o_proj.weight"] @ torch.cat(mixed)
        inner = self._norm("layer.post_attention_layernorm", hidden)
        gate = self._of["layer.mlp.gate_proj.weight"] @ inner
        up = self._of["layer.mlp.up_proj.weight"] @ inner
        return hidden + self._of["layer.mlp.down_proj.weight"] @ (gate * gate.sigmoid() * up)

    def _turned(self, heads: Tensor, position: int) -> Tensor:
        half = self._style.head_dim // 2
        angles = position / self._style.theta ** (torch.arange(half).double() / half)
        first, second = heads[:, :half], heads[:, half:]
        cos, sin = angles.cos(), angles.sin()
        return torch.cat((first * cos - second * sin, second * cos + first * sin), 1)
