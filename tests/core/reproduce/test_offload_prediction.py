"""Predicted times of the offloading table: what is counted is what the models do."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sequoia_core.config import Offload
from sequoia_core.errors import ParameterError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import Placement
from sequoia_core.model.loading.backend import memory_plans
from sequoia_core.model.loading.catalogue import ModelShape
from sequoia_core.model.offload.model import layer_bytes, resident_layers
from sequoia_core.model.tensor_names import weight_values
from sequoia_core.reproduce import offload_prediction
from sequoia_core.reproduce.offload_prediction import (
    DTYPE,
    Prediction,
    Work,
    as_values,
    pass_ms,
    predict,
    table,
)
from sequoia_core.reproduce.paper_facts import Hardware, PaperPair, paper_facts
from sequoia_core.tree.growmap import GrowMap
from tests.core.models import tiny_config

MACHINE = Hardware("a GPU", memory_gib=1.0, memory_gbs=500.0, link_gbs=10.0, tflops=50.0)
TREE = GrowMap.k_ary([3, 2])
RATED = replace(TREE, acceptance_rates=(0.5, 0.25))


def shape(**changes: Any) -> ModelConfig:
    return tiny_config(context_window=2304, hidden_size=64, intermediate_size=96, **changes)


PAIR = PaperPair(
    "1-8",
    draft=ModelShape("draft", shape(num_layers=1)),
    target=ModelShape("target", shape(num_layers=8)),
    trees_of="1-8",
    offload=True,
)


def test_flops_are_those_of_the_products_and_of_attention() -> None:
    config, rows, context = shape(num_layers=3), 5, 100
    found = offload_prediction._DryModel(config).work(rows, context)
    matrices = weight_values(config) - config.vocab_size * config.hidden_size
    matrices -= (2 * config.num_layers + 1) * config.hidden_size  # norms are no products
    attention = 2 * config.num_layers * config.num_heads * config.head_dim * (context + rows)
    assert found.flops == 2 * rows * (matrices + attention)
    cached = 2 * config.num_layers * config.num_kv_heads * config.head_dim * (context + rows)
    assert found.read == 2 * (weight_values(config) + cached)


def test_work_takes_as_long_as_its_bottleneck() -> None:
    assert Work(100_000_000_000, 1).ms(MACHINE) == pytest.approx(2.0)
    assert Work(1, 1_000_000_000).ms(MACHINE) == pytest.approx(2.0)


def test_without_residents_a_pass_takes_as_long_as_the_copies_or_the_layers() -> None:
    assert pass_ms(10, (), 1.0, 5.0) == pytest.approx(50.0)
    assert pass_ms(10, (), 5.0, 1.0) == pytest.approx(50.0)


def test_two_layers_are_copied_in_a_pause_and_no_more() -> None:
    assert pass_ms(10, (), 1.0, 5.0, pause_ms=4.0) == pytest.approx(50.0)
    assert pass_ms(10, (), 1.0, 5.0, pause_ms=100.0) == pytest.approx(100.0 + 8 * 5.0 + 1.0 + 1.0)


@given(
    layers=st.integers(1, 40),
    data=st.data(),
    layer_ms=st.floats(0.1, 10.0),
    copy_ms=st.floats(0.1, 50.0),
    pause_ms=st.floats(0.0, 100.0),
)
def test_a_pass_lies_between_its_bounds(
    layers: int, data: st.DataObject, layer_ms: float, copy_ms: float, pause_ms: float
) -> None:
    resident = resident_layers(layers, data.draw(st.integers(0, layers)))
    found = pass_ms(layers, resident, layer_ms, copy_ms, pause_ms)
    computing, copying = pause_ms + layers * layer_ms, (layers - len(resident)) * copy_ms
    assert max(computing, copying) * 0.999 <= found <= (computing + copying) * 1.001


@given(layers=st.integers(6, 90), data=st.data())
def test_resident_layers_save_their_copies(layers: int, data: st.DataObject) -> None:
    """Spread evenly, the copies never wait while layers are computed five times as fast."""
    count = data.draw(st.integers(0, layers * 4 // 5))
    found = pass_ms(layers, resident_layers(layers, count), 1.0, 5.0)
    assert found == pytest.approx((layers - count) * 5.0, rel=0.02)


def test_a_step_is_predicted_of_what_its_models_do() -> None:
    layer = layer_bytes(PAIR.target.config, DTYPE)
    found = predict(PAIR, MACHINE, RATED, 40)
    assert (found.layers, found.resident, found.streamed) == (8, 8, 0)
    gpu = torch.device("cuda", 0)
    shapes = PAIR.target.config, PAIR.draft.config
    plan = memory_plans(*shapes, DTYPE, Placement((gpu,), Offload.CPU), lambda _: 0)[gpu]
    room_for_three = plan.needed(plan.window) + 4 * layer + layer // 2
    small = replace(MACHINE, memory_gib=room_for_three / 2**30)
    found = predict(PAIR, small, RATED, 40)
    assert found.resident == 3
    assert found.streamed == found.locked == (8 - found.resident) * layer
    assert found.tokens_per_step == RATED.expected_tokens((0.5, 0.25))
    copies = found.streamed / small.link_gbs / 1e6
    assert found.plain_ms == pytest.approx(copies)
    assert found.step_ms >= found.plain_ms
    assert found.ms_per_token == found.step_ms / found.tokens_per_step
    faster = predict(PAIR, replace(small, link_gbs=20.0), RATED, 40)
    assert faster.plain_ms < found.plain_ms


def test_a_gpu_that_is_too_small_is_refused() -> None:
    with pytest.raises(ParameterError, match=r"1-8 needs 0\.5 GiB on the a GPU, which"):
        predict(PAIR, replace(MACHINE, memory_gib=0.25), RATED, 40)


def test_a_row_says_what_is_predicted_and_what_is_published() -> None:
    facts = paper_facts()
    setup = next(setup for setup in facts.setups_on("l40") if setup.pair == "7b-70b")
    figure = facts.figure("l40", "7b-70b", "mt-bench", 0.0)
    found = predict(PAIR, MACHINE, RATED, 40, (setup, figure))
    shown = dict(zip(table([found]).headings[:-3], table([found]).rows[0][:-3], strict=True))
    assert shown["tree"] == "10x3"
    assert table([found]).rows[0][-2:] == ("660", "5700")
    values = as_values(found)
    assert values["predicted"] is True
    assert values["published_ms_per_token"] == 660
    assert isinstance(found, Prediction)


def test_the_published_shapes_run_without_memory() -> None:
    """The 70B's layer as it is, of which two are enough here."""
    pair = paper_facts().pairs["7b-70b"]
    config = replace(pair.target.config, num_layers=2)
    big = offload_prediction._DryModel(config, resident_layers(2, 1))
    found = big.work(768, 256)
    big.close()
    layers = 2 * layer_bytes(config, torch.float16) // 2
    assert found.flops > 2 * 768 * layers
    assert big.loader.loaded[0] == 0
