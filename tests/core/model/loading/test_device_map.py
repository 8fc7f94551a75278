"""`--device auto` fills GPUs, main memory and the disk by what is free there."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from sequoia_core.config import GraphChoice, Offload, WeightFormat
from sequoia_core.errors import ModelLoadError
from sequoia_core.model.device import Placement, even_stages, placed_stages
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading import pair as pair_module
from sequoia_core.model.loading.backend import Backend, memory_plans
from sequoia_core.model.loading.device_map import CPU, placed
from sequoia_core.model.loading.pair import PairSource, load_pair
from tests.core.checkpoints import save_model, tiny_tokenizer
from tests.core.models import random_weights, tiny_config

GPUS = tuple(torch.device("cuda", index) for index in range(3))
CONFIG = tiny_config(num_layers=10, context_window=4096, hidden_size=64, vocab_size=300,
                     head_vocab_size=300)  # fmt: skip
DTYPE = torch.float32


def backend(placement: Placement) -> Backend:
    return Backend(placement, WeightFormat.TORCH, DTYPE)


def needed(placement: Placement, context: int) -> dict[torch.device, int]:
    plans = memory_plans(CONFIG, CONFIG, DTYPE, placement, lambda _: 0)
    return {device: plan.needed(context) for device, plan in plans.items()}


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Placement]:
    """Where a pair comes to lie, by what is free on the GPUs and in main memory."""

    def found(gpus: Sequence[int], main_memory: int = 0, device: str = "auto") -> Placement:
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(gpus))
        free = {**dict(zip(GPUS, gpus, strict=False)), CPU: main_memory}
        now = backend(Placement(GPUS[:1]))
        return placed(now, device, CONFIG, CONFIG, free.__getitem__).placement

    return found


WHOLE = needed(Placement(GPUS[:1]), 4096)[GPUS[0]]
LEAST = needed(Placement(GPUS[:1]), 512)[GPUS[0]]
LAYER = (
    needed(Placement(GPUS[:2], layers=(9, 1)), 4096)[GPUS[1]]
    - needed(Placement(GPUS[:2], layers=(10, 0)), 4096)[GPUS[1]]
)
OTHERS = needed(Placement(GPUS[:2], layers=(0, 10)), 4096)[GPUS[0]]  # on the first, but layers
BARE = needed(Placement(GPUS[:2], layers=(10, 0)), 4096)[GPUS[1]]  # on another, but layers


def test_one_gpu_that_holds_the_pair_stays_the_only_one(place: Callable[..., Placement]) -> None:
    assert WHOLE == OTHERS + 10 * LAYER
    for gpus in ([WHOLE], [WHOLE, WHOLE, WHOLE], [WHOLE, 10 * WHOLE]):
        assert place(gpus) == Placement(GPUS[:1])
    # alone it serves with less context
    assert place([LEAST], 10 * WHOLE) == Placement(GPUS[:1])


@pytest.mark.parametrize(
    ("layers", "counts"),
    [
        # a layer more stays free on the first, as accelerate has it
        ([7, 9, 9], (6, 4)),
        ([1, 9, 9], (0, 9, 1)),
        ([5, 3, 3], (4, 3, 3)),
        ([5, 0, 9], (4, 6)),
    ],
)
def test_layers_fill_as_few_gpus_as_hold_them(
    place: Callable[..., Placement], layers: Sequence[int], counts: Sequence[int]
) -> None:
    free = [OTHERS + layers[0] * LAYER, *(BARE + count * LAYER for count in layers[1:])]
    found = place(free)
    used = GPUS[:2] if layers[1:] != [0, 9] else (GPUS[0], GPUS[2])
    assert found == Placement(
        used[: len(counts)] if len(counts) < 3 else GPUS, layers=tuple(counts)
    )
    for device, size in needed(found, 4096).items():
        assert size <= free[GPUS.index(device)]


def test_a_whole_window_is_worth_another_gpu_and_less_of_it_is_not_worth_main_memory(
    place: Callable[..., Placement],
) -> None:
    assert LEAST < WHOLE - LAYER
    assert len(place([WHOLE - 1, WHOLE], 10 * WHOLE).devices) == 2
    assert place([LEAST, 0], 10 * WHOLE) == Placement(GPUS[:1])
    # several GPUs with the least context come before main memory
    little = place([LEAST - LAYER // 8, BARE + LAYER], 10 * WHOLE)
    assert little.offload is Offload.NONE
    assert len(little.devices) == 2


def test_what_no_gpu_holds_waits_in_main_memory_or_else_on_disk(
    place: Callable[..., Placement],
) -> None:
    streaming = Placement(GPUS[:1], Offload.CPU)
    plan = memory_plans(CONFIG, CONFIG, DTYPE, streaming, lambda _: 0)[GPUS[0]]
    least = replace(plan, resident_layers=0).least
    assert least < LEAST
    layers = 12 * plan.layer
    assert place([least], layers) == streaming
    assert place([least], 5 * plan.layer) == Placement(GPUS[:1], Offload.DISK)
    assert place([least, 0], layers) == streaming
    # nothing helps: loading refuses the first GPU in its own words
    assert place([least - 1], layers) == Placement(GPUS[:1])


def test_devices_that_are_named_are_taken_as_they_are(place: Callable[..., Placement]) -> None:
    assert place([0], 10 * WHOLE, device="cuda:0") == Placement(GPUS[:1])
    assert place([0], 10 * WHOLE, device="auto") != Placement(GPUS[:1], Offload.CPU)
    on_cpu = backend(Placement((CPU,)))
    assert placed(on_cpu, "auto", CONFIG, None, lambda _: 0) is on_cpu


def test_stages_are_those_of_the_placement() -> None:
    placement = Placement((CPU, CPU, CPU), layers=(3, 0, 7))
    stages = placed_stages(CONFIG, placement)
    assert [len(stage.layers) for stage in stages] == [3, 0, 7]
    assert [layer for stage in stages for layer in stage.layers] == list(range(10))
    total = even_stages(CONFIG, (CPU,))[0].values
    assert sum(stage.values for stage in stages) == total
    weights = random_weights(CONFIG, 0)
    logits = []
    for places in ((), stages):
        model = Llama(CONFIG, weights, CPU, DTYPE, stages=places)
        logits.append(model.forward(torch.arange(5), torch.arange(5), None, model.new_cache()))
    assert torch.equal(*logits)


@pytest.fixture
def target(tmp_path: Path) -> str:
    save_model(tmp_path / "target", tiny_tokenizer())
    return str(tmp_path / "target")


def test_without_a_gpu_auto_is_the_cpu(target: str) -> None:
    pair = load_pair(target, "none", device="auto", dtype="float32", weights=WeightFormat.TORCH)
    assert pair.description.device == "cpu"
    assert pair.source is not None
    assert pair.source.placement == Placement((CPU,))


def test_a_pair_that_fits_nowhere_is_refused_in_a_line(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 20, 0))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("", (), {"available": 1 << 40}))
    with pytest.raises(ModelLoadError, match=r"do not fit into .* free on cuda:0") as caught:
        load_pair(target, "none", dtype="float32")
    assert "\n" not in str(caught.value)


def test_what_auto_stands_for_is_said_and_remembered(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sequoia_core.model.loading.loader import open_directory

    opened, told = open_directory(Path(target)), []

    def put(placement: Placement) -> PairSource:
        def choose(now: Backend, *_: Any) -> Backend:
            return replace(now, placement=placement)

        monkeypatch.setattr(pair_module, "placed", choose)
        source = PairSource(target, "float32", "cpu", WeightFormat.AUTO, Offload.NONE)
        return source.placed(opened, None, lambda message, _: told.append(message))

    spread = put(Placement(GPUS[:2], layers=(1, 1)))
    assert told == ["The target's layers lie on cuda:0+1: 1 and 1"]
    assert put(Placement(GPUS[:1], Offload.DISK)).placement is not None
    assert told[1:] == ["Layers that do not fit into cuda:0 stay on disk until used"]
    monkeypatch.setattr(pair_module, "choose_placement", pytest.fail)
    found = replace(spread, graphs=GraphChoice.OFF).backend(opened)
    assert found.placement == spread.placement
