"""A pair whose target's layers stay on disk: loading, description, memory."""

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file

from sequoia_core.config import Offload, WeightFormat
from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.model import device as device_module
from sequoia_core.model.attention import AttentionChoice
from sequoia_core.model.device import Placement
from sequoia_core.model.loading import loader, models
from sequoia_core.model.loading import pair as pair_module
from sequoia_core.model.loading.backend import Backend, memory_plans, pair_plans
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.loading.memory_plan import PLANNED_ROWS
from sequoia_core.model.loading.pair import Pair, load_pair, with_other_draft
from sequoia_core.model.offload.model import OffloadedLlama, layer_bytes, resident_bytes
from tests.core.checkpoints import save_gguf, save_model, tiny_llama
from tests.core.checkpoints import tiny_tokenizer as tokenizer_of
from tests.core.models import fresh_logits

TOKENS = torch.arange(3, 40)
LAYERS = 6
OVERHEAD = 64 * (3072 + 2 * 4 * 32) + 147_456 + 409_600 + (512 << 20)
"""Bytes in addition to the weights: caches of 64 tokens, logits, activations, CUDA itself."""


@pytest.fixture
def target(tmp_path: Path) -> str:
    save_model(tmp_path / "target", tokenizer_of(), num_hidden_layers=LAYERS)
    return str(tmp_path / "target")


def load(target: str, draft: str | None = None, offload: Offload = Offload.DISK) -> Pair:
    return load_pair(
        target, draft, dtype="float32", device="cpu", weights=WeightFormat.TORCH, offload=offload
    )


def same_logits(target: str) -> bool:
    pairs = load(target), load(target, offload=Offload.NONE)
    return torch.equal(*(fresh_logits(pair.target, TOKENS) for pair in pairs))


def test_it_computes_what_the_resident_pair_computes(target: str) -> None:
    assert isinstance(load(target).target, OffloadedLlama)
    assert same_logits(target)


def test_shards_are_streamed_alike(tmp_path: Path) -> None:
    model = tiny_llama(num_hidden_layers=LAYERS)
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    tokenizer_of().save_pretrained(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    assert same_logits(str(tmp_path))


def test_a_gguf_file_is_refused(tmp_path: Path) -> None:
    save_gguf(tmp_path / "model.gguf", tiny_llama(num_hidden_layers=4))
    with pytest.raises(ModelLoadError, match=r"model\.gguf.*safetensors, or leave --offload out"):
        load(str(tmp_path / "model.gguf"))


def test_pickled_weights_are_refused(target: str) -> None:
    directory = Path(target)
    torch.save(load_file(directory / "model.safetensors"), directory / "pytorch_model.bin")
    (directory / "model.safetensors").unlink()
    assert fresh_logits(load(target, offload=Offload.NONE).target, TOKENS).isfinite().all()
    with pytest.raises(ModelLoadError, match="save it as safetensors, or leave --offload out"):
        load(target)


def test_only_the_target_is_streamed(target: str) -> None:
    pair = load(target, target)
    assert isinstance(pair.target, OffloadedLlama)
    assert not isinstance(pair.draft, OffloadedLlama)


def test_the_description_says_so(target: str) -> None:
    description = load(target).description
    assert description.dtype == "float32 offload disk"
    assert description.exact
    assert not load_pair(target, dtype="bfloat16", offload=Offload.DISK).description.exact


def test_the_fingerprint_follows_it(target: str) -> None:
    prints = {load(target, offload=each).fingerprint for each in (Offload.NONE, Offload.DISK)}
    assert len(prints) == 2
    assert load(target).fingerprint in prints


def test_the_fingerprint_follows_the_layers_that_stay(target: str) -> None:
    """What was measured with others is not used again."""
    pair, prints = load(target), set[str]()
    assert isinstance(pair.target, OffloadedLlama)
    for resident in (0, 2, 5):
        pair.target.resident = frozenset(range(resident))
        prints.add(with_other_draft(pair, None).fingerprint)
    assert len(prints) == 3
    assert pair.fingerprint in prints
    assert load(target, offload=Offload.NONE).fingerprint not in prints


def test_what_is_refused_is_refused_before_anything_is_read(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "open_checkpoint", pytest.fail)
    with pytest.raises(ParameterError, match="give --offload disk"):
        load(target, offload=Offload.CPU)
    for weights in (WeightFormat.INT8, WeightFormat.NATIVE):
        with pytest.raises(ParameterError, match=f"{weights.value}, but .* without offloading"):
            load_pair(target, device="cpu", weights=weights, offload=Offload.DISK)


def test_only_what_stays_must_fit_into_the_memory(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load(target).target.config
    resident = resident_bytes(config, torch.float32)
    cpu = torch.device("cpu")
    plan = memory_plans(config, None, torch.float32, Placement((cpu,), Offload.DISK))[cpu]
    assert plan.weights == resident
    kept = plan.least
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=kept))
    load(target)
    with pytest.raises(ModelLoadError, match="do not fit"):
        load(target, offload=Offload.NONE)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=kept - 1))
    with pytest.raises(ModelLoadError, match="do not fit"):
        load(target)


@pytest.mark.parametrize("resident", [0, 1, 5, LAYERS])
@pytest.mark.parametrize("offload", [Offload.CPU, Offload.DISK])
def test_as_many_layers_stay_on_a_gpu_as_fit(
    offload: Offload, resident: int, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan counts them, and they are loaded; main memory holds the others, or two."""
    model, gpu, main = open_directory(Path(target)), torch.device("cuda", 0), torch.device("cpu")
    layer = layer_bytes(model.config, torch.float32)
    kept = resident_bytes(model.config, torch.float32) + OVERHEAD
    free = kept + (resident + 1) * layer + layer // 2
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free, 0))
    backend = Backend(Placement((gpu,), offload), WeightFormat.TORCH, torch.float32)
    plans = pair_plans(model, None, backend)
    assert plans[gpu].resident_layers == resident
    assert replace(plans[gpu], rows=PLANNED_ROWS).needed(64) == kept + resident * layer
    locked = LAYERS - resident if offload is Offload.CPU else 2
    assert plans[main].weights == locked * layer
    monkeypatch.setattr(models, "attention_choice", lambda *_: AttentionChoice())
    made: list[int] = []

    def load_offloaded(*given: Any) -> SimpleNamespace:
        made.append(given[-1])
        return SimpleNamespace()

    monkeypatch.setattr(models, "load_offloaded", load_offloaded)
    monkeypatch.setattr(models, "Llama", lambda *_: SimpleNamespace())
    models.target_model(model, None, backend)
    assert made == ([resident] if resident < LAYERS else [])


@pytest.mark.parametrize(
    ("offload", "on_gpu", "in_main", "message"),
    [
        (Offload.NONE, 1 << 40, 0, None),
        (Offload.NONE, 0, 1 << 40, "free on cuda:0"),
        (Offload.CPU, OVERHEAD + 100_000, 1 << 40, None),
        (Offload.CPU, OVERHEAD + 100_000, 100_000, "free on cpu"),
        (Offload.CPU, OVERHEAD + 10_000, 1 << 40, "free on cuda:0"),
        (Offload.DISK, OVERHEAD + 100_000, 100_000, None),
        (Offload.DISK, OVERHEAD + 100_000, 20_000, "free on cpu"),
    ],
)
def test_a_gpu_needs_room_for_two_layers_and_main_memory_for_all(
    offload: Offload,
    on_gpu: int,
    in_main: int,
    message: str | None,
    target: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class EnoughError(Exception):
        """The check was passed."""

    def enough(*_: object) -> None:
        raise EnoughError

    monkeypatch.setattr(device_module, "choose_devices", lambda _: (torch.device("cuda", 0),))
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (on_gpu, 0))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=in_main))
    monkeypatch.setattr(pair_module, "pair_tokenizer", enough)
    config = open_directory(Path(target)).config
    layer = layer_bytes(config, torch.float32)
    placement = Placement((torch.device("cuda", 0),), Offload.CPU)
    plan = memory_plans(config, None, torch.float32, placement)[placement.device]
    assert plan.least - plan.weights == OVERHEAD
    assert 10_000 < resident_bytes(config, torch.float32) <= 100_000 < LAYERS * layer
    expected = ModelLoadError if message else EnoughError
    with pytest.raises(expected, match=message and re.escape(message)):
        load_pair(target, dtype="float32", offload=offload)
