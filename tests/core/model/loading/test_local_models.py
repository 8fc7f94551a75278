"""The models on a machine are listed by the headers of their files, with what is wrong."""

import json
from pathlib import Path

import gguf
import psutil
import pytest
import torch
from safetensors.torch import load_file

from sequoia_core.config import Quantize, WeightFormat
from sequoia_core.errors import ModelLoadError, ParameterError, TokenizerMismatchError
from sequoia_core.model import device
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import choose_placement
from sequoia_core.model.loading import loader, local_models
from sequoia_core.model.loading.backend import choose_backend
from sequoia_core.model.loading.catalogue import find_pair
from sequoia_core.model.loading.loader import Checkpoint, embedded_target_path
from sequoia_core.model.loading.local_models import (
    LocalModel,
    RoomFinder,
    cached_models,
    find_draft,
    find_model,
    folder_models,
)
from sequoia_core.model.loading.pair import check_tokenizers
from sequoia_core.model.native import matrices
from tests.core.checkpoints import edit_settings, save_gguf, save_model, tiny_llama, tiny_tokenizer
from tests.core.models import tiny_config

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub, and no way to the hub itself."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("sequoia_core.model.loading.hub.snapshot_download", None)
    return tmp_path / "hub"


def cached_folder(cache: Path, repo: str) -> Path:
    """The folder of a model's files in a cache."""
    root = cache / f"models--{repo.replace('/', '--')}"
    (root / "refs").mkdir(parents=True)
    (root / "refs" / "main").write_text(COMMIT)
    (root / "blobs").mkdir()
    (root / "snapshots" / COMMIT).mkdir(parents=True)
    return root / "snapshots" / COMMIT


@pytest.fixture
def no_weights_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("weights were read")

    for where in ("weights.SafetensorsWeights", "gguf.GgufWeights", "weights.Weights"):
        monkeypatch.setattr(f"sequoia_core.model.loading.{where}.__getitem__", read)
    monkeypatch.setattr("sequoia_core.model.loading.weights.read_pickles", read)


def pickled(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")


def test_a_folders_models_are_found_with_what_is_wrong(
    tmp_path: Path, no_weights_are_read: None
) -> None:
    save_model(tmp_path / "whole", tiny_tokenizer())
    save_model(tmp_path / "deeper" / "pickled")
    pickled(tmp_path / "deeper" / "pickled")
    save_gguf(tmp_path / "deeper" / "small.gguf", tiny_llama())
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    save_model(tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    save_model(tmp_path / "other")
    edit_settings(tmp_path / "other", model_type="gpt2")
    save_model(tmp_path / "bare", tiny_tokenizer())
    (tmp_path / "bare" / "model.safetensors").unlink()
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "no model").mkdir()
    (tmp_path / "no model" / "config.json").write_text("{}")
    save_model(tmp_path / ".hidden")
    save_model(tmp_path / "a" / "b" / "c" / "too deep")

    found = {Path(each.source).name: each for each in folder_models(tmp_path)}
    assert {name: each.problem for name, each in found.items()} == {
        "whole": "", "pickled": "", "small.gguf": "",
        "broken.gguf": found["broken.gguf"].problem,
        "cut": found["cut"].problem,
        "other": "model_type is 'gpt2'",
        "bare": "its weights are missing",
        "adapter": "a LoRA or other PEFT adapter, not a whole model",
    }  # fmt: skip
    assert found["broken.gguf"].problem.startswith("truncated or no GGUF file")
    assert found["cut"].problem.startswith("truncated or no safetensors file")
    assert all((each.model is None) == bool(each.problem) for each in found.values())
    whole = tmp_path / "whole" / "model.safetensors"
    assert found["whole"].size == whole.stat().st_size
    assert found["whole"].source == str(tmp_path / "whole")


def test_the_hubs_cache_is_listed_by_ids(cache: Path, no_weights_are_read: None) -> None:
    assert list(cached_models()) == []
    save_model(cached_folder(cache, "owner/tiny"), tiny_tokenizer())
    save_gguf(cached_folder(cache, "owner/files") / "tiny.Q8_0.gguf", tiny_llama())
    bert = cached_folder(cache, "owner/bert")
    (bert / "config.json").write_text(json.dumps({"model_type": "bert"}))
    found = {each.source.rpartition("/")[2]: each for each in cached_models()}
    assert list(found) == ["bert", "tiny.Q8_0.gguf", "tiny"]
    assert found["tiny"].source == "owner/tiny"
    assert isinstance(found["tiny"].model, Checkpoint)
    assert found["bert"].problem == "model_type is 'bert'"


def test_a_model_is_found_without_fetching_it(cache: Path) -> None:
    save_model(cached_folder(cache, "owner/tiny"), tiny_tokenizer())
    shape_only = find_model("meta-llama/Llama-3.1-8B-Instruct")
    assert not shape_only.here
    assert 15 * 2**30 > shape_only.size > 14 * 2**30
    assert find_model("owner/tiny").here
    for unknown in ("owner/unknown", f"owner/{'x' * 300}"):
        assert find_model(unknown) == LocalModel(unknown, 0, here=False)
    assert find_model(None).source == str(embedded_target_path())
    bundled = find_draft(None, None)
    assert bundled is not None
    assert bundled.is_draft
    assert find_draft(None, "none") is None
    assert find_draft("owner/tiny", None) is None


def test_a_cached_model_is_here_only_with_all_its_files(cache: Path) -> None:
    folder = cached_folder(cache, "owner/tiny")
    tiny_llama().save_pretrained(folder, max_shard_size="20KB")
    assert loader.local_copy("owner/tiny") == folder
    assert not loader.is_fetched_first("owner/tiny")
    next(folder.glob("*.safetensors")).unlink()
    assert loader.local_copy("owner/tiny") is None
    assert loader.is_fetched_first("owner/tiny")
    (folder / "model.safetensors.index.json").write_text("{}")
    assert not find_model("owner/tiny").here
    assert not loader.is_fetched_first(None)
    assert not loader.is_fetched_first("none")


def test_tokenizers_are_compared_by_files_alone(
    tmp_path: Path, cache: Path, no_weights_are_read: None
) -> None:
    save_model(tmp_path / "target", tiny_tokenizer())
    save_model(tmp_path / "same", tiny_tokenizer(), num_hidden_layers=1)
    other = cached_folder(cache, "owner/other")
    save_model(other, tiny_tokenizer(first="a"), num_hidden_layers=1)
    target = str(tmp_path / "target")
    check_tokenizers(target, str(tmp_path / "same"))
    check_tokenizers(target, None)
    with pytest.raises(TokenizerMismatchError, match="take one of the same family"):
        check_tokenizers(target, "owner/other")


def test_tokenizers_are_compared_before_weights_are_fetched(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "target", tiny_tokenizer())
    save_model(tmp_path / "files", tiny_tokenizer(first="a"), num_hidden_layers=1)
    (tmp_path / "files" / "model.safetensors").unlink()
    wanted: list[tuple[str, ...]] = []

    def fetched(repo: str, *, allow_patterns: list[str], **_: object) -> str:
        wanted.append((repo, *(name for name in allow_patterns if "safetensors" in name)))
        return str(tmp_path / "files")

    monkeypatch.setattr("sequoia_core.model.loading.hub.snapshot_download", fetched)
    from sequoia_core.model.loading.pair import load_pair

    with pytest.raises(TokenizerMismatchError):
        load_pair(str(tmp_path / "target"), "owner/draft", device="cpu")
    assert wanted == [("owner/draft",)]


def test_memory_counts_what_the_pair_in_use_will_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "target", tiny_tokenizer())
    model = find_model(str(tmp_path / "target")).model
    assert model is not None
    finder = RoomFinder(device="cpu")
    needed = finder.room(model, model).needed
    assert needed > finder.room(model, None).needed > 0
    held = finder.weights_of(model, None)
    memory = psutil.virtual_memory()._replace(available=needed - 1)
    monkeypatch.setattr("psutil.virtual_memory", lambda: memory)
    assert "are free" in finder.room(model, model).shortage
    assert not RoomFinder(device="cpu", held=held).room(model, model).shortage


def test_memory_is_that_of_the_context_that_is_asked_for(tmp_path: Path) -> None:
    save_model(tmp_path / "target", tiny_tokenizer())
    model = find_model(str(tmp_path / "target")).model
    assert model is not None
    whole, part = (
        RoomFinder(device="cpu", context_window=tokens).room(model, None) for tokens in (64, 16)
    )
    assert RoomFinder(device="cpu").room(model, None).needed == whole.needed > part.needed
    for each, name in ((model, "target"), (tiny_config(), "the target")):
        with pytest.raises(ParameterError, match=f"context_window is 999, but {name} has "):
            RoomFinder(device="cpu", context_window=999).room(each, None)


def test_looking_for_models_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(6):
        save_model(tmp_path / str(number))
    monkeypatch.setattr(local_models, "MOST_FOLDERS", 4)
    assert [Path(each.source).name for each in folder_models(tmp_path)] == ["0", "1", "2"]
    assert list(folder_models(tmp_path / "nowhere")) == []


def test_what_is_wrong_is_said_in_full_where_it_is_loaded(tmp_path: Path) -> None:
    save_model(tmp_path / "other")
    edit_settings(tmp_path / "other", model_type="gpt2")
    with pytest.raises(ModelLoadError, match="only these are supported"):
        check_tokenizers(str(tmp_path / "other"), str(tmp_path / "other"))


def test_a_target_that_is_not_opened_is_rounded_whatever_its_draft_is_stored_in(
    tmp_path: Path,
) -> None:
    shape = {"hidden_size": 64, "intermediate_size": 96}
    target = tiny_config()
    save_gguf(tmp_path / "draft.gguf", tiny_llama(**shape), gguf.GGMLQuantizationType.Q8_0)
    draft = loader.open_checkpoint(str(tmp_path / "draft.gguf"))
    whole, rounded = (
        RoomFinder(device="cpu", quantize=kind).room(target, draft)
        for kind in (Quantize.NONE, Quantize.INT4)
    )
    assert rounded.needed < whole.needed


@pytest.mark.parametrize("target", [None, tiny_config()], ids=["unknown", "its shape is known"])
def test_a_target_that_is_not_opened_has_not_the_format_of_its_draft(
    target: ModelConfig | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "cpu_multiplies_bfloat16", lambda: True)
    save_model(tmp_path, tiny_tokenizer())
    draft = loader.open_checkpoint(str(tmp_path))
    assert draft.stored_dtype is torch.float32
    cpu = choose_placement("cpu")
    chosen = choose_backend(WeightFormat.TORCH, "auto", cpu, (target, draft))
    assert chosen.dtype is torch.bfloat16
    assert choose_backend(WeightFormat.TORCH, "auto", cpu, (draft, None)).dtype is torch.float32


def test_a_draft_in_blocks_is_no_target_that_int8_would_not_change(tmp_path: Path) -> None:
    save_gguf(tmp_path / "draft.gguf", tiny_llama(), gguf.GGMLQuantizationType.F32)
    save_gguf(
        tmp_path / "blocks.gguf",
        tiny_llama(hidden_size=64, intermediate_size=96),
        gguf.GGMLQuantizationType.Q8_0,
    )
    cpu = choose_placement("cpu")
    blocks = loader.open_checkpoint(str(tmp_path / "blocks.gguf"))
    for target in (None, tiny_config(), loader.open_checkpoint(str(tmp_path / "draft.gguf"))):
        assert choose_backend(WeightFormat.INT8, "auto", cpu, (target, blocks)).native
    with pytest.raises(ParameterError, match="blocks is stored as Q8_0, which stays as it is"):
        choose_backend(WeightFormat.INT8, "auto", cpu, (blocks, None))


def test_which_forward_computes_a_target_that_is_not_opened_follows_from_its_shape(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(matrices, "FEATURES", matrices.FEATURES - {"norm_outputs"})
    cpu, gemma = choose_placement("cpu"), find_pair("gemma-2-9b")
    chosen = choose_backend(WeightFormat.AUTO, "auto", cpu, (gemma.target.config, None))
    assert not chosen.native
    assert chosen.fallback == "the native forward computes no norm outputs, which the target has"
    llama = find_pair("llama-2-7b")
    models = llama.target.config, llama.draft.config
    assert choose_backend(WeightFormat.AUTO, "auto", cpu, models).native


def test_auto_rounds_a_target_that_is_not_opened_as_it_is_loaded() -> None:
    shape = find_pair("llama-2-7b").target.config
    rooms = {
        kind: RoomFinder(device="cpu", quantize=kind).room(shape, None).needed
        for kind in (Quantize.AUTO, Quantize.INT8, Quantize.INT4, Quantize.NONE)
    }
    assert rooms[Quantize.AUTO] in (rooms[Quantize.INT8], rooms[Quantize.INT4])
    assert rooms[Quantize.AUTO] < rooms[Quantize.NONE]
