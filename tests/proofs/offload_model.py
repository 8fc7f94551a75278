"""A Llama with random weights, written to disk with one layer in memory at a time."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
HEAD_SPREAD = 2.0
"""Standard deviation of the logits: likely tokens stand out as in a trained model."""


@dataclass(frozen=True, slots=True)
class RandomLlama:
    """The shape of a model to be written.

    Attributes:
        hidden: width of the residual stream.
        inner: width inside the MLP.
        layers: how many.
        heads: query heads; a quarter as many for keys and values.
        vocab: tokens.
    """

    hidden: int = 2048
    inner: int = 8192
    layers: int = 16
    heads: int = 32
    vocab: int = 32000

    @property
    def settings(self) -> dict[str, object]:
        """Its `config.json`."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.heads // 4,
            "head_dim": self.hidden // self.heads,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "max_position_embeddings": 2048,
            "tie_word_embeddings": False,
            "hidden_act": "silu",
            "dtype": "bfloat16",
        }

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Of its tensors, by Hugging Face's names."""
        keys = self.hidden // 4
        shapes: dict[str, tuple[int, ...]] = {
            EMBEDDING: (self.vocab, self.hidden),
            HEAD: (self.vocab, self.hidden),
            "model.norm.weight": (self.hidden,),
        }
        for layer in range(self.layers):
            prefix = f"model.layers.{layer}"
            shapes |= {
                f"{prefix}.input_layernorm.weight": (self.hidden,),
                f"{prefix}.self_attn.q_proj.weight": (self.hidden, self.hidden),
                f"{prefix}.self_attn.k_proj.weight": (keys, self.hidden),
                f"{prefix}.self_attn.v_proj.weight": (keys, self.hidden),
                f"{prefix}.self_attn.o_proj.weight": (self.hidden, self.hidden),
                f"{prefix}.post_attention_layernorm.weight": (self.hidden,),
                f"{prefix}.mlp.gate_proj.weight": (self.inner, self.hidden),
                f"{prefix}.mlp.up_proj.weight": (self.inner, self.hidden),
                f"{prefix}.mlp.down_proj.weight": (self.hidden, self.inner),
            }
        return shapes

    def write(self, directory: Path, seed: int = 0) -> int:
        """Write weights in bfloat16, a file per layer, and a tokenizer of numbered words.

        Returns:
            the number of weights.

        Raises:
            OSError: the disk refuses.
        """
        (directory / "config.json").write_text(json.dumps(self.settings), encoding="utf-8")
        shapes = self.shapes
        generator = torch.Generator().manual_seed(seed)
        places: dict[str, str] = {}
        for part in range(self.layers + 1):
            prefix = f"model.layers.{part}." if part < self.layers else ""
            names = [name for name in shapes if _is_of(name, prefix)]
            file = f"model-{part:05}.safetensors"
            tensors = {name: _drawn(name, shapes[name], generator) for name in names}
            save_file(tensors, directory / file, metadata={"format": "pt"})
            places.update(dict.fromkeys(names, file))
        index = json.dumps({"weight_map": places})
        (directory / "model.safetensors.index.json").write_text(index, encoding="utf-8")
        _write_tokenizer(directory, self.vocab)
        return sum(torch.Size(shape).numel() for shape in shapes.values())


def _is_of(name: str, prefix: str) -> bool:
    return name.startswith(prefix) if prefix else not name.startswith("model.layers.")


def _drawn(name: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal, scaled so that what a matrix makes is as large as what it reads."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    spread = {EMBEDDING: 1.0, HEAD: HEAD_SPREAD * shape[1] ** -0.5}.get(name, shape[1] ** -0.5)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(0.0, spread, generator=generator)


def _write_tokenizer(directory: Path, vocab: int) -> None:
    from tokenizers import Tokenizer, models
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"t{index}": index for index in range(vocab)}, "t0"))
    PreTrainedTokenizerFast(tokenizer_object=words).save_pretrained(directory)
