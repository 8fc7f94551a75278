"""Fetching a model from the Hugging Face hub into its usual cache."""

import io
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub import constants, errors, snapshot_download, try_to_load_from_cache
from huggingface_hub.utils import logging, tqdm  # type: ignore[attr-defined]  # documented there

from sequoia_core.errors import ModelLoadError
from sequoia_core.events import Progress
from sequoia_core.model.loading.model_files import first_line
from sequoia_core.model.loading.weights import shards

PLAIN_FILES = ("*.json", "tokenizer.model", "merges.txt", "*.jinja")
SAFETENSORS, PICKLES = "model*.safetensors", "pytorch_model*.bin"


def download(repo_id: str, progress: Progress) -> Path:
    """The local folder of a hub model `owner/name`; files that are missing are fetched."""
    folder = _fetch(repo_id, [SAFETENSORS], progress)
    index = folder / "model.safetensors.index.json"
    if index.exists():  # its parts may have any names
        return _fetch(repo_id, [part.name for part in shards(index)], progress)
    if any(folder.glob(SAFETENSORS)):
        return folder
    return _fetch(repo_id, [PICKLES], progress)


def download_settings(repo_id: str, progress: Progress) -> Path:
    """As `download`, without the weights."""
    return _fetch(repo_id, [], progress)


def cached(repo_id: str) -> Path | None:
    """The folder of a hub model whose files are all in the cache."""
    try:
        settings = try_to_load_from_cache(repo_id, "config.json")
        if not isinstance(settings, str):
            return None
        folder = Path(settings).parent
        index = folder / "model.safetensors.index.json"
        if index.exists():
            return folder if all(part.exists() for part in shards(index)) else None
    except (errors.HFValidationError, ModelLoadError, OSError):
        return None  # the download says what is wrong
    return folder if any(folder.glob(SAFETENSORS)) or any(folder.glob(PICKLES)) else None


def _fetch(repo_id: str, weights: list[str], progress: Progress) -> Path:
    # its warnings would go to the screen
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    bar = type("Bar", (_Bar,), {"report": partial(progress, f"Downloading {repo_id}")})
    try:
        return Path(
            snapshot_download(
                repo_id,
                allow_patterns=[*PLAIN_FILES, *weights],
                ignore_patterns=["*/*"],
                tqdm_class=bar,
            )
        )
    except errors.GatedRepoError:
        problem = (
            f"access is gated; accept its terms at {constants.ENDPOINT}/{repo_id} and set HF_TOKEN"
        )
    except errors.RepositoryNotFoundError:
        problem = "no such model on the hub; check the name, or set HF_TOKEN if it is private"
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled):
        problem = (
            "the hub cannot be reached and there is no complete local copy; connect once, or give "
            "a folder or a .gguf file"
        )
    except Exception as error:  # the HTTP library has its own hierarchy
        problem = f"download failed ({first_line(error)})"
    raise ModelLoadError(f"{repo_id}: {problem}")


class _Bar(tqdm):
    """Reports the bytes fetched instead of drawing."""

    report: Callable[[float], None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        options = {**kwargs, "file": io.StringIO(), "disable": False}
        super().__init__(*args, **options)  # type: ignore[no-untyped-call]

    def display(self, *_args: Any, **_options: Any) -> None:
        if self.unit == "B" and self.total and self.n:
            self.report(min(1.0, self.n / self.total))
