"""The tokenizer inside a GGUF file, built from the file's own entries alone.

Byte-level vocabularies name the rule by which text is split before merging; the rules are those of
llama.cpp's `llama-vocab.cpp`. An unknown one is refused: with another, a prompt would be cut into
other tokens than the model was trained with, and nobody would notice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.sentencepiece_bpe import (
    PieceType,
    VocabularyPiece,
    added_tokens,
    sentencepiece_backend,
)
from sequoia_core.model.loading.tokenizer import (
    choose_template,
    fast_tokenizer,
    mark_ends,
    name_tokens,
    one_error,
)

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_PREFIX = "tokenizer.ggml."
_TEMPLATE = "tokenizer.chat_template"

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_LINES_AND_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = (
    _CONTRACTIONS
    + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    + _LINES_AND_SPACES
)
_QWEN2 = _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|"
    + _LINES_AND_SPACES
)
_DEEPSEEK_CJK = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+"
_DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|" + _LINES_AND_SPACES
)


@dataclass(frozen=True, slots=True)
class SplitRule:
    patterns: tuple[str, ...]  # one after the other; matches and remainders become pieces
    whole_words: bool = False  # a piece that is a token is not merged from its parts
    begins: bool = False  # a text begins with BOS unless the file says otherwise
    composed: bool = False  # text is normalised to Unicode's composed form (NFC) first


_DIGITS_FIRST = (r"\p{N}", _GPT2)

SPLIT_RULES: Mapping[str, SplitRule] = {
    "gpt-2": SplitRule((_GPT2,)),
    **dict.fromkeys(("olmo", "mpt"), SplitRule((_GPT2,), composed=True)),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "codeshell", "exaone", "minerva-7b"),
        SplitRule(_DIGITS_FIRST),
    ),
    "command-r": SplitRule(_DIGITS_FIRST, composed=True),
    **dict.fromkeys(
        ("llama-bpe", "llama3", "llama-v3", "falcon3", "pixtral"),
        SplitRule((_LLAMA3,), whole_words=True, begins=True),
    ),
    **dict.fromkeys(("smaug-bpe", "dbrx"), SplitRule((_LLAMA3,))),
    "qwen2": SplitRule((_QWEN2,), composed=True),
    "tekken": SplitRule((_TEKKEN,), whole_words=True, begins=True),
    "deepseek-coder": SplitRule((r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", _DEEPSEEK_CJK, r"\p{N}")),
    "deepseek-v3": SplitRule(
        (r"\p{N}{1,3}", "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+", _DEEPSEEK3)
    ),
}
"""By the value of `tokenizer.ggml.pre`."""

_NAMED = {
    "bos_token": "bos_token_id", "eos_token": "eos_token_id", "unk_token": "unknown_token_id",
    "pad_token": "padding_token_id", "sep_token": "seperator_token_id",
    "cls_token": "cls_token_id", "mask_token": "mask_token_id",
}  # fmt: skip
"""By transformers' name of a token, llama.cpp's key for its id."""

_ENDS = ("bos_token_id", "eos_token_id", "eot_token_id", "eom_token_id")
"""Keys of tokens that are special whatever type the file gives them."""

_END_TEXTS = {
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<EOT>",
}  # fmt: skip
"""Tokens that llama.cpp treats as special even if their type is that of an ordinary one."""

_READ = {
    "model", "pre", "tokens", "token_type", "scores", "merges", "add_bos_token", "add_eos_token",
    "add_sep_token", "add_space_prefix", "remove_extra_whitespaces", "precompiled_charsmap",
    *_NAMED.values(), *_ENDS,
}  # fmt: skip

_WITHOUT_EFFECT = {
    # ids of tokens for filling in code, which a chat does not write
    "prefix_token_id", "suffix_token_id", "middle_token_id", "fim_pre_token_id",
    "fim_suf_token_id", "fim_mid_token_id", "fim_pad_token_id", "fim_rep_token_id",
    "fim_sep_token_id",
    # how many segments a BERT has; others have one
    "token_type_count",
}  # fmt: skip


def gguf_tokenizer(entries: Mapping[str, Any], origin: str) -> PreTrainedTokenizerBase:
    """The tokenizer that a file's entries with names in `tokenizer.` describe."""
    with one_error(origin):
        prefixed = {key: value for key, value in entries.items() if key.startswith(_PREFIX)}
        stated = {key.removeprefix(_PREFIX): value for key, value in prefixed.items()}
        if unknown := sorted(stated.keys() - _READ - _WITHOUT_EFFECT):
            raise ModelLoadError(f"{_PREFIX}{unknown[0]} is not supported")
        if stated.get("add_sep_token"):
            raise ModelLoadError(f"{_PREFIX}add_sep_token is not supported")
        pieces = _pieces(stated)
        match stated.get("model"):
            case "gpt2":
                backend, begins = _byte_level(stated, pieces)
            case "llama":
                backend, begins = _scored(stated, pieces), True
            case other:
                raise ModelLoadError(
                    f"{_PREFIX}model is {other!r}; only 'gpt2' (byte-level BPE) and 'llama' "
                    "(sentencepiece BPE) are supported"
                )
        for token, piece in enumerate(pieces):
            if backend.token_to_id(piece.text) != token:
                raise ModelLoadError(
                    f"token {token} ({piece.text!r}) has no place in the vocabulary"
                )
        tokenizer = fast_tokenizer(tokenizer_object=backend)
        named = {name: stated[key] for name, key in _NAMED.items() if key in stated}
        texts = {name: pieces[token].text for name, token in named.items() if token < len(pieces)}
        name_tokens(tokenizer, texts)
        mark_ends(
            tokenizer, stated.get("add_bos_token", begins), stated.get("add_eos_token", False)
        )
        tokenizer.chat_template = choose_template(_chat_templates(entries))
    return tokenizer


def _pieces(stated: Mapping[str, Any]) -> list[VocabularyPiece]:
    for key in ("tokens", "token_type"):
        if key not in stated:
            raise ModelLoadError(f"{_PREFIX}{key} is missing")
    # llama.cpp's name of a token without text
    texts = [text or f"[EMPTY_{token}]" for token, text in enumerate(stated["tokens"])]
    types = [PieceType(number) for number in stated["token_type"]]
    scores = stated.get("scores", [0.0] * len(texts))
    ends = {key: stated[key] for key in _ENDS if stated.get(key) is not None}
    for key, token in ends.items():
        if token >= len(types):
            raise ModelLoadError(f"{_PREFIX}{key} is {token}, but there are {len(types)} tokens")
    special = {*ends.values(), *(at for at, text in enumerate(texts) if text in _END_TEXTS)}
    types = [
        PieceType.CONTROL if kind is PieceType.NORMAL and token in special else kind
        for token, kind in enumerate(types)
    ]
    known: dict[str, int] = {}
    for token, text in enumerate(texts):
        if known.setdefault(text, token) != token:
            raise ModelLoadError(f"the tokens {known[text]} and {token} are both {text!r}")
    return [VocabularyPiece(*each) for each in zip(texts, scores, types, strict=True)]


def _byte_level(
    stated: Mapping[str, Any], pieces: Sequence[VocabularyPiece]
) -> tuple[Tokenizer, bool]:
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    name = stated.get("pre")
    rule = SPLIT_RULES.get(name) if isinstance(name, str) else None
    if rule is None:
        raise ModelLoadError(
            f"{_PREFIX}pre is {name!r}, a way of splitting text that is not known; take a file "
            f"converted by a current llama.cpp, with one of {', '.join(sorted(SPLIT_RULES))}"
        )
    for key in ("add_space_prefix", "remove_extra_whitespaces"):
        if stated.get(key):
            raise ModelLoadError(f"{_PREFIX}{key} is not supported in a byte-level vocabulary")
    if "merges" not in stated:
        raise ModelLoadError(f"{_PREFIX}merges is missing")
    vocab = {piece.text: token for token, piece in enumerate(pieces)}
    merges = [_pair(merge) for merge in stated["merges"]]
    backend = Tokenizer(models.BPE(vocab, merges, ignore_merges=rule.whole_words))
    if rule.composed:
        backend.normalizer = normalizers.NFC()
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in rule.patterns]
    bytes_as_characters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_as_characters])
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(added_tokens(pieces))
    return backend, rule.begins


def _pair(merge: str) -> tuple[str, str]:
    at = merge.index(" ", 1)  # the first part may be a space
    return merge[:at], merge[at + 1 :]


def _scored(stated: Mapping[str, Any], pieces: Sequence[VocabularyPiece]) -> Tokenizer:
    if "scores" not in stated and "merges" not in stated:
        raise ModelLoadError(f"{_PREFIX}scores is missing")
    merges = stated.get("merges")
    if not merges and "scores" in stated:
        merges = None  # an empty list next to scores has no meaning
    return sentencepiece_backend(
        pieces,
        None if merges is None else [_pair(merge) for merge in merges],
        space_prefix=stated.get("add_space_prefix", True),
        squeeze=stated.get("remove_extra_whitespaces", False),
        charsmap=bytes(stated.get("precompiled_charsmap", b"")),
    )


def _chat_templates(entries: Mapping[str, Any]) -> dict[str, str]:
    prefix = _TEMPLATE + "."
    named = {
        key.removeprefix(prefix): text for key, text in entries.items() if key.startswith(prefix)
    }
    return {**({"default": entries[_TEMPLATE]} if _TEMPLATE in entries else {}), **named}
