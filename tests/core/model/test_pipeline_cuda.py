"""A model on several CUDA devices, as far as it can be seen without one; see `test_cuda_fake`.

No part of this ran on real devices: shapes, devices and waiting are proved, values are not.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sequoia_core.model.conditioned import ConditionedLlama
from sequoia_core.model.device import Stage, even_stages
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.llama import Llama
from sequoia_core.tree.growmap import GrowMap
from tests.core.model.test_cuda_fake import ATEN, OPERATORS, WithoutGuards
from tests.core.models import random_weights, tiny_config

DEVICES = tuple(torch.device("cuda", index) for index in range(3))
HOST = torch.device("cpu")
COUNTS = pytest.mark.parametrize("count", [2, 3])
LAYERS = 4
FEATURES = (0, 3)
GROWMAP = GrowMap((-1, 0, 0, 0, 1, 1, 3, 4, 7))


class Copies(WithoutGuards):
    """Counts what goes from one device to another, and lets it go no other way than by `to`."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int, int]] = []
        """From, to, numbers."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in (torch.Tensor.to, torch.Tensor.cpu) and args[0].is_cuda:
            return self._to(*args, **(kwargs or {}))
        if func is torch.Tensor.copy_:
            assert args[0].device == args[1].device, "copied between devices by copy_"
        return super().__torch_function__(func, types, args, kwargs)

    def _to(
        self,
        x: Tensor,
        target: torch.device | torch.dtype = HOST,
        *,
        non_blocking: bool = False,
    ) -> Any:
        if isinstance(target, torch.dtype):
            return x if x.dtype is target else ATEN._to_copy.default(x, dtype=target)
        assert target.type == "cuda", "a copy to the host waits for the device"
        if x.device == target:
            return x
        assert non_blocking, "the host waits for the copy unless it is non_blocking"
        self.seen.append((x.device.index, target.index, x.numel()))
        return ATEN._to_copy.default(x, device=target, non_blocking=True)


@pytest.fixture(autouse=True)
def copies() -> Iterator[Copies]:
    assert torch.Tensor.to not in OPERATORS
    with FakeTensorMode(), Copies() as mode:
        yield mode


def llama(count: int) -> Llama:
    config = tiny_config(num_layers=LAYERS, context_window=1024)
    stages = even_stages(config, DEVICES[:count])
    weights = random_weights(config, 0)
    return Llama(config, weights, DEVICES[0], torch.bfloat16, FEATURES, stages)


def filled(model: Llama, length: int) -> LayeredKVCache:
    cache = model.new_cache()
    model.extend(ones(length), cache)
    return cache


def ones(count: int) -> Tensor:
    return torch.ones(count, dtype=torch.int64, device=DEVICES[0])


def check(logits: Tensor, rows: int) -> None:
    assert logits.device == DEVICES[0]
    assert logits.dtype is torch.float32
    assert logits.shape == (rows, 61)


@pytest.mark.parametrize("length", [1, 300])
@COUNTS
def test_a_prompt_and_a_row_pass_through(count: int, length: int) -> None:
    model = llama(count)
    cache = filled(model, length)
    check(model.forward(ones(1), ones(1) * length, None, cache), 1)
    assert cache.length == length + 1


def tree_forward(model: Llama, cache: LayeredKVCache) -> Tensor:
    rows, before = GROWMAP.size, cache.length
    mask = GROWMAP.ancestor_mask().to(DEVICES[0], non_blocking=True)
    return model.forward(ones(rows), ones(rows) * before, mask, cache)


@COUNTS
def test_a_tree_passes_through_and_a_branch_is_kept(count: int) -> None:
    model = llama(count)
    cache = filled(model, 40)
    check(tree_forward(model, cache), GROWMAP.size)
    cache.keep(40, [40, 42, 44])
    assert cache.length == 43
    cache.truncate(10)
    check(model.forward(ones(1), ones(1) * 10, None, cache), 1)


@COUNTS
def test_every_device_holds_its_own_layers_and_caches(count: int) -> None:
    model = llama(count)
    cache = filled(model, 4)
    held = dict.fromkeys(DEVICES[:count], 0)
    for index in range(LAYERS):
        rows = torch.zeros((2, 2, 1, 8), device=place(count, index))
        layer, _ = cache.write(index, rows, cache.span(1))
        assert layer.device == place(count, index)
        held[layer.device] += 1
    assert list(held.values()) == [len(stage.layers) for stage in stages(count)]
    assert cache.features(0, 4).device == model.embedding.device == DEVICES[0]


def stages(count: int) -> Sequence[Stage]:
    return even_stages(tiny_config(num_layers=LAYERS), DEVICES[:count])


def place(count: int, index: int) -> torch.device:
    return next(stage.device for stage in stages(count) if index in stage.layers)


@COUNTS
def test_what_goes_between_devices_is_little_and_in_order(count: int, copies: Copies) -> None:
    """Position ids, mask and hidden states to each, one feature and the last states back."""
    model = llama(count)
    cache = filled(model, 40)
    copies.seen.clear()
    tree_forward(model, cache)
    rows, last = GROWMAP.size, count - 1
    masks = [(0, at, rows * rows) for at in range(1, count)]
    forth = [
        step
        for at in range(1, count)
        for step in ((0, at, rows), (at - 1, at, rows * model.config.hidden_size))
    ]
    back = [(last, 0, rows * model.config.hidden_size)] * 2
    assert copies.seen == masks + forth + back


@COUNTS
def test_a_conditioned_draft_reads_on_the_first_device(count: int) -> None:
    config = tiny_config(num_layers=1, context_window=1024, feature_layers=FEATURES)
    draft = ConditionedLlama(config, random_weights(config, 1), DEVICES[0], torch.bfloat16)
    target_cache = filled(llama(count), 40)
    cache = draft.new_cache(target_cache)
    check(draft.forward(ones(38), ones(38), None, cache), 38)
    mask = torch.ones((3, 3), dtype=torch.bool, device=DEVICES[0])
    check(draft.forward(ones(3), ones(3) * 38, mask, cache), 3)


@pytest.mark.parametrize("harm", ["copy", "host", "blocking", "mixed"])
def test_the_harness_notices_harm(harm: str) -> None:
    x, there = torch.ones(3, device=DEVICES[0]), torch.ones(3, device=DEVICES[1])
    harms: dict[str, Callable[[], Any]] = {
        "copy": lambda: there.copy_(x),
        "host": lambda: x.to(HOST),
        "blocking": lambda: x.to(DEVICES[1]),
        "mixed": lambda: x + there,
    }
    with pytest.raises((AssertionError, RuntimeError), match=r"device|host|non_blocking"):
        harms[harm]()
