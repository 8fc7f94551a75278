"""Models that ollama has pulled: GGUF files, which its manifests name by their digests."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from sequoia_core.errors import ModelLoadError
from sequoia_core.files import expanded
from sequoia_core.model.loading.model_files import read_json

SERVICE = Path("/usr/share/ollama/.ollama/models")  # of the service that its installer sets up
_HOST, _NAMESPACE = "registry.ollama.ai", "library"  # left out of names
_NAME = re.compile(r"(?:(?:(\w[\w.-]*)/)?(\w[\w.-]*)/)?(\w[\w.-]*):(\w[\w.-]*)")
_KIND = "application/vnd.ollama.image."  # of what a manifest lists
_DIGEST = re.compile(r"sha256[:-][0-9a-f]{64}")


def pulled_models() -> Iterator[str]:
    """NAME:TAG of each, as `ollama list` writes them."""
    for folder in _folders():
        for manifest in sorted((folder / "manifests").glob("*/*/*/*")):
            host, namespace, name, tag = manifest.parts[-4:]
            known = [host, namespace] if host != _HOST else [namespace]
            parts = [] if known == [_NAMESPACE] else known
            found = "/".join([*parts, f"{name}:{tag}"])
            if _manifest(found) == manifest:  # otherwise no name leads to it
                yield found


def is_pulled(name: str) -> bool:
    """Whether ollama has a model called NAME:TAG."""
    return _manifest(name) is not None


def is_tagged(name: str) -> bool:
    """Whether a name is one of ollama's: NAME:TAG."""
    return _NAME.fullmatch(name) is not None


def pulled_file(name: str) -> Path | None:
    """The GGUF file of NAME:TAG; None if there is no such model.

    Raises ModelLoadError if it cannot be used: its manifest is damaged, its file is missing, or it
    is more than one GGUF file.
    """
    manifest = _manifest(name)
    if manifest is None:
        return None
    layers = read_json(manifest).get("layers")
    try:
        kinds = [(str(layer["mediaType"]), str(layer["digest"])) for layer in layers or ()]
    except (LookupError, TypeError):
        raise ModelLoadError(f"{name}: its manifest is damaged; ollama pull {name}") from None
    if any(kind == f"{_KIND}adapter" for kind, _ in kinds):
        raise ModelLoadError(f"{name}: it has an adapter; merge it into the model")
    digests = [digest for kind, digest in kinds if kind == f"{_KIND}model"]
    if len(digests) != 1 or not _DIGEST.fullmatch(digests[0]):
        raise ModelLoadError(f"{name}: it is not one GGUF file; take another tag")
    file = manifest.parents[4] / "blobs" / digests[0].replace(":", "-")
    if not file.is_file():
        raise ModelLoadError(f"{name}: its file is missing; ollama pull {name}")
    return file


def _manifest(name: str) -> Path | None:
    if (match := _NAME.fullmatch(name)) is None:
        return None
    host, namespace, model, tag = match.groups()
    for folder in _folders():
        path = folder / "manifests" / (host or _HOST) / (namespace or _NAMESPACE) / model / tag
        if os.path.isfile(path):  # noqa: PTH113  # Path's raises where it may not look
            return path
    return None


def _folders() -> list[Path]:
    if named := os.environ.get("OLLAMA_MODELS"):
        return [expanded(named)]
    return [Path.home() / ".ollama" / "models", SERVICE]
