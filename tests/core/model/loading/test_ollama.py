"""Models that ollama has pulled are found by name, and opened as the GGUF files that they are."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.loading import ollama
from sequoia_core.model.loading.loader import open_checkpoint
from sequoia_core.model.loading.local_models import find_model, ollama_models
from sequoia_core.model.loading.ollama import is_pulled, pulled_models
from tests.core.checkpoints import save_gguf, tiny_llama

DIGEST = "sha256:" + 64 * "0"
KIND = "application/vnd.ollama.image.model"


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of ollama's models, which is where ollama has it by default."""
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(ollama, "SERVICE", tmp_path / "service")
    return tmp_path / ".ollama" / "models"


def pull(folder: Path, name: str, *more: dict[str, str], digest: str = DIGEST) -> Path:
    """Lay a model down as ollama does; the path of its manifest."""
    manifest = folder / "manifests" / name
    manifest.parent.mkdir(parents=True, exist_ok=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.template", "digest": "sha256:" + 64 * "1"},
        {"mediaType": KIND, "digest": digest},
        *more,
    ]
    manifest.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    file = folder / "blobs" / digest.replace(":", "-")
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        save_gguf(file, tiny_llama())
    return manifest


def test_a_name_opens_the_file_that_its_manifest_names(folder: Path) -> None:
    pull(folder, "registry.ollama.ai/library/smollm/135m")
    opened = open_checkpoint("smollm:135m")
    file = folder / "blobs" / ("sha256-" + 64 * "0")
    assert opened.name == "smollm:135m"
    assert opened.weights.files == (file,)
    assert open_checkpoint(str(file)).config == opened.config  # a GGUF file by what is in it
    assert is_pulled("smollm:135m")
    assert not is_pulled("smollm:latest")
    with pytest.raises(ModelLoadError, match="no such file or folder"):
        open_checkpoint("smollm:latest")


def test_all_are_listed_as_ollama_calls_them(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("library/b/1b", "somebody/a/latest", "library/.hidden/x"):
        pull(folder, f"registry.ollama.ai/{name}")
    pull(folder, "hf.co/owner/model-GGUF/Q4_K_M")
    pull(tmp_path / "service", "registry.ollama.ai/library/b/1b")
    names = ["hf.co/owner/model-GGUF:Q4_K_M", "b:1b", "somebody/a:latest"]
    assert list(pulled_models()) == names
    assert [each.source for each in ollama_models()] == names
    assert all(each.model is not None and each.size > 0 for each in ollama_models())
    pull(tmp_path / "elsewhere", "registry.ollama.ai/library/c/2")
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "elsewhere"))
    assert list(pulled_models()) == ["c:2"]


@pytest.mark.parametrize("name", ["../../../etc:passwd", "..:..", "a/b/c/d:e", "a:", ":b", "a:b\0"])
def test_no_name_leads_out_of_the_folder(name: str, folder: Path, tmp_path: Path) -> None:
    pull(folder, "registry.ollama.ai/library/a/b")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "passwd").write_text("{}")
    assert not is_pulled(name)


def test_a_model_that_is_not_pulled_is_to_be_pulled() -> None:
    with pytest.raises(ModelLoadError, match="and ollama has it not; ollama pull a:b"):
        open_checkpoint("a:b")


def without_file(manifest: Path) -> None:
    (manifest.parents[4] / "blobs" / ("sha256-" + 64 * "0")).unlink()


def layers(*found: Any) -> Callable[[Path], None]:
    def write(manifest: Path) -> None:
        manifest.write_text(json.dumps({"layers": found}))

    return write


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (without_file, "its file is missing"),
        (lambda manifest: manifest.write_text("{"), "no readable JSON"),
        (layers("nothing"), "its manifest is damaged"),
        (layers({"mediaType": KIND, "digest": "sha256:../../x"}), "not one GGUF file"),
        (layers({"mediaType": KIND + "s", "digest": DIGEST}), "not one GGUF file"),
        (layers(*2 * [{"mediaType": KIND, "digest": DIGEST}]), "not one GGUF file"),
        (
            layers(
                {"mediaType": KIND, "digest": DIGEST},
                {"mediaType": "application/vnd.ollama.image.adapter", "digest": DIGEST},
            ),
            "it has an adapter",
        ),
    ],
)
def test_what_cannot_be_used_says_why(
    damage: Callable[[Path], object], problem: str, folder: Path
) -> None:
    damage(pull(folder, "registry.ollama.ai/library/a/b"))
    assert problem in find_model("a:b").problem
    with pytest.raises(ModelLoadError, match=problem):
        open_checkpoint("a:b")
