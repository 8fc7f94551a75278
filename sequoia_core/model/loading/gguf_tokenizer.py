"""The tokenizer inside a GGUF file, built from the file's own entries alone."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gguf import TokenType

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading.sentencepiece_bpe import (
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

_TABLES = tomllib.loads((Path(__file__).parent / "gguf_tokenizer.toml").read_text("utf-8"))
_NAMED, _ENDS = _TABLES["tokens"]["named"], _TABLES["tokens"]["ends"]
_KNOWN = {*_TABLES["entries"]["read"], *_TABLES["entries"]["no_effect"], *_NAMED.values(), *_ENDS}

SPLIT_RULES: Mapping[str, Mapping[str, Any]] = {
    name: rule for rule in _TABLES["rules"] for name in rule["names"]
}
"""By the value of `tokenizer.ggml.pre`. An unknown one is refused: with another rule, a prompt
would be cut into other tokens than the model was trained with, and nobody would notice."""


def gguf_tokenizer(entries: Mapping[str, Any], origin: str) -> PreTrainedTokenizerBase:
    """The tokenizer that a file's entries with names in `tokenizer.` describe."""
    with one_error(origin):
        prefixed = {key: value for key, value in entries.items() if key.startswith(_PREFIX)}
        stated = {key.removeprefix(_PREFIX): value for key, value in prefixed.items()}
        if unknown := sorted(stated.keys() - _KNOWN):
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
    types = [TokenType(number) for number in stated["token_type"]]
    scores = stated.get("scores", [0.0] * len(texts))
    ends = {key: stated[key] for key in _ENDS if stated.get(key) is not None}
    for key, token in ends.items():
        if token >= len(types):
            raise ModelLoadError(f"{_PREFIX}{key} is {token}, but there are {len(types)} tokens")
    end_texts = _TABLES["tokens"]["end_texts"]
    special = {*ends.values(), *(at for at, text in enumerate(texts) if text in end_texts)}
    types = [
        TokenType.CONTROL if kind is TokenType.NORMAL and token in special else kind
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
    backend = Tokenizer(models.BPE(vocab, merges, ignore_merges=rule.get("whole_words", False)))
    if rule.get("composed"):
        backend.normalizer = normalizers.NFC()
    patterns = ["|".join(_TABLES["patterns"][each]) for each in rule["patterns"]]
    splits = [pre_tokenizers.Split(Regex(pattern), "isolated") for pattern in patterns]
    bytes_as_characters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*splits, bytes_as_characters])
    backend.decoder = decoders.ByteLevel()
    backend.add_tokens(added_tokens(pieces))
    return backend, rule.get("begins", False)


def _pair(merge: str) -> tuple[str, str]:
    at = merge.index(" ", 1)  # the first part may be a space
    return merge[:at], merge[at + 1 :]


def _scored(stated: Mapping[str, Any], pieces: Sequence[VocabularyPiece]) -> Tokenizer:
    if "scores" not in stated and "merges" not in stated:
        raise ModelLoadError(f"{_PREFIX}scores is missing")
    # an empty list next to scores has no meaning
    by_merges = "scores" not in stated or stated.get("merges")
    return sentencepiece_backend(
        pieces,
        [_pair(merge) for merge in stated["merges"]] if by_merges else None,
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
