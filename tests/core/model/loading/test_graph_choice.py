"""Where kernels are recorded as CUDA graphs, and what belongs together there."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sequoia_core.config import GraphChoice, Offload, WeightFormat
from sequoia_core.errors import ParameterError
from sequoia_core.model.device import Placement
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading import models
from sequoia_core.model.loading import pair as pair_module
from sequoia_core.model.loading.backend import Backend, no_graphs, pair_plans, uses_graphs
from sequoia_core.model.loading.memory_plan import (
    PLANNED_RECORDINGS,
    PLANNED_ROWS,
    RECORDING_BYTES,
    ROW_BUCKETS,
    recorded_row_bytes,
    recording_bytes,
    size_text,
)
from sequoia_core.model.loading.pair import load_pair, with_other_draft
from sequoia_core.model.recorded import graphs_of
from tests.core.checkpoints import save_model, tiny_tokenizer
from tests.core.models import fresh_logits, tiny_config
from tests.tape_runner import TapeRunner

CPU, GPU, OTHER_GPU = torch.device("cpu"), torch.device("cuda", 0), torch.device("cuda", 1)


@pytest.mark.parametrize(
    ("placement", "possible"),
    [
        (Placement((GPU,)), True),
        (Placement((GPU, OTHER_GPU)), False),
        (Placement((GPU,), Offload.CPU), False),
        (Placement((CPU,)), False),
    ],
)
def test_graphs_need_one_gpu_that_holds_the_target(placement: Placement, possible: bool) -> None:
    assert uses_graphs(GraphChoice.AUTO, placement) == possible
    assert not uses_graphs(GraphChoice.OFF, placement)
    assert (no_graphs(placement) == "") == possible
    if possible:
        assert uses_graphs(GraphChoice.ON, placement)
    else:
        with pytest.raises(ParameterError, match="leave --graphs out"):
            uses_graphs(GraphChoice.ON, placement)


def test_measured_figures_are_kept_apart() -> None:
    backend = Backend(Placement((CPU,)), WeightFormat.TORCH, torch.float32)
    assert replace(backend, graphs=True).key() != backend.key()


@pytest.mark.parametrize("drafted", [True, False])
def test_the_memory_plan_counts_them(drafted: bool) -> None:
    """An estimate of each, the logits of every bucket of rows, and the numbers of a tree."""
    config, draft = tiny_config(vocab_size=32_000), tiny_config(head_vocab_size=8_000)
    backend = Backend(Placement((GPU,)), WeightFormat.TORCH, torch.float16)
    models = config, draft if drafted else None
    (without,), (counted,) = (
        pair_plans(*models, each, lambda _: 1 << 40).values()
        for each in (backend, replace(backend, graphs=True))
    )
    rows = 1 + 2 + 4 + 8 + 16 + 24 + 32 + 48 + 64 + 96 + 128
    columns = 8_000 if drafted else 0
    outputs, numbers = rows * (32_000 + columns) * 4, 128 * columns * (4 + 8)
    expected = PLANNED_RECORDINGS * RECORDING_BYTES + outputs + numbers
    row = without.row + 4 * (32_000 + columns) + 12 * columns
    assert counted == replace(without, recordings=expected, row=row)
    assert counted.least - without.least == expected
    assert counted.context_in(counted.needed(7)) == 7
    assert f"CUDA graphs {size_text(expected)}" in counted.words(64)
    assert "graphs" not in without.words(64)


def test_trees_that_no_recording_drafts_need_no_numbers_for_it() -> None:
    most = recording_bytes(0, 200_000) - recording_bytes(0, 150_000)
    rows = sum(each for each in ROW_BUCKETS if each <= PLANNED_ROWS)
    assert most == 50_000 * rows * 4
    assert recorded_row_bytes(0, 200_000) == 200_000 * 4


@pytest.fixture
def target(tmp_path: Path) -> str:
    save_model(tmp_path / "target", tiny_tokenizer())
    save_model(tmp_path / "draft", tiny_tokenizer(), num_hidden_layers=1)
    return str(tmp_path / "target")


def test_on_a_cpu_nothing_changes(target: str) -> None:
    plain, off = (
        load_pair(target, device="cpu", weights=WeightFormat.TORCH, graphs=choice)
        for choice in (GraphChoice.AUTO, GraphChoice.OFF)
    )
    assert plain.fingerprint == off.fingerprint
    assert graphs_of(plain.target) is None
    with pytest.raises(ParameterError, match="graphs are on"):
        load_pair(target, device="cpu", graphs=GraphChoice.ON)


def test_the_models_of_a_pair_share_their_recordings(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = TapeRunner()
    monkeypatch.setattr(pair_module, "uses_graphs", lambda *_: True)
    monkeypatch.setattr(models, "CudaRunner", lambda _device: runner)
    draft = str(tmp_path / "draft")
    pair = load_pair(target, draft, device="cpu", weights=WeightFormat.TORCH, dtype="float32")
    graphs = graphs_of(pair.target)
    assert graphs is not None
    assert graphs_of(pair.draft) is graphs
    assert graphs_of(with_other_draft(pair, draft).draft) is graphs
    assert isinstance(pair.draft, Llama)
    fresh_logits(pair.target, torch.arange(9))
    fresh_logits(pair.draft, torch.arange(9))
    assert runner.recorded == 2
