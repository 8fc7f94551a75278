"""Tiny random models and tokenizers on disk, as Hugging Face's own code writes them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

NAMES = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 4)
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
    """A random model, the same for the same changes to `TINY`; its biases are no zeros."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(**{**TINY, **changes})).eval()
    for name, parameter in model.named_parameters():
        if name.endswith(".bias"):
            torch.nn.init.normal_(parameter, 0.0, 0.5)
    return model


def reference_logits(model: LlamaForCausalLM, token_ids: Tensor) -> Tensor:
    """What transformers computes for one prompt, `[n, V]`."""
    with torch.inference_mode():
        logits: Tensor = model(token_ids[None]).logits[0]
    return logits


def reference_text(model: LlamaForCausalLM, prompt: Sequence[int], tokens: int) -> list[int]:
    """A prompt and what transformers' logits continue it with at temperature 0."""
    text = list(prompt)
    for _ in range(tokens):
        text.append(int(reference_logits(model, torch.tensor(text))[-1].argmax()))
    return text


def tiny_tokenizer(size: int = 96, first: str = "A") -> PreTrainedTokenizerFast:
    """Byte-level, `size` tokens: special ones, white space, digits, characters from `first` on."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "Ġ", "ĠĠ", "Ċ", *"0123456789"]
    tokens += [chr(ord(first) + offset) for offset in range(size - len(tokens))]
    vocab = {token: index for index, token in enumerate(tokens)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "Ġ")]))
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


def edit_settings(directory: Path, **changes: Any) -> None:
    """Change entries of a model's `config.json`."""
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def save_gguf(
    file: Path,
    model: LlamaForCausalLM,
    kind: gguf.GGMLQuantizationType = gguf.GGMLQuantizationType.F32,
    rope_freqs: Tensor | None = None,
    more_tensors: Mapping[str, Tensor] | None = None,
    **entries: Any,
) -> None:
    """Write a model as llama.cpp's converter would, rows of q and k in pairs.

    Args:
        file: where to.
        model: a tiny model.
        kind: how matrices are stored whose width allows it.
        rope_freqs: divisors of the rotary frequencies, as stored for Llama 3.
        more_tensors: others, by llama.cpp's names.
        entries: metadata to add (`__` stands for a dot), or to leave out where None.
    """
    config = model.config
    tokenizer = tiny_tokenizer(config.vocab_size)
    metadata: dict[str, Any] = {
        "llama.block_count": config.num_hidden_layers,
        "llama.context_length": config.max_position_embeddings,
        "llama.embedding_length": config.hidden_size,
        "llama.feed_forward_length": config.intermediate_size,
        "llama.attention.head_count": config.num_attention_heads,
        "llama.attention.head_count_kv": config.num_key_value_heads,
        "llama.attention.key_length": config.head_dim,
        "llama.attention.layer_norm_rms_epsilon": config.rms_norm_eps,
        "llama.rope.dimension_count": config.head_dim,
        "llama.rope.freq_base": float(config.rope_parameters["rope_theta"]),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokenizer.convert_ids_to_tokens(range(config.vocab_size)),
        "tokenizer.ggml.token_type": [3] * 3 + [1] * (config.vocab_size - 3),
        "tokenizer.ggml.merges": ["Ġ Ġ"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }
    metadata |= {name.replace("__", "."): value for name, value in entries.items()}
    writer = gguf.GGUFWriter(file, metadata.pop("general.architecture", "llama"))
    for name, value in metadata.items():
        add_entry(writer, name, value)
    for name, tensor in model.state_dict().items():
        if name != "lm_head.weight" or not config.tie_word_embeddings:
            stored = pairs_from_halves(name, tensor, config).numpy()
            fits = tensor.dim() == 2 and tensor.shape[1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
            used = kind if fits else gguf.GGMLQuantizationType.F32
            writer.add_tensor(gguf_name(name), gguf.quantize(stored, used), raw_dtype=used)
    if rope_freqs is not None:
        writer.add_tensor("rope_freqs.weight", rope_freqs.float().numpy())
    for name, tensor in (more_tensors or {}).items():
        writer.add_tensor(name, tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_entry(writer: gguf.GGUFWriter, name: str, value: Any) -> None:
    match value:
        case None:
            pass
        case str():
            writer.add_string(name, value)
        case bool():
            writer.add_bool(name, value)
        case int():
            writer.add_uint32(name, value)
        case float():
            writer.add_float32(name, value)
        case _:
            writer.add_array(name, value)


def pairs_from_halves(name: str, tensor: Tensor, config: LlamaConfig) -> Tensor:
    """The converter's reordering of rows, for q and k."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    part = name.split(".")[-2]
    if part not in heads:
        return tensor
    halves = tensor.view(heads[part], 2, -1, *tensor.shape[1:])
    return halves.transpose(1, 2).reshape(tensor.shape).contiguous()


def gguf_name(name: str) -> str:
    """llama.cpp's name of a tensor, by the `gguf` package's own table."""
    return str(NAMES.get_name(name, try_suffixes=(".weight", ".bias")))
