"""Tiny random models and tokenizers on disk, as Hugging Face's own code writes them."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TINY: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-5,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def tiny_llama(**changes: Any) -> LlamaForCausalLM:
    """A random model, the same for the same changes to `TINY`."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**{**TINY, **changes})).eval()


def reference_logits(model: LlamaForCausalLM, token_ids: Tensor) -> Tensor:
    """What transformers computes for one prompt, `[n, V]`."""
    with torch.inference_mode():
        logits: Tensor = model(token_ids[None]).logits[0]
    return logits


def tiny_tokenizer(size: int = 96, first: str = "a") -> PreTrainedTokenizerFast:
    """Byte-level, `size` tokens: three special ones, then characters from `first` on."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    characters = [chr(ord(first) + offset) for offset in range(size - len(special))]
    vocab = {token: index for index, token in enumerate(special + characters)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|endoftext|>",
        additional_special_tokens=["<|im_start|>", "<|im_end|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def save_model(
    directory: Path, tokenizer: PreTrainedTokenizerFast | None = None, **changes: Any
) -> LlamaForCausalLM:
    """Write a tiny model, with a tokenizer if one is given, and return it."""
    model = tiny_llama(**changes)
    model.save_pretrained(directory)
    if tokenizer is not None:
        tokenizer.save_pretrained(directory)
    return model
