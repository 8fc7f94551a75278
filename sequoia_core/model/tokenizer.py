"""Tokenizers: loading, saving, where a turn ends, and whether two of them agree.

Owns what the engine must know of a tokenizer beyond encoding and decoding. Uses transformers, whose
import takes most of the time here; it is imported where it is needed and as narrowly as possible.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sequoia_core.errors import ModelLoadError, TokenizerMismatchError
from sequoia_core.model.weights import first_line, read_json

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json")
SELF_CONTAINED_CLASSES = {"PreTrainedTokenizerFast", "TokenizersBackend"}
"""Classes that `tokenizer.json` describes fully, so that the general loader is not needed."""

DIGITS_SPLIT_FIRST = {
    "smollm",
    "starcoder",
    "refact",
    "command-r",
    "codeshell",
    "exaone",
    "minerva-7b",
}
"""Values of `tokenizer.ggml.pre` that part digits before anything else, a rule which transformers
leaves out when it converts them."""

_MARK = "\N{BLACK SQUARE}answer\N{BLACK SQUARE}"
"""Stands for an answer in a rendered template; no template strips or quotes it."""


def has_tokenizer(directory: Path) -> bool:
    """Whether a model's directory brings a tokenizer."""
    return any((directory / name).exists() for name in TOKENIZER_FILES)


def load_tokenizer(directory: Path) -> PreTrainedTokenizerBase:
    """The tokenizer of a Hugging Face directory.

    Raises:
        ModelLoadError: it is missing or cannot be read.
    """
    if not has_tokenizer(directory):
        raise ModelLoadError(f"{directory}: no tokenizer ({', '.join(TOKENIZER_FILES)} expected)")
    settings = directory / "tokenizer_config.json"
    kind = read_json(settings).get("tokenizer_class") if settings.exists() else None
    try:
        if kind in SELF_CONTAINED_CLASSES and (directory / "tokenizer.json").exists():
            return _transformers().PreTrainedTokenizerFast.from_pretrained(directory)
        return _transformers().AutoTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exception for a bad file
        raise ModelLoadError(
            f"{directory}: the tokenizer cannot be read ({first_line(error)})"
        ) from None


def load_gguf_tokenizer(path: Path, pre_tokenizer: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer inside a GGUF file; takes seconds.

    Args:
        path: the file.
        pre_tokenizer: the file's `tokenizer.ggml.pre`.

    Raises:
        ModelLoadError: it is missing or cannot be read.
    """
    try:
        tokenizer = _transformers().AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    except Exception as error:  # as in load_tokenizer
        raise ModelLoadError(
            f"{path}: the tokenizer cannot be read ({first_line(error)})"
        ) from None
    if pre_tokenizer in DIGITS_SPLIT_FIRST:
        _split_digits_first(tokenizer)
    return tokenizer


def _transformers() -> Any:
    import transformers

    # its warnings would be written across the screen
    transformers.logging.set_verbosity_error()
    return transformers


def _split_digits_first(tokenizer: PreTrainedTokenizerBase) -> None:
    from tokenizers import pre_tokenizers

    digits = pre_tokenizers.Digits(individual_digits=True)
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, byte_level])


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the tokenizer so that `load_tokenizer` reads it.

    Raises:
        OSError: the directory cannot be written.
    """
    try:
        tokenizer.save_pretrained(directory)
    except Exception as error:  # as in load_tokenizer
        raise OSError(first_line(error)) from None
    settings_file = directory / "tokenizer_config.json"
    settings = json.loads(settings_file.read_text(encoding="utf-8"))
    # the name that every version of transformers knows
    settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    settings_file.write_text(json.dumps(settings, indent=1), encoding="utf-8")


def stated_eos_ids(*settings: Mapping[str, Any]) -> frozenset[int]:
    """The `eos_token_id` entries (a number or a list) of configurations.

    Raises:
        ModelLoadError: an entry is something else.
    """
    stated = [each["eos_token_id"] for each in settings if each.get("eos_token_id") is not None]
    ids = [index for each in stated for index in (each if isinstance(each, list) else [each])]
    for index in ids:
        if type(index) is not int:  # True is an int, but no token
            raise ModelLoadError(f"config: eos_token_id is {index!r}; a token id was expected")
    return frozenset(ids)


def turn_closing_id(tokenizer: PreTrainedTokenizerBase) -> int | None:
    """The special token that the chat template puts right after an answer, if it puts one."""
    if not tokenizer.chat_template:
        return None
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _MARK}]
    try:
        rendered = tokenizer.apply_chat_template(turns, tokenize=False)
    except Exception:  # a template is a program and may raise anything
        return None
    after = str(rendered).rpartition(_MARK)[2].lstrip()
    special = [token for token in tokenizer.all_special_tokens if after.startswith(token)]
    for token, entry in tokenizer.added_tokens_decoder.items():
        if entry.special and after.startswith(entry.content):
            return int(token)
    return int(tokenizer.convert_tokens_to_ids(special[0])) if special else None


def assert_same_tokenizer(target: PreTrainedTokenizerBase, draft: PreTrainedTokenizerBase) -> None:
    """Compare the token strings of two tokenizers, id by id.

    Ids that only one of them has are padding and do no harm.

    Raises:
        TokenizerMismatchError: an id means different strings; names the first one.
    """
    target_tokens = {index: token for token, index in target.get_vocab().items()}
    draft_tokens = {index: token for token, index in draft.get_vocab().items()}
    for index in sorted(target_tokens.keys() & draft_tokens.keys()):
        if target_tokens[index] != draft_tokens[index]:
            raise TokenizerMismatchError(
                f"the draft has another tokenizer: token {index} is {target_tokens[index]!r} to "
                f"the target and {draft_tokens[index]!r} to the draft; take one of the same family"
            )
