"""Opening a model wherever it lies: a Hugging Face directory, a hub id, or a GGUF file.

Owns the way from a name typed by a person to a checked configuration with weights still on disk. It
knows nothing of devices or of the forward pass. A GGUF file is converted once into a directory of
the cache and then read like any other; without a writable cache it is dequantised at every start.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from sequoia_core.errors import ModelLoadError
from sequoia_core.model import int8_rows
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.convert_cache import ConvertCache, file_digests
from sequoia_core.model.device import DTYPES, dtype_name
from sequoia_core.model.foreign import (
    refuse_foreign_files,
    refuse_foreign_settings,
    refuse_foreign_tensors,
)
from sequoia_core.model.tokenizer import (
    gguf_tokenizer,
    has_tokenizer,
    load_tokenizer,
    save_tokenizer,
    stated_eos_ids,
)
from sequoia_core.model.weights import (
    Weights,
    check_weights,
    expected_shapes,
    first_line,
    head_is_stored,
    open_weights,
    read_json,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from sequoia_core.model.gguf import GgufModel

Progress = Callable[[str, float | None], None]
"""Told what is being done and, where it is known, which part of it is done."""

CONVERTER_VERSION = 3
"""Part of a cache entry's key; counts up when the conversion writes something else."""

SHARD_BYTES = 2 << 30
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """An opened model, checked but not yet read.

    Attributes:
        name: short name for a title bar.
        config: its shape.
        settings: the whole `config.json`.
        weights: tensors under Hugging Face names, read when asked for.
        tokenizer: loads its tokenizer, or None when it brings none.
        eos_token_ids: ends of text as its files state them.
        digest: changes when the weights or the configuration change.
        stored_dtype: the number format that its files state or hold; None where there is none, as
            of quantised weights.
        gguf: the GGUF file that the weights were converted from.
    """

    name: str
    config: ModelConfig
    settings: Mapping[str, Any]
    weights: Weights
    tokenizer: "Callable[[], PreTrainedTokenizerBase] | None"
    eos_token_ids: frozenset[int]
    digest: str
    stored_dtype: torch.dtype | None = None
    gguf: Path | None = None


def open_checkpoint(
    source: str, dtype: torch.dtype, cache: ConvertCache, progress: Progress
) -> Checkpoint:
    """Open the model called `source`.

    Args:
        source: a directory, a `.gguf` file, or a hub id (`owner/name`).
        dtype: what a GGUF file is converted to.
        cache: where conversions are kept.
        progress: told of downloads and conversions.

    Raises:
        ModelLoadError: there is no such model, or it is damaged or of an unknown kind.
    """
    path = Path(os.path.expanduser(source))  # noqa: PTH111  # Path's raises for an unknown user
    try:
        if source and path.is_dir():
            return open_directory(path, progress)
        if path.is_file():
            if path.suffix.lower() != ".gguf":
                raise ModelLoadError(f"{path}: give the model's folder, a .gguf file or a hub id")
            return _open_gguf(path, dtype, cache, progress)
    except OSError as error:
        raise ModelLoadError(f"{path}: {error.strerror or first_line(error)}") from None
    if not HUB_ID.fullmatch(source) or path.suffix.lower() == ".gguf" or source[0] in "./~":
        raise ModelLoadError(f"{source!r}: no such file or folder, and no hub id (owner/name)")
    from sequoia_core.model.hub import download

    return replace(
        open_directory(download(source, progress), progress), name=source.rpartition("/")[2]
    )


def open_directory(directory: Path, progress: Progress = lambda *_: None) -> Checkpoint:
    """Open a Hugging Face directory.

    Args:
        directory: with `config.json` and weights.
        progress: called while large files are read for their digest.

    Raises:
        ModelLoadError: a file is missing or damaged, or the model is of an unknown kind.
    """
    refuse_foreign_files(directory)
    settings = read_json(directory / "config.json")
    refuse_foreign_settings(directory, settings)
    weights = open_weights(directory)
    if (stored_as := settings.get("quantization")) == {"format": int8_rows.FORMAT}:
        weights = int8_rows.UnpackedWeights(weights)
    elif stored_as is not None:
        raise ModelLoadError(f"{directory}: quantization {stored_as!r} is unknown")
    refuse_foreign_tensors(weights.origin, weights)
    try:
        config = ModelConfig.from_hf(settings)
    except ModelLoadError as error:
        raise ModelLoadError(f"{directory}: {error}") from None
    if head_is_stored(config, weights):
        config = replace(config, tie_word_embeddings=False)
    check_weights(config, weights)
    generation = directory / "generation_config.json"
    return Checkpoint(
        name=directory.resolve().name,
        config=config,
        settings=settings,
        weights=weights,
        tokenizer=(lambda: load_tokenizer(directory)) if has_tokenizer(directory) else None,
        eos_token_ids=stated_eos_ids(
            settings, read_json(generation) if generation.exists() else {}, origin=directory
        ),
        digest=_digest(config, weights.files, progress),
        stored_dtype=stored_dtype(settings, weights),
    )


def _digest(config: ModelConfig, files: Sequence[Path], progress: Progress) -> str:
    """Of the files that hold the weights, and of what the configuration makes of them."""
    message = f"Reading {files[0].name} (once)"
    digests = file_digests(files, lambda fraction: progress(message, fraction))
    return hashlib.sha256("\n".join([*digests.values(), repr(config)]).encode()).hexdigest()


def stored_dtype(settings: Mapping[str, Any], weights: Weights) -> torch.dtype | None:
    """What config.json says, in the newer or the older spelling, else what the tensors are in.

    None is a format that cannot be computed in.
    """
    stated = settings.get("dtype") or settings.get("torch_dtype")
    if isinstance(stated, str):
        return DTYPES.get(stated.removeprefix("torch."))
    matrix = next((name for name in weights if len(weights.shape(name)) > 1), None)
    found = weights.dtype(matrix) if matrix is not None else None
    return found if found in DTYPES.values() else None


def _open_gguf(
    path: Path, dtype: torch.dtype, cache: ConvertCache, progress: Progress
) -> Checkpoint:
    read = f"Reading {path.name} (once)"
    (digest,) = file_digests([path], lambda fraction: progress(read, fraction)).values()
    key = f"{digest}-{dtype_name(dtype)}-{CONVERTER_VERSION}"
    found = _kept(cache, key)
    if found is None:
        from sequoia_core.model.gguf import open_gguf

        progress(f"Converting {path.name} (once)", None)
        model = open_gguf(path)
        try:
            config = ModelConfig.from_hf(model.settings)
        except ModelLoadError as error:
            raise ModelLoadError(f"{path}: {error}") from None
        check_weights(config, model.weights)
        tokenizer = gguf_tokenizer(model.tokenizer, str(path))
        size = dtype.itemsize * sum(prod(shape) for shape in expected_shapes(config).values())
        cache.store(key, size, lambda to: _write(to, model, tokenizer, dtype, progress))
        found = _kept(cache, key) or Checkpoint(
            name="",
            config=config,
            settings=model.settings,
            weights=model.weights,
            tokenizer=lambda: tokenizer,
            eos_token_ids=stated_eos_ids(model.settings),
            digest="",
        )
    return replace(found, name=_short_name(path), digest=digest, gguf=path)


def _kept(cache: ConvertCache, key: str) -> Checkpoint | None:
    """The cache's entry opened; one that cannot be is dropped, to be made again."""
    entry = cache.find(key)
    try:
        return open_directory(entry) if entry is not None else None
    except ModelLoadError:
        cache.drop(key)
        return None


def _write(
    directory: Path,
    model: "GgufModel",
    tokenizer: "PreTrainedTokenizerBase",
    dtype: torch.dtype,
    progress: Progress,
) -> None:
    """Write a converted model as a Hugging Face directory.

    Raises:
        OSError: the disk refuses.
    """
    settings = {**model.settings, "dtype": dtype_name(dtype)}
    (directory / "config.json").write_text(json.dumps(settings, indent=1), encoding="utf-8")
    save_tokenizer(tokenizer, directory)
    shard: dict[str, Tensor] = {}
    places: dict[str, str] = {}
    for done, name in enumerate(model.weights, start=1):
        shard[name] = model.weights[name].to(dtype).contiguous()
        progress("Converting weights (once)", done / len(model.weights))
        if done == len(model.weights) or sum(each.nbytes for each in shard.values()) >= SHARD_BYTES:
            file = f"model-{len(set(places.values())) + 1:05}.safetensors"
            try:
                save_file(shard, directory / file, metadata={"format": "pt"})
            except SafetensorError as error:
                raise OSError(str(error)) from None
            places.update(dict.fromkeys(shard, file))
            shard = {}
    index = json.dumps({"weight_map": places}, indent=1)
    (directory / "model.safetensors.index.json").write_text(index, encoding="utf-8")


def _short_name(path: Path) -> str:
    """`SmolLM2-135M-Instruct.Q4_1.gguf` -> `SmolLM2-135M-Instruct`."""
    return re.sub(r"[.-](I?Q\d\w*|B?F(16|32)|fp(16|32))$", "", path.stem, flags=re.IGNORECASE)
