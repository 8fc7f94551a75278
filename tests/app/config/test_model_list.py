"""What a chat can switch to, by real files: listed with memory, and checked before it is loaded."""

from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from app.config.model_choice import load_chosen, with_draft, with_target
from app.config.model_list import (
    CATALOGUE,
    HUB_CACHE,
    OLLAMA,
    ModelKind,
    ModelLoader,
    ModelRow,
    chosen,
)
from app.config.settings import Settings
from sequoia_core.errors import ModelLoadError, ParameterError, TokenizerMismatchError
from sequoia_core.model.loading.loader import BUNDLED_DRAFT
from tests.core.checkpoints import edit_settings, save_model, tiny_tokenizer
from tests.core.model.loading.test_local_models import cache, cached_folder  # noqa: F401 a fixture
from tests.core.model.loading.test_ollama import pull

CPU = Settings(device="cpu")


@pytest.fixture
def folder(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """The working directory, with models in it, in the configuration's folder and in the cache."""
    work = tmp_path / "work"
    save_model(work / "target", tiny_tokenizer())
    (work / "draft").symlink_to(BUNDLED_DRAFT, target_is_directory=True)
    save_model(work / "small", tiny_tokenizer(), num_hidden_layers=1)
    save_model(work / "other", tiny_tokenizer(first="a"), num_hidden_layers=1)
    save_model(tmp_path / "config" / "sequoia" / "models" / "mine", tiny_tokenizer())
    save_model(cached_folder(cache, "owner/tiny"), tiny_tokenizer())
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.delenv("OLLAMA_MODELS", raising=False)
    monkeypatch.chdir(work)
    return work


def rows(kind: ModelKind, settings: Settings) -> dict[str, ModelRow]:
    return {each.name: each for each in ModelLoader().rows(kind, settings)}


def silent(_message: str, _fraction: float | None) -> None:
    """Reports nothing."""


def leave_free(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    memory = psutil.virtual_memory()._replace(available=size)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)


def test_targets_are_listed_by_place_with_the_one_in_use(folder: Path) -> None:
    settings = with_target(CPU, str(folder / "target"))
    found = rows(ModelKind.TARGET, settings)
    places = {name: each.place for name, each in found.items()}
    assert places["llama-2-7b"] == CATALOGUE
    assert places["target"] == places["small"] == "This folder"
    assert places["mine"].endswith("models")
    assert places["owner/tiny"] == HUB_CACHE
    assert [name for name, each in found.items() if each.in_use] == ["target"]
    target = found["target"]
    assert target.needed > 0
    assert target.size == (folder / "target" / "model.safetensors").stat().st_size
    assert target.settings == settings
    assert "/draft takes it" in found["draft"].problem
    assert not found["llama-3.1-8b"].here
    assert "accept its licence" in found["llama-3.1-8b"].detail


def test_drafts_are_listed_with_none_and_the_targets_own(folder: Path) -> None:
    assert list(rows(ModelKind.DRAFT, CPU))[:2] == ["none", "bundled draft"]
    settings = with_draft(with_target(CPU, str(folder / "target")), "none")
    found = rows(ModelKind.DRAFT, settings)
    assert "bundled draft" not in found
    assert found["none"].in_use
    assert found["small"].needed > found["none"].needed
    assert found["small"].settings == with_draft(settings, str(folder / "small"))


def test_what_does_not_fit_says_what_it_needs(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_free(monkeypatch, 1 << 20)
    now = with_target(CPU, str(folder / "small"))
    found = rows(ModelKind.TARGET, now)
    assert found["llama-2-7b"].problem.endswith("MiB are free")
    with pytest.raises(ModelLoadError, match="choose a smaller model, or start with --offload"):
        ModelLoader().check(with_target(CPU, "llama-2-7b"), now)


def test_a_model_without_the_context_that_is_asked_for_cannot_be_chosen(folder: Path) -> None:
    now = replace(with_target(CPU, "llama-2-7b"), context_window=1000)
    words = "context_window is 1000, but small has 64 tokens of context; give 1 to"
    assert rows(ModelKind.TARGET, now)["small"].problem.startswith(words)
    with pytest.raises(ParameterError, match=words):
        ModelLoader().check(with_target(now, str(folder / "small")), now)


def test_others_can_be_chosen_where_the_settings_own_pair_cannot_be_loaded(folder: Path) -> None:
    now = replace(with_target(CPU, str(folder / "small")), context_window=1000)
    found = rows(ModelKind.TARGET, now)
    assert found["small"].problem.startswith("context_window is 1000")
    assert found["llama-2-7b"].problem == ""
    assert ModelLoader().check(with_target(now, "llama-2-7b"), now)


def test_both_pairs_stay_only_where_memory_holds_both(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, wanted = (with_target(CPU, str(folder / name)) for name in ("target", "small"))
    assert ModelLoader().check(wanted, now)
    needed = rows(ModelKind.TARGET, now)["small"].needed
    leave_free(monkeypatch, needed - 1)  # enough once the weights in use are gone
    assert not ModelLoader().check(wanted, now)


def test_what_ollama_has_pulled_is_listed_and_taken_by_its_name(folder: Path) -> None:
    pulled = Path.home() / ".ollama" / "models"
    pull(pulled, "registry.ollama.ai/library/smollm/135m")
    pull(pulled, "registry.ollama.ai/library/broken/1b").write_text("{}")
    found = rows(ModelKind.TARGET, CPU)
    assert found["smollm:135m"].place == OLLAMA
    assert found["smollm:135m"].needed > 0
    assert found["smollm:135m"].settings == replace(CPU, target="smollm:135m")
    assert "not one GGUF file" in found["broken:1b"].problem
    assert rows(ModelKind.DRAFT, CPU)["smollm:135m"].settings == replace(CPU, draft="smollm:135m")
    assert chosen(ModelKind.TARGET, CPU, "smollm:135m").target == "smollm:135m"
    pair = load_chosen(found["smollm:135m"].settings, silent)
    assert pair.description.target == "smollm:135m"


def test_with_another_draft_the_target_stays(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = with_draft(with_target(CPU, str(folder / "target")), "none")
    wanted = with_draft(now, str(folder / "small"))
    loader, told = ModelLoader(), list[str]()
    chat = loader.load(now, silent)
    needed = rows(ModelKind.DRAFT, now)["small"].needed
    with monkeypatch.context() as patch:
        leave_free(patch, needed - 1)  # for a whole pair one byte too little
        assert loader.check(wanted, now, chat)
        assert not loader.check(wanted, now)
    other = loader.load(wanted, lambda message, _: told.append(message), chat)
    assert told == ["Comparing the tokenizers", "Loading small"]
    assert (other.description.target, other.description.draft) == ("target", "small")
    told.clear()
    elsewhere = with_draft(with_target(CPU, str(folder / "small")), "none")
    whole = loader.load(elsewhere, lambda message, _: told.append(message), other)
    assert whole.description.target == "small"
    assert "Loading small" in told


def test_a_pair_is_compared_before_it_is_loaded(folder: Path) -> None:
    target = with_target(CPU, str(folder / "target"))
    assert ModelLoader().check(with_draft(target, str(folder / "small")), target)
    with pytest.raises(TokenizerMismatchError, match="take one of the same family"):
        ModelLoader().check(with_draft(target, str(folder / "other")), target)
    edit_settings(folder / "other", model_type="gpt2")
    with pytest.raises(ModelLoadError, match="model_type is 'gpt2'; only these"):
        ModelLoader().check(with_draft(target, str(folder / "other")), target)
