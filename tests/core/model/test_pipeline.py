"""A model whose layers lie on several devices is the same model.

A CPU named several times stands for the devices here: what is divided is divided all the same. What
only real devices can get wrong is in `test_pipeline_cuda`.
"""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from sequoia_core.config import Mode, Offload, SamplingParams, WeightFormat
from sequoia_core.errors import ContextFullError, ModelLoadError, ParameterError
from sequoia_core.model import device as device_module
from sequoia_core.model.conditioned import ConditionedLlama
from sequoia_core.model.device import Placement, even_stages
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading import loader
from sequoia_core.model.loading import pair as pair_module
from sequoia_core.model.loading.backend import memory_plans
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.loading.pair import Pair, load_pair
from sequoia_core.model.tensor_names import expected_shapes
from sequoia_core.tree.growmap import GrowMap
from tests.core.checkpoints import save_model
from tests.core.checkpoints import tiny_tokenizer as tokenizer_of
from tests.core.engines import make_engine, tokens_of
from tests.core.models import fresh_logits, random_weights, tiny_config, tiny_llama

CPU = torch.device("cpu")
LAYERS = 5
TOKENS = torch.arange(3, 20)
FEATURES = (0, 3, 4)
COUNTS = pytest.mark.parametrize("count", [2, 3, LAYERS])


def whole(dtype: torch.dtype = torch.float32, **changes: Any) -> Llama:
    config = tiny_config(num_layers=LAYERS, **changes)
    return Llama(config, random_weights(config, 0), CPU, dtype, feature_layers=FEATURES)


def spread(
    count: int, dtype: torch.dtype = torch.float32, others: int = 0, **changes: Any
) -> Llama:
    config = tiny_config(num_layers=LAYERS, **changes)
    stages = even_stages(config, [CPU] * count, others)
    weights = random_weights(config, 0)
    return Llama(config, weights, CPU, dtype, FEATURES, stages)


def passes(model: Llama) -> list[Tensor]:
    """Logits of a prompt, a row, a tree and, once a branch of it was kept, another row; the
    features that are held then.
    """
    cache = model.new_cache()
    logits = [model.forward(TOKENS, torch.arange(17), None, cache)]
    logits.append(model.forward(torch.tensor([5]), torch.tensor([17]), None, cache))
    growmap = GrowMap((-1, 0, 0, 1, 1, 3))
    positions = torch.tensor(growmap.depths) + 18
    logits.append(model.forward(torch.arange(6), positions, growmap.ancestor_mask(), cache))
    cache.keep(18, [18, 19, 22])
    assert cache.length == 21
    logits.append(model.forward(torch.tensor([7]), torch.tensor([21]), None, cache))
    cache.truncate(9)
    model.extend(torch.arange(30), cache)
    assert cache.length == 39
    logits.append(model.forward(torch.tensor([7]), torch.tensor([39]), None, cache))
    return [*logits, cache.features(0, cache.length)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tied", [False, True])
@COUNTS
def test_logits_and_features_are_those_of_one_device_bit_for_bit(
    count: int, tied: bool, dtype: torch.dtype
) -> None:
    expected = passes(whole(dtype, tie_word_embeddings=tied))
    found = passes(spread(count, dtype, tie_word_embeddings=tied))
    assert len({float(each.float().sum()) for each in expected}) == len(expected)
    for one, several in zip(expected, found, strict=True):
        assert torch.equal(one, several)


def test_the_first_device_may_hold_no_layer() -> None:
    model = spread(2, others=10**6)
    assert [len(stage.layers) for stage in even_stages(model.config, [CPU] * 2, 10**6)] == [0, 5]
    for one, several in zip(passes(whole()), passes(model), strict=True):
        assert torch.equal(one, several)


def test_the_cache_grows_on_every_device() -> None:
    config = tiny_config(num_layers=LAYERS, context_window=900)
    weights = random_weights(config, 0)
    stages = even_stages(config, [CPU] * 3)
    several = Llama(config, weights, CPU, torch.float32, stages=stages)
    one = Llama(config, weights, CPU, torch.float32)
    text, row = torch.arange(700) % 61, (torch.tensor([3]), torch.tensor([700]), None)
    logits = []
    for model in (one, several):
        cache = model.new_cache()
        model.extend(text, cache)
        logits.append(model.forward(*row, cache))
    assert torch.equal(*logits)


def test_a_full_context_leaves_the_cache_as_it_was() -> None:
    model = spread(2, context_window=20)
    cache = model.new_cache()
    model.extend(TOKENS, cache)
    before = cache.features(0, 17).clone()
    with pytest.raises(ContextFullError):
        model.extend(TOKENS, cache)
    assert cache.length == 17
    assert torch.equal(cache.features(0, 17), before)
    model.extend(TOKENS[:3], cache)
    assert cache.length == 20


@pytest.mark.parametrize("count", [2, 3])
def test_the_engine_writes_the_same_text(count: int) -> None:
    params = SamplingParams(temperature=0.0, max_new_tokens=24)
    texts = []
    for target in (whole(), spread(count)):
        engine = make_engine(target, tiny_llama(1), GrowMap.k_ary([3, 2, 1]), Mode.GREEDY)
        texts.append(tokens_of(list(engine.generate(TOKENS.tolist(), params))))
    assert len(texts[0]) == 24
    assert texts[0] == texts[1]


def conditioned_draft() -> ConditionedLlama:
    config = tiny_config(num_layers=1, feature_layers=FEATURES)
    return ConditionedLlama(config, random_weights(config, 1), CPU, torch.float32)


@COUNTS
def test_a_draft_reads_the_same_hidden_states(count: int) -> None:
    draft, logits = conditioned_draft(), []
    for target in (whole(), spread(count)):
        target_cache = target.new_cache()
        target.extend(TOKENS, target_cache)
        cache = draft.new_cache(target_cache)
        logits.append(draft.forward(TOKENS, torch.arange(17), None, cache))
    assert torch.equal(*logits)
    blind = fresh_logits(draft, TOKENS)
    assert not torch.equal(blind, logits[0])


@given(
    layers=st.integers(1, 30),
    count=st.integers(1, 6),
    others=st.integers(0, 200_000),
    tied=st.booleans(),
)
def test_stages_hold_every_layer_once_and_are_as_even_as_can_be(
    layers: int, count: int, others: int, tied: bool
) -> None:
    config = tiny_config(num_layers=layers, tie_word_embeddings=tied)
    if layers < count:
        with pytest.raises(ParameterError, match=f"has {layers} layers, too few for the {count}"):
            even_stages(config, [CPU] * count, others)
        return
    stages = even_stages(config, [CPU] * count, others)
    assert [layer for stage in stages for layer in stage.layers] == list(range(layers))
    sizes = expected_shapes(config).values()
    assert sum(stage.values for stage in stages) == sum(torch.Size(each).numel() for each in sizes)
    held = [stages[0].values + others, *(stage.values for stage in stages[1:])]
    lengths = [len(stage.layers) for stage in stages]
    assert all(lengths[1:])
    assert max(lengths[1:], default=0) - min(lengths[1:], default=0) <= 1
    a_layer = (sum(stage.values for stage in stages) - rest_of(config)) // layers
    assert fullest(layers, count, a_layer, rest_of(config) + others) == max(held)


def rest_of(config: Any) -> int:
    """Values in no layer."""
    shapes = expected_shapes(config)
    return sum(torch.Size(shape).numel() for name, shape in shapes.items() if "layers" not in name)


def fullest(layers: int, count: int, layer: int, rest: int) -> int:
    """What the fullest device holds of the best split, by trying bounds from below."""
    for bound in sorted([rest + n * layer for n in range(layers + 1)] + [
        n * layer for n in range(layers + 1)
    ]):  # fmt: skip
        room = (bound - rest) // layer if bound >= rest else -1
        others = (count - 1) * (bound // layer)
        if room >= 0 and min(room, layers) + others >= layers:
            return bound
    raise AssertionError


@pytest.fixture
def target(tmp_path: Path) -> str:
    save_model(tmp_path / "target", tokenizer_of(), num_hidden_layers=LAYERS)
    return str(tmp_path / "target")


def load(target: str, device: str, draft: str | None = None, **options: Any) -> Pair:
    torch_forward = {"weights": WeightFormat.TORCH, **options}
    return load_pair(target, draft, dtype="float32", device=device, **torch_forward)


def test_a_pair_loads_onto_several_devices(target: str) -> None:
    one, several = load(target, "cpu", target), load(target, "cpu,cpu,cpu", target)
    assert isinstance(several.target, Llama)
    assert isinstance(several.draft, Llama)
    assert [len(model._stages) for model in (several.target, several.draft)] == [3, 1]
    logits = []
    for pair in (one, several):
        cache = pair.target.new_cache()
        logits.append(pair.target.forward(TOKENS, torch.arange(17), None, cache))
    assert torch.equal(*logits)
    assert several.description.device == "cpu+cpu+cpu"
    assert len({one.fingerprint, several.fingerprint, load(target, "cpu,cpu").fingerprint}) == 3


def test_layers_that_are_brought_to_one_device_are_not_spread(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loader, "open_checkpoint", pytest.fail)
    for offload in (Offload.DISK, Offload.CPU):
        with pytest.raises(ParameterError, match="2 devices are named; name one of them or leave"):
            load(target, "cpu,cpu", offload=offload)


def test_more_devices_than_layers_are_refused(target: str) -> None:
    with pytest.raises(ParameterError, match="has 5 layers, too few for the 6 devices"):
        load(target, ",".join(["cpu"] * 6))


class EnoughError(Exception):
    """The check was passed."""


def stop(*_: object) -> None:
    raise EnoughError


def gpus_with(free: Sequence[int], monkeypatch: pytest.MonkeyPatch) -> None:
    devices = tuple(torch.device("cuda", index) for index in range(len(free)))
    monkeypatch.setattr(device_module, "choose_devices", lambda _: devices)
    monkeypatch.setattr(torch.cuda, "set_device", lambda _: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free[device.index], 0))
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=0))
    monkeypatch.setattr(pair_module, "pair_tokenizer", stop)


@pytest.mark.parametrize("drafted", [False, True])
def test_each_device_needs_room_for_its_own_part(
    drafted: bool, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = open_directory(Path(target)).config
    devices = tuple(torch.device("cuda", index) for index in range(2))
    placement = Placement(devices)
    plans = memory_plans(config, config if drafted else None, torch.float32, placement)
    size = sum(torch.Size(shape).numel() for shape in expected_shapes(config).values())
    others = size if drafted else 0
    stages = even_stages(config, devices, others)
    assert [plans[stage.device].weights for stage in stages] == [
        4 * (stages[0].values + others), 4 * stages[1].values,
    ]  # fmt: skip
    assert plans[devices[1]].logits == 0 < plans[devices[0]].logits
    needed = [plans[device].least for device in devices]
    draft = target if drafted else None
    gpus_with(needed, monkeypatch)
    with pytest.raises(EnoughError):
        load(target, "", draft)
    for short in range(2):
        gpus_with([have - (at == short) for at, have in enumerate(needed)], monkeypatch)
        with pytest.raises(ModelLoadError, match=f"target: .* free on cuda:{short};") as caught:
            load(target, "", draft)
        assert "\n" not in str(caught.value)


def test_one_memory_named_twice_needs_room_for_everything(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = open_directory(Path(target)).config
    place = torch.device("cpu")
    placement = Placement((place, place))
    plan = memory_plans(config, None, torch.float32, placement)[place]
    size = 4 * sum(torch.Size(shape).numel() for shape in expected_shapes(config).values())
    assert plan.weights == size
    for have, expected in ((plan.least, EnoughError), (plan.least - 1, ModelLoadError)):
        free = SimpleNamespace(available=have)
        monkeypatch.setattr(psutil, "virtual_memory", lambda free=free: free)
        monkeypatch.setattr(pair_module, "pair_tokenizer", stop)
        with pytest.raises(expected):
            load(target, "cpu,cpu")
