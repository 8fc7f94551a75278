"""Memory is planned before anything is loaded; a chat survives full memory."""

import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch
from torch import Tensor

from sequoia_core.config import Lookup, Mode, SamplingParams, WeightFormat
from sequoia_core.decode import report
from sequoia_core.decode.tree_choice import smaller
from sequoia_core.errors import MemoryFullError, ModelLoadError
from sequoia_core.events import Event, Finished, Notice, NoticeKind, Step
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.device import Placement, free_bytes
from sequoia_core.model.interface import KVCache
from sequoia_core.model.loading import models
from sequoia_core.model.loading.backend import Backend, pair_plans
from sequoia_core.model.loading.loader import Checkpoint, known_model
from sequoia_core.model.loading.memory_plan import MemoryPlan, is_out_of_memory
from sequoia_core.model.loading.pair import load_pair
from sequoia_core.speculate import draft as draft_module
from sequoia_core.tree.choice import ROOT, AdaptiveTree, TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.checkpoints import save_model, tiny_tokenizer
from tests.core.engines import check_caches, make_engine, steps_of, tokens_of
from tests.core.models import TableModel, tiny_config

PLAN = MemoryPlan(
    weights=1000, token=10, logits=100, activations=50, runtime=7, window=1024
)  # fmt: skip
ERRORS: dict[str, Callable[[], BaseException]] = {
    "cuda": lambda: torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
    "python": MemoryError,
    "cpu": lambda: RuntimeError(
        "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: "
        "you tried to allocate 8589934592 bytes. Error code 12 (Cannot allocate memory)"
    ),
    "windows": lambda: RuntimeError(
        "DefaultCPUAllocator: not enough memory: you tried to allocate"
    ),
    "cublas": lambda: RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublas`"),
}
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=12)
PROMPT = (1, 2, 3)


class NarrowModel(TableModel):
    """Has memory for so many rows in a forward; while it has none, for no prompt either."""

    def __init__(self, error: Callable[[], BaseException], most: int, seed: int = 1) -> None:
        super().__init__(9, seed)
        self.most, self._error = most, error

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        parents: Tensor | None = None,
    ) -> Tensor:
        if len(token_ids) > self.most:
            raise self._error()
        return super().forward(token_ids, position_ids, mask, cache, parents)

    def extend(self, token_ids: Tensor, cache: KVCache) -> None:
        if self.most == 0:
            raise self._error()
        super().extend(token_ids, cache)


def notices_of(events: list[Event]) -> list[str]:
    return [
        event.message
        for event in events
        if isinstance(event, Notice) and event.kind is NoticeKind.MEMORY
    ]


def test_a_plan_is_the_sum_of_its_parts() -> None:
    assert PLAN.needed(100) == 1000 + 100 + 50 + 7 + 1000
    assert PLAN.least == PLAN.needed(512)
    assert PLAN.context_in(PLAN.needed(700) + 9) == 700
    assert PLAN.context_in(PLAN.needed(5000)) == 1024
    assert PLAN.context_in(3) == 0
    assert PLAN.words(100) == (
        "2.1 KiB: weights 1000 B, KV cache and masks of 100 tokens 1000 B, logits 100 B, "
        "activations 50 B, CUDA 7 B"
    )


@pytest.mark.parametrize(
    ("spare", "resident"), [(-5000, 0), (0, 0), (999, 0), (1000, 1), (2499, 3), (1 << 40, 80)]
)
def test_layers_stay_where_they_fit_beside_the_whole_window(spare: int, resident: int) -> None:
    """With room for one more, which is not used."""
    free = PLAN.needed(PLAN.window) + spare
    plan = PLAN.with_resident_layers(500, 80, free)
    assert plan.resident_layers == resident
    assert plan.least == PLAN.least, "they are no reason to refuse a pair"
    assert plan.needed(64) == PLAN.needed(64) + resident * 500
    if resident:
        assert plan.context_in(free) == PLAN.window
        assert plan.needed(PLAN.window) <= free - 500
        assert f", {resident} resident layers " in plan.words(100)


@pytest.mark.parametrize(
    ("spare", "rows"), [(-1, 128), (63, 128), (64 * 3, 192), (3 * 639, 512), (3 * 640, 768)]
)
def test_trees_are_as_large_as_fits_beside_the_whole_window(spare: int, rows: int) -> None:
    plan = replace(PLAN, row=3)
    free = plan.needed(plan.window) + spare
    found = plan.with_rows(free)
    assert found.rows == rows
    assert found.least == plan.least, "they are no reason to refuse a pair"
    assert found.needed(64) == plan.needed(64) + 3 * (rows - 128)
    assert (f"trees of up to {rows} nodes" in found.words(64)) == (rows > 128)
    assert spare < 0 or found.context_in(free) == plan.window
    streamed = plan.with_resident_layers(500, 80, plan.needed(plan.window) + 1400)
    assert streamed.resident_layers == 1
    assert streamed.with_rows(plan.needed(plan.window) + 1400).rows == 256, "a layer stays free"


def test_a_gpu_without_room_for_large_trees_is_planned_as_a_cpu_is() -> None:
    config = tiny_config(context_window=1024)
    places = torch.device("cuda", 0), torch.device("cpu")
    rows = []
    for place, free in ((places[0], 1 << 40), (places[0], 0), (places[1], 1 << 40)):
        backend = Backend(Placement((place,)), WeightFormat.TORCH, torch.float32)
        (plan,) = pair_plans(config, None, backend, lambda _: free).values()  # noqa: B023
        rows.append(plan.rows)
    assert rows == [768, 128, 128]


@pytest.mark.parametrize("kind", ERRORS)
def test_errors_of_full_memory_are_known(kind: str) -> None:
    assert is_out_of_memory(ERRORS[kind]())


@pytest.mark.parametrize(
    "error", [RuntimeError("shape mismatch"), ValueError("out of memory"), KeyError("memory")]
)
def test_other_errors_are_not_taken_for_it(error: Exception) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("kind", ERRORS)
def test_a_tree_that_does_not_fit_becomes_smaller(kind: str) -> None:
    """Step by step until it does, for the rest of the answer; the tokens are those of any tree."""
    target, draft = NarrowModel(ERRORS[kind], 3), TableModel(9, 2)
    engine = make_engine(target, draft, GrowMap.k_ary([2, 2, 2]))
    events = list(engine.generate(PROMPT, GREEDY))
    assert [len(step.nodes) for step in steps_of(events)] == [3] * len(steps_of(events))
    assert notices_of(events) == [
        "the memory is too full for the tree; the rest of the answer is decoded with at most "
        f"{nodes} nodes a tree"
        for nodes in (7, 3)
    ]
    plain = make_engine(TableModel(9, 1), None, mode=Mode.AR)
    assert tokens_of(events) == tokens_of(list(plain.generate(PROMPT, GREEDY)))
    check_caches(engine, target, draft)


@pytest.mark.parametrize(
    "choice",
    [TreeChoice(adaptive=True), TreeChoice(Mode.SEQUOIA, GrowMap.chain(3), lookup=Lookup.ON)],
    ids=["adaptive", "look-up"],
)
def test_where_no_tree_fits_it_is_decoded_plainly(choice: TreeChoice) -> None:
    target, draft = NarrowModel(MemoryError, 1), TableModel(9, 2)
    engine = make_engine(target, draft)
    engine.tree_choice = choice
    events = list(engine.generate(PROMPT, GREEDY))
    plain = make_engine(TableModel(9, 1), None, mode=Mode.AR)
    assert tokens_of(events) == tokens_of(list(plain.generate(PROMPT, GREEDY)))
    assert notices_of(events)[-1].endswith("is decoded plainly")
    check_caches(engine, target, draft)


def test_a_draft_without_memory_leaves_the_target_to_decode() -> None:
    target, draft = TableModel(9, 1), NarrowModel(MemoryError, 0, seed=2)
    engine = make_engine(target, draft, GrowMap.k_ary([2, 2]))
    events = list(engine.generate(PROMPT, GREEDY))
    assert isinstance(events[-1], Finished)
    assert len(tokens_of(events)) == 12
    check_caches(engine, target, draft)


@pytest.mark.parametrize("kind", ERRORS)
@pytest.mark.parametrize("mode", [Mode.AR, Mode.SEQUOIA])
def test_without_any_memory_an_answer_ends_with_a_line_and_the_next_one_is_whole(
    kind: str, mode: Mode
) -> None:
    target, draft = NarrowModel(ERRORS[kind], 64), TableModel(9, 2)
    engine = make_engine(target, draft, GrowMap.k_ary([2, 2]), mode)
    answer = engine.generate(PROMPT, GREEDY)
    while not isinstance(next(answer), Step):
        pass
    target.most = 0
    with pytest.raises(MemoryFullError, match="the memory of cpu is full at") as caught:
        list(answer)
    assert "\n" not in str(caught.value)
    assert "clear the chat" in str(caught.value)
    check_caches(engine, target, draft)
    target.most = 64
    expected = tokens_of(list(make_engine(TableModel(9, 1), None).generate(PROMPT, GREEDY)))
    assert tokens_of(list(engine.generate(PROMPT, GREEDY))) == expected
    check_caches(engine, target, draft)


def test_a_prompt_that_does_not_fit_is_a_line_too() -> None:
    target = NarrowModel(MemoryError, 0)
    engine = make_engine(target, None)
    with pytest.raises(MemoryFullError, match="full at 3 tokens"):
        list(engine.generate(PROMPT, GREEDY))
    target.most = 9
    assert len(tokens_of(list(engine.generate(PROMPT, GREEDY)))) == 12


def test_an_error_of_another_kind_is_left_as_it_is() -> None:
    target = NarrowModel(lambda: RuntimeError("shape mismatch"), 2)
    engine = make_engine(target, TableModel(9, 2), GrowMap.k_ary([2, 2]))
    with pytest.raises(RuntimeError, match="shape mismatch"):
        list(engine.generate(PROMPT, GREEDY))


def test_a_step_stands_where_there_is_no_memory_to_explain_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(report, "explain", full)
    engine = make_engine(TableModel(9, 1), TableModel(9, 2), GrowMap.k_ary([2, 2]))
    engine.insight = True
    events = list(engine.generate(PROMPT, GREEDY))
    assert len(tokens_of(events)) == 12
    assert all(step.insight is None for step in steps_of(events))


def test_memory_that_ends_in_the_walk_draws_nothing_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was drawn may be why it ended there: another draw would change the distribution."""

    def full(*_: object) -> None:
        raise MemoryError

    engine = make_engine(TableModel(9, 1), TableModel(9, 2), GrowMap.k_ary([2, 2]))
    monkeypatch.setattr("sequoia_core.speculate.verify.walk", full)
    with pytest.raises(MemoryFullError):
        list(engine.generate(PROMPT, SamplingParams(temperature=1.0, max_new_tokens=12)))


@pytest.mark.parametrize(
    ("tree", "nodes"),
    [
        (GrowMap.k_ary([2, 2, 2]), 7),
        (GrowMap.chain(3), 2),
        (GrowMap.chain(2), 1),
        (AdaptiveTree(size=64), 32),
        (AdaptiveTree(size=3), 1),
    ],
)
def test_a_smaller_tree_is_the_upper_half(tree: GrowMap | AdaptiveTree, nodes: int) -> None:
    half = smaller(tree)
    assert half.size == nodes
    assert (half is ROOT) == (nodes == 1)
    if isinstance(half, GrowMap) and isinstance(tree, GrowMap):
        assert half.parents == tree.parents[:nodes]


class WatchedModel(TableModel):
    """Remembers its last logits without keeping them."""

    def __init__(self) -> None:
        super().__init__(9, 1)
        self._last: weakref.ref[Tensor] | None = None
        self.kept = 0

    def forward(
        self,
        token_ids: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: KVCache,
        parents: Tensor | None = None,
    ) -> Tensor:
        self.kept += self._last is not None and self._last() is not None
        logits = super().forward(token_ids, position_ids, mask, cache, parents)
        self._last = weakref.ref(logits)
        return logits


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_the_logits_of_a_step_are_free_before_the_next_forward(temperature: float) -> None:
    target = WatchedModel()
    engine = make_engine(target, TableModel(9, 2), GrowMap.k_ary([2, 2]))
    engine.insight = True
    params = SamplingParams(temperature=temperature, seed=3, max_new_tokens=20)
    assert len(tokens_of(list(engine.generate(PROMPT, params)))) == 20
    assert target.kept == 0


@pytest.fixture
def target(tmp_path: Path) -> str:
    save_model(tmp_path / "target", tiny_tokenizer(), max_position_embeddings=4096)
    return str(tmp_path / "target")


def with_free(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free))
    assert free_bytes(torch.device("cpu")) == free


def test_the_window_is_what_fits_into_the_memory(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plans: list[MemoryPlan] = []
    real = pair_plans

    def spy(*given: object) -> dict[torch.device, MemoryPlan]:
        found = real(*given)  # type: ignore[arg-type]
        plans.extend(found.values())
        return found

    monkeypatch.setattr("sequoia_core.model.loading.backend.pair_plans", spy)
    said: list[str] = []

    def load() -> int:
        loaded = load_pair(
            target, dtype="float32", device="cpu", progress=lambda text, _: said.append(text)
        )
        assert loaded.description.context_window == loaded.target.context_window
        return loaded.target.context_window

    assert load() == 4096
    assert not any("context window" in text for text in said)
    (plan,) = plans
    with_free(plan.needed(1300), monkeypatch)
    assert load() == 1280
    assert "The context window is 1,280 tokens: more do not fit into the memory" in said
    with_free(plan.least, monkeypatch)
    assert load() == 512
    with_free(plan.least - 1, monkeypatch)
    with pytest.raises(ModelLoadError, match=r"do not fit into the .*; 512 tokens of"):
        load()


def test_memory_that_ends_while_loading_is_a_line(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(models, "Llama", full)
    with pytest.raises(MemoryFullError, match="target: the memory became full while it was loaded"):
        load_pair(target, dtype="float32", device="cpu", weights=WeightFormat.TORCH)


def test_shapes_are_known_before_loading(target: str) -> None:
    found = known_model(target)
    assert isinstance(found, Checkpoint)
    assert found.config.context_window == 4096
    listed = known_model("meta-llama/Llama-3.1-8B-Instruct")
    assert isinstance(listed, ModelConfig)
    assert known_model("somebody/else") is None


@pytest.mark.embedded
def test_the_embedded_targets_shape_is_known() -> None:
    embedded = known_model(None)
    assert isinstance(embedded, Checkpoint)
    assert (embedded.config.num_layers, embedded.config.head_vocab_size) == (30, 49152)


def test_a_trimmed_drafts_columns_are_known_on_the_host() -> None:
    ids = torch.tensor([1, 3, 5])
    assert draft_module.DraftModel(TableModel(3, 1)).host_vocab_ids is None
    made = draft_module.DraftModel(TableModel(3, 1), ids)
    assert made.host_vocab_ids is not None
    assert made.host_vocab_ids.tolist() == [1, 3, 5]
