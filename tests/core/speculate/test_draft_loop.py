"""A tree drafted as one recording is the one drafted kernel by kernel, with a runner that is as
blind as a CUDA graph; see `tests.tape_runner`.
"""

import gc
import random
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pytest
import torch
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.model.attention import AttentionChoice
from sequoia_core.model.conditioned import ConditionedLlama
from sequoia_core.model.graphs import Graphs, Recording, Rung
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.llama import Llama
from sequoia_core.model.recorded import CHECKED, record_forwards
from sequoia_core.speculate import draft_loop
from sequoia_core.speculate.draft import (
    ChildChooser,
    DraftModel,
    GrowPlan,
    SampledChildren,
    top_children,
)
from sequoia_core.speculate.draft_loop import Loop, LoopKey, grower
from sequoia_core.speculate.token_tree import DeviceNodes, TokenTree
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import expected_tokens_table
from tests.core.models import random_weights, tiny_config
from tests.tape_runner import TapeRunner

T = TypeVar("T")

CPU = torch.device("cpu")
FEATURES = (0, 1)
KEPT = list(range(0, 60, 2))
STEPS = 40
RAGGED = GrowMap((-1, 0, 0, 0, 1, 1, 3, 4, 7))
TREES = {
    "ragged": RAGGED,
    "chain": GrowMap.chain(4),
    "flat": GrowMap.k_ary([5]),
    "64x8": expected_tokens_table((0.6, 0.12, 0.06, 0.04, 0.03, 0.02), 64, 8, 6).tree(64, 8),
}
PARAMS = SamplingParams(temperature=0.8)
DRAWS: dict[str, Callable[[torch.Generator], ChildChooser]] = {
    "greedy": lambda _: top_children,
    "sampled": lambda generator: SampledChildren(PARAMS, generator),
    "cut": lambda generator: SampledChildren(
        SamplingParams(temperature=1.0, top_p=0.8, top_k=20), generator
    ),
    "replaced": lambda generator: SampledChildren(PARAMS, generator, replaced=True),
}


@pytest.fixture(autouse=True)
def _by_pytorch(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No distributions by the native library, which a device does not have."""
    monkeypatch.setattr("sequoia_core.model.native.rows._reader", None)
    with torch.inference_mode():
        yield


def models(kind: str, graphs: Graphs | None) -> tuple[Llama, DraftModel]:
    features = FEATURES if kind == "conditioned" else ()
    config = tiny_config(context_window=1024)
    target = Llama(config, random_weights(config, 1), CPU, torch.float32, features)
    small = tiny_config(
        context_window=1024,
        num_layers=1 if kind == "conditioned" else 2,
        num_kv_heads=1 if kind == "grouped" else 4,
        head_vocab_size=len(KEPT) if kind == "trimmed" else 61,
        feature_layers=features,
    )
    maker = ConditionedLlama if kind == "conditioned" else Llama
    draft = maker(small, random_weights(small, 2), CPU, torch.float32)
    if graphs is not None:
        record_forwards(graphs, target, draft)
    return target, DraftModel(draft, torch.tensor(KEPT) if kind == "trimmed" else None)


@dataclass(frozen=True, slots=True)
class Drawn:
    """A tree's tensors, copied."""

    nodes: list[Tensor]
    draft_probs: Tensor

    def check(self, other: "Drawn") -> None:
        """Equal tokens and columns; probabilities up to rounding."""
        assert torch.equal(self.nodes[0], other.nodes[0])
        assert torch.equal(self.nodes[1], other.nodes[1])
        torch.testing.assert_close(self.nodes[2], other.nodes[2], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(self.draft_probs, other.draft_probs, rtol=1e-4, atol=1e-5)


@dataclass(slots=True)
class Chat:
    """Trees drafted in a row, parts of which are kept at random."""

    kind: str
    draws: str
    growmap: GrowMap
    graphs: Graphs | None = None
    length: int = 40  # of the prompt
    split_from: int | None = None  # see `AttentionChoice`
    reserved: int = 0  # tokens of the draft's cache
    tokens: list[int] = field(init=False)
    cache: LayeredKVCache = field(init=False)
    model: Llama = field(init=False)

    def run(self, steps: int = STEPS) -> list[Drawn]:
        target, draft = models(self.kind, self.graphs)
        assert isinstance(draft.model, Llama)
        self.model = draft.model
        draft.model.attention = AttentionChoice(split_from=self.split_from)
        target_cache = target.new_cache()
        cache = self.cache = draft.model.new_cache(target_cache)
        cache.reserve(self.reserved)
        generator, rng = torch.Generator().manual_seed(5), random.Random(3)
        grow, plan = grower(draft), GrowPlan(self.growmap, CPU)
        tokens = self.tokens = [at * 7 % 61 for at in range(self.length)]
        target.extend(torch.tensor(tokens[:-1]), target_cache)
        draft.model.extend(torch.tensor(tokens[: 3 - 5]), cache)
        found = []
        for _ in range(steps):
            root = len(tokens) - 1
            pending = torch.tensor(tokens[cache.length :])
            tree = grow(plan, pending, cache, DRAWS[self.draws](generator))
            assert cache.length == root + len(plan.inner_rows)
            found.append(copied(tree))
            path = [0]
            while (children := self.growmap.children[path[-1]]) and rng.random() < 0.7:
                path.append(rng.choice(children))
            ids = found[-1].nodes[0].tolist()
            rows = [plan.inner_rows[node] for node in path if node in plan.inner_rows]
            cache.keep(root, [root + row for row in rows])
            tokens += [*(ids[node] for node in path[1:]), rng.randrange(61)]
            target.extend(torch.tensor(tokens[root:-1]), target_cache)
        return found


def copied(tree: TokenTree) -> Drawn:
    assert isinstance(tree.nodes, DeviceNodes)
    return Drawn([each.clone() for each in tree.nodes], tree.draft_probs.clone())


def loops(graphs: Graphs) -> list[LoopKey]:
    return [key for key in graphs.known if isinstance(key, LoopKey)]


CASES = [
    *((kind, draws, "ragged") for kind in ("whole", "trimmed", "conditioned") for draws in DRAWS),
    *((kind, "sampled", tree) for kind in ("whole", "conditioned") for tree in TREES),
    ("grouped", "sampled", "ragged"),
    ("grouped", "greedy", "64x8"),
    ("trimmed", "replaced", "64x8"),
]


@pytest.mark.parametrize(("kind", "draws", "tree"), dict.fromkeys(CASES))
def test_a_recorded_tree_is_that_drafted_kernel_by_kernel(kind: str, draws: str, tree: str) -> None:
    """Over steps of changing lengths one recording serves, of the same noise."""
    runner = TapeRunner()
    graphs = Graphs(runner, CPU)
    recorded = Chat(kind, draws, TREES[tree], graphs)
    found, plain = recorded.run(), Chat(kind, draws, TREES[tree])
    for one, other in zip(found, plain.run(), strict=True):
        one.check(other)
    assert recorded.tokens == plain.tokens
    assert len(loops(graphs)) == 1
    assert graphs.rung is Rung.LOOPS
    assert graphs.notices == ()
    assert runner.replayed >= STEPS
    if kind != "conditioned" or tree == "flat":  # else more is pending than a recording reads
        assert (runner.recorded, runner.replayed) == (1, STEPS)


def test_more_pending_tokens_are_read_before() -> None:
    found = []
    for graphs in (Graphs(TapeRunner(), CPU), None):
        _, draft = models("whole", graphs)
        cache, plan, grow = draft.model.new_cache(), GrowPlan(RAGGED, CPU), grower(draft)
        draft.model.extend(torch.arange(20), cache)
        for count in (9, 1, 4, 2, 3):
            tree = grow(plan, torch.arange(count) + 30, cache, top_children)
            found.append(copied(tree))
            cache.truncate(cache.length - 3)
        if graphs is not None:
            assert len(loops(graphs)) == 1
    for one, other in zip(found[:5], found[5:], strict=True):
        one.check(other)


def test_a_longer_span_takes_another_recording_with_the_same_inputs() -> None:
    graphs = Graphs(TapeRunner(), CPU)
    recorded, plain = (
        Chat("whole", "sampled", RAGGED, each, length=235, reserved=512) for each in (graphs, None)
    )
    for one, other in zip(recorded.run(24), plain.run(24), strict=True):
        one.check(other)
    spans = {key.span for key in loops(graphs)}
    assert spans == {256, 512}
    addresses = {id(graphs.recording(key, _nothing)) for key in loops(graphs)}
    assert len(addresses) == 2
    shared = {id(_outputs(graphs, key).drafted.draft_probs) for key in loops(graphs)}
    assert len(shared) == 1


@pytest.mark.parametrize("kind", ["whole", "grouped", "conditioned"])
def test_a_kernel_without_a_mask_may_take_what_all_rows_see(kind: str) -> None:
    graphs = Graphs(TapeRunner(), CPU)
    found = Chat(kind, "sampled", RAGGED, graphs, 560, split_from=1).run(6)
    expected = Chat(kind, "sampled", RAGGED, None, 560).run(6)
    for one, other in zip(found, expected, strict=True):
        one.check(other)
    assert loops(graphs)
    assert graphs.notices == ()


def _nothing() -> None:
    raise AssertionError("it is recorded already")


def _outputs(graphs: Graphs, key: LoopKey) -> Loop:
    recording = graphs.recording(key, _nothing)
    assert recording is not None
    assert isinstance(recording.outputs, Loop)
    return recording.outputs


def test_a_longer_span_is_recorded_in_idle_time() -> None:
    graphs = Graphs(TapeRunner(), CPU)
    recorded = Chat("whole", "sampled", RAGGED, graphs, length=150)
    recorded.run(9)
    model, cache = recorded.model, recorded.cache
    assert model.recorded is not None
    assert not model.recorded.prepare(model, cache)
    cache.advance(60)
    cache._resize(512)
    tree_at = GrowPlan(RAGGED, CPU), torch.tensor([1]), cache, top_children
    grower(DraftModel(model))(*tree_at)
    assert model.recorded.prepare(model, cache)
    assert not model.recorded.prepare(model, cache)
    cache.advance(40)
    known = set(graphs.known)
    grower(DraftModel(model))(*tree_at)
    assert cache.length > 256
    assert set(graphs.known) == known


def test_what_is_baked_in_is_in_the_key() -> None:
    """Another temperature, rule or shape is another recording."""
    graphs = Graphs(TapeRunner(), CPU)
    _, draft = models("whole", graphs)
    grow, cache = grower(draft), draft.model.new_cache()
    draft.model.extend(torch.arange(20), cache)
    generator = torch.Generator().manual_seed(1)
    choosers: list[ChildChooser] = [
        top_children,
        *(SampledChildren(SamplingParams(temperature=at), generator) for at in (0.5, 0.9)),
        SampledChildren(SamplingParams(temperature=0.5, top_p=0.9), generator),
        SampledChildren(SamplingParams(temperature=0.5, top_k=9), generator),
        SampledChildren(SamplingParams(temperature=0.5), generator, replaced=True),
    ]
    for growmap in (RAGGED, GrowMap.chain(2)):
        for choose in choosers * 2:
            grow(GrowPlan(growmap, CPU), torch.tensor([1]), cache, choose)
            cache.truncate(20)
    assert len(loops(graphs)) == 2 * len(choosers)


Harm = Callable[[Loop], object]


class Harming(TapeRunner):
    """Its recordings of trees end with a fault."""

    def __init__(self, harm: Harm) -> None:
        super().__init__()
        self._harm = harm

    def record(self, work: Callable[[], T]) -> "HarmedRecording[T]":  # type: ignore[override]
        return HarmedRecording(super().record(work), self._harm)


class HarmedRecording(Generic[T]):
    def __init__(self, recording: Recording[T], harm: Harm) -> None:
        self._recording, self._harm = recording, harm
        self.outputs, self.nbytes = recording.outputs, recording.nbytes

    def replay(self) -> T:
        found = self._recording.replay()
        if isinstance(found, Loop):
            self._harm(found)
        return found


def _others(loop: Loop) -> None:
    """Other tokens, consistently: not those that the noise decides."""
    columns = (loop.drafted.nodes.columns[1:] + 5) % 61
    loop.drafted.nodes.columns[1:] = columns
    loop.drafted.nodes.token_ids[1:] = columns


HARMS: dict[str, Harm] = {
    "no numbers": lambda loop: loop.drafted.draft_probs.fill_(torch.nan),
    "other distributions": lambda loop: loop.drafted.draft_probs.copy_(
        loop.drafted.draft_probs.roll(1, 0)
    ),
    "tokens of other columns": lambda loop: loop.drafted.nodes.token_ids[1:].add_(1),
    "not the draws": _others,
}


@pytest.mark.parametrize("harm", HARMS)
def test_a_tree_drafted_otherwise_is_noticed_and_not_used(harm: str) -> None:
    graphs = Graphs(Harming(HARMS[harm]), CPU)
    recorded, plain = (Chat("whole", "greedy", RAGGED, each) for each in (graphs, None))
    for one, other in zip(recorded.run(4), plain.run(4), strict=True):
        one.check(other)
    assert graphs.rung is Rung.FORWARDS
    (notice,) = graphs.notices
    assert "fewer graphs" in notice
    assert not loops(graphs)


def test_where_recording_fails_it_is_drafted_kernel_by_kernel() -> None:
    graphs = Graphs(TapeRunner(fails="out of memory"), CPU)
    recorded, plain = (Chat("whole", "sampled", RAGGED, each) for each in (graphs, None))
    for one, other in zip(recorded.run(4), plain.run(4), strict=True):
        one.check(other)
    assert graphs.rung is Rung.EAGER
    assert len(graphs.notices) == 2


@pytest.mark.parametrize("why", ["choice", "begin", "size", "rung"])
def test_what_is_not_recorded_is_drafted_all_the_same(
    why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = Graphs(TapeRunner(), CPU, Rung.FORWARDS if why == "rung" else Rung.LOOPS)
    _, draft = models("whole", graphs)
    cache, choose = draft.model.new_cache(), top_children
    if why == "choice":
        choose = lambda logits, count: top_children(logits, count)  # noqa: E731
    if why == "size":
        monkeypatch.setattr(draft_loop, "MOST_STATED", 5 * 61 - 1)
    if why != "begin":
        draft.model.extend(torch.arange(20), cache)
    plan = GrowPlan(RAGGED, CPU)
    tree = grower(draft)(plan, torch.tensor([3]), cache, choose)
    assert tree.on_host().token_ids[0] == 3
    assert cache.length == (0 if why == "begin" else 20) + len(plan.inner_rows)
    assert not loops(graphs)


def test_recordings_keep_their_inputs_and_nothing_else() -> None:
    """No cache, whose memory goes to the next one; what no recording needs is freed."""
    graphs = Graphs(TapeRunner(), CPU)
    _, draft = models("whole", graphs)
    assert isinstance(draft.model, Llama)
    recorded, cache = draft.model.recorded, draft.model.new_cache()
    assert recorded is not None
    draft.model.extend(torch.arange(20), cache)
    gc.disable()
    try:
        tree = grower(draft)(GrowPlan(RAGGED, CPU), torch.tensor([3]), cache, top_children)
        held, number = weakref.ref(cache), cache.lease.number
        del tree, cache
        assert held() is None
        again = draft.model.new_cache()
        assert again.lease.number == number
        assert len(recorded.loops) == 1
        graphs.step_down(Rung.FORWARDS, "memory is short")
        assert len(recorded.loops) == 0
    finally:
        gc.enable()


def test_recording_disturbs_no_token_of_the_cache() -> None:
    graphs = Graphs(TapeRunner(), CPU)
    _, draft = models("whole", graphs)
    cache = draft.model.new_cache()
    assert isinstance(cache, LayeredKVCache)
    draft.model.extend(torch.arange(200) % 61, cache)
    before = [buffer.clone() for buffer, _ in cache.lease.buffers]
    grower(draft)(GrowPlan(RAGGED, CPU), torch.tensor([3]), cache, top_children)
    for (buffer, axis), old in zip(cache.lease.buffers, before, strict=True):
        for rows in (slice(0, 200), slice(205, 256)):
            one, other = (
                each.narrow(axis, rows.start, rows.stop - rows.start) for each in (buffer, old)
            )
            assert torch.equal(one, other)


def test_what_is_recorded_again_is_compared_again(monkeypatch: pytest.MonkeyPatch) -> None:
    graphs, compared = Graphs(TapeRunner(), CPU), list[int]()
    _, draft = models("whole", graphs)
    grow, plan, cache = grower(draft), GrowPlan(RAGGED, CPU), draft.model.new_cache()
    draft.model.extend(torch.arange(20), cache)
    is_right = Loop.is_right

    def counted(loop: Loop, *given: Any) -> bool:
        compared.append(len(graphs.known))
        return is_right(loop, *given)

    monkeypatch.setattr(Loop, "is_right", counted)
    for step in range(8):
        if step == 4:
            graphs._forget_all()
        grow(plan, torch.tensor([1]), cache, top_children)
        cache.truncate(20)
    assert len(compared) == 2 * CHECKED
    assert graphs.rung is Rung.LOOPS
