"""Small tokenizers of the two families, with the chat templates their families use."""

import io
from functools import lru_cache
from typing import Any

import pytest
import sentencepiece
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.loader import embedded_target_path, open_checkpoint

LLAMA2_TEMPLATE = (
    "{% if messages[0]['role'] == 'system' %}{% set rest = messages[1:] %}"
    "{% set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}"
    "{% else %}{% set rest = messages %}{% set system = '' %}{% endif %}"
    "{% for message in rest %}"
    "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if message['role'] == 'user' %}{% if loop.first %}{% set content = system + "
    "message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}"
    "{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
    "{% else %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}{% endif %}{% endfor %}"
)
LLAMA3_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' "
    "+ message['content'] | trim + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
REFUSING_TEMPLATE = (
    "{% if 'be brief' in messages[0]['content'] %}{{ raise_exception('not brief') }}{% endif %}"
    + LLAMA3_TEMPLATE
)
COUNTING_TEMPLATE = (
    "{{ bos_token }}{{ messages | length }} messages. {% for message in messages %}"
    "{{ message['role'] + ': ' + message['content'] + '<|eot_id|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant: ' }}{% endif %}"
)
"""Not extendable: each turn changes the first words."""


@lru_cache
def byte_level(template: str | None = LLAMA3_TEMPLATE) -> PreTrainedTokenizerFast:
    """GPT-2's kind: every byte is a token, and a few words are."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("h", "e"), ("t", "he"), ("Ġ", "the"), ("Ċ", "Ċ"), ("Ġ", "Ġ"), ("Ã", "©")]
    tokens = [*alphabet, *(left + right for left, right in merges)]
    backend = Tokenizer(models.BPE({token: at for at, token in enumerate(tokens)}, merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    headers = ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<|begin_of_text|>",
        eos_token="<|end_of_text|>",
        additional_special_tokens=headers,
    )
    tokenizer.chat_template = template
    return tokenizer


@lru_cache
def sentencepiece_like(template: str | None = LLAMA2_TEMPLATE) -> PreTrainedTokenizerFast:
    """Llama 2's kind: spaces are `▁`, one is put before any text, unknown characters are bytes."""
    letters = [chr(code) for code in range(0x21, 0x7F)]
    merges = [("h", "e"), ("t", "he"), ("▁", "the"), ("▁", "▁"), ("▁", "["), ("I", "N")]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", *letters]
    tokens += [left + right for left, right in merges]
    vocab = {token: at for at, token in enumerate(tokens)}
    backend = Tokenizer(
        models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    backend.add_special_tokens([AddedToken(name, special=True) for name in tokens[:3]])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tokenizer.chat_template = template
    return tokenizer


def train_sentencepiece(sentences: list[str], **options: Any) -> bytes:
    """A `tokenizer.model` of kind BPE unless the options say otherwise."""
    trained = io.BytesIO()
    kind = {"model_type": "bpe", "vocab_size": 300, "byte_fallback": True}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences * 20),
        model_writer=trained,
        minloglevel=2,
        hard_vocab_limit=False,
        **{**kind, **options},
    )
    return trained.getvalue()


@lru_cache
def embedded_tokenizer() -> PreTrainedTokenizerBase:
    """SmolLM2's own; skips the test where the embedded target is not installed."""
    try:
        path = embedded_target_path()
    except ModelLoadError as error:
        pytest.skip(str(error))
    checkpoint = open_checkpoint(str(path))
    assert checkpoint.tokenizer is not None
    return checkpoint.tokenizer()
