"""The models on this machine, by the headers of their files, and whether there is memory for them.

No weights are read.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch

from sequoia_core.config import GraphChoice, Offload, Quantize, WeightFormat
from sequoia_core.errors import ModelLoadError
from sequoia_core.files import expanded, path_exists
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import choose_placement, free_before_loading, free_bytes
from sequoia_core.model.loading.backend import choose_backend, pair_plans, uses_graphs
from sequoia_core.model.loading.catalogue import BYTES_PER_VALUE, NO_DRAFT
from sequoia_core.model.loading.device_map import placed
from sequoia_core.model.loading.loader import (
    BUNDLED_DRAFT,
    Checkpoint,
    describe_directory,
    embedded_target_path,
    known_model,
    local_copy,
    open_checkpoint,
)
from sequoia_core.model.loading.memory_plan import MemoryPlan, size_text
from sequoia_core.model.loading.ollama import pulled_file, pulled_models
from sequoia_core.model.loading.quantisation import with_quantisation
from sequoia_core.model.tensor_names import weight_values

MOST_FOLDERS = 2000  # that are looked into for models
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_MARKS = (*_WEIGHTS, "*.safetensors.index.json", "adapter_config.json")  # of a model's folder
_TOKENIZERS = ("tokenizer.json", "tokenizer.model")

Known = Checkpoint | ModelConfig


@dataclass(frozen=True, slots=True)
class LocalModel:
    source: str  # what `open_checkpoint` takes
    size: int  # bytes of its weights
    model: Known | None = None  # None if it cannot be used, or is not known
    problem: str = ""  # why not, in a few words
    here: bool = True  # otherwise it is fetched first, and `size` estimated

    @property
    def is_draft(self) -> bool:
        """See `ModelConfig.is_draft`."""
        config = self.model.config if isinstance(self.model, Checkpoint) else self.model
        return config is not None and config.is_draft


def folder_models(folder: Path, depth: int = 2) -> Iterator[LocalModel]:
    """The models below a folder, at most so many folders deep; unreadable folders are left out."""
    for path in _below(folder, depth):
        yield read_model(path, str(path))


def cached_models(cache: Path | None = None) -> Iterator[LocalModel]:
    """The models in the hub's cache: hub ids, and paths of the GGUF files of others."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        found = scan_cache_dir(cache or constants.HF_HUB_CACHE)
    except (CacheNotFound, OSError, ValueError):
        return
    for repo in sorted(found.repos, key=lambda repo: repo.repo_id.lower()):
        if repo.repo_type != "model" or not repo.revisions:
            continue
        newest = max(repo.revisions, key=lambda each: ("main" in each.refs, each.last_modified))
        folder = newest.snapshot_path
        if path_exists(folder / "config.json") or not any(folder.glob("*.gguf")):
            yield read_model(folder, repo.repo_id)
        else:
            yield from (read_model(file, str(file)) for file in sorted(folder.glob("*.gguf")))


def ollama_models() -> Iterator[LocalModel]:
    """The models that ollama has pulled: their sources are NAME:TAG."""
    yield from map(find_model, pulled_models())


def read_model(path: Path, source: str) -> LocalModel:
    """A folder or a GGUF file."""
    try:
        files = [each for name in _WEIGHTS for each in path.glob(name)] or [path]
        size = sum(file.stat().st_size for file in files if file.is_file())
        pickled = path.is_dir() and not any(path.glob(_WEIGHTS[0]))
    except OSError as error:
        return LocalModel(source, 0, problem=error.strerror or "unreadable")
    try:
        model = describe_directory(path) if pickled else open_checkpoint(str(path))
    except ModelLoadError as error:
        return LocalModel(source, size, problem=_few_words(str(error), path))
    if pickled and not size:
        return LocalModel(source, size, problem="its weights are missing")
    return LocalModel(source, size, model.config if pickled else model)


def find_model(source: str | None) -> LocalModel:
    """What is known of a model, None being the embedded one, without fetching anything."""
    path = embedded_target_path() if source is None else expanded(source)
    if source is None or path_exists(path):
        return read_model(path, str(path))
    try:
        pulled = pulled_file(source)
    except ModelLoadError as error:
        return LocalModel(source, 0, problem=_few_words(str(error), Path(source)))
    if (here := pulled or local_copy(source)) is not None:
        return read_model(here, source)
    config = known_model(source)
    size = BYTES_PER_VALUE * weight_values(config) if isinstance(config, ModelConfig) else 0
    return LocalModel(source, size, config, here=False)


def find_draft(target: str | None, draft: str | None) -> LocalModel | None:
    """As `find_model`, of the draft that `load_pair` takes for a target."""
    if draft is None and target is None:
        return read_model(BUNDLED_DRAFT, str(BUNDLED_DRAFT))
    return None if draft in (None, NO_DRAFT) else find_model(draft)


def _few_words(message: str, path: Path) -> str:
    """What is wrong, without the path and without what to do."""
    if message.startswith(str(path)):
        message = message.partition(": ")[2]
    return message.partition("; ")[0]


def _below(folder: Path, depth: int) -> Iterator[Path]:
    """Folders of models and GGUF files; hidden folders are left out."""
    level, seen = [folder], 0
    for left in reversed(range(depth + 1)):
        deeper: list[Path] = []
        for each in level:
            seen += 1
            if seen > MOST_FOLDERS:
                return
            try:
                entries = sorted(each.iterdir())
            except OSError:
                continue
            names = {entry.name for entry in entries}
            if _is_model(each, names):
                yield each
            else:
                yield from (entry for entry in entries if entry.suffix.lower() == ".gguf")
                deeper += [entry for entry in entries if left and _is_open_folder(entry)]
        level = deeper


def _is_model(folder: Path, names: set[str]) -> bool:
    if any(any(folder.glob(mark)) for mark in _MARKS):
        return True
    return "config.json" in names and not names.isdisjoint(_TOKENIZERS)


def _is_open_folder(path: Path) -> bool:
    try:
        return not path.name.startswith(".") and path.is_dir()
    except OSError:
        return False


# Memory


class MemoryRoom(NamedTuple):
    """Bytes, on the device where a pair has the least room."""

    needed: int
    free: int

    @property
    def shortage(self) -> str:
        """Why the pair does not fit; "" if it does."""
        if self.needed <= self.free:
            return ""
        return f"needs {size_text(self.needed)}, {size_text(self.free)} are free"


def limited(target: Known, context_window: int | None) -> Known:
    """A target with the context that is asked for; None is its own. See `ModelConfig.limited`."""
    return target if context_window is None else target.limited(context_window)


@dataclass(frozen=True, slots=True)
class RoomFinder:
    """Finds the memory for pairs that are loaded with these settings."""

    dtype: str = "auto"
    device: str = "auto"
    weights: WeightFormat = WeightFormat.AUTO
    offload: Offload = Offload.NONE
    graphs: GraphChoice = GraphChoice.AUTO
    tensor_parallel: int = 1
    quantize: Quantize = Quantize.NONE
    context_window: int | None = None
    held: Mapping[torch.device, int] = field(default_factory=Counter)  # what will be freed

    def room(self, target: Known, draft: Known | None) -> MemoryRoom:
        """Raises ParameterError if the settings do not go with the models."""
        rooms = [
            MemoryRoom(plan.least, free_bytes(device) + self.held.get(device, 0))
            for device, plan in self._plans(target, draft).items()
        ]
        return max(rooms, key=lambda room: room.needed - room.free)

    def weights_of(self, target: Known, draft: Known | None) -> dict[torch.device, int]:
        """Bytes that a loaded pair's weights take."""
        plans = self._plans(target, draft, free_before_loading)
        return {device: plan.weights + plan.resident for device, plan in plans.items()}

    def _plans(
        self,
        target: Known,
        draft: Known | None,
        free: Callable[[torch.device], int] = free_bytes,
    ) -> dict[torch.device, MemoryPlan]:
        target = limited(target, self.context_window)
        placement = choose_placement(self.device, self.offload, self.tensor_parallel)
        models = target, draft
        backend = choose_backend(self.weights, self.dtype, placement, models)
        backend = with_quantisation(backend, self.quantize, self.dtype, models)
        backend = placed(backend, self.device, target, draft, free)
        backend = replace(backend, graphs=uses_graphs(self.graphs, backend.placement))
        return pair_plans(target, draft, backend, free)
