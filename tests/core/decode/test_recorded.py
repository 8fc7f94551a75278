"""Answers decoded by recordings are those decoded without, with a runner that is as blind as a CUDA
graph; see `tests.tape_runner`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from typing_extensions import override

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode.engine import Engine
from sequoia_core.errors import MemoryFullError
from sequoia_core.events import Event, Notice, NoticeKind
from sequoia_core.model.conditioned import ConditionedLlama
from sequoia_core.model.config import Eagle3
from sequoia_core.model.eagle3 import Eagle3Llama
from sequoia_core.model.graphs import Graphs, Rung
from sequoia_core.model.kv_cache import LayeredKVCache
from sequoia_core.model.llama import Llama
from sequoia_core.model.recorded import record_forwards
from sequoia_core.model.step_inputs import MOVED, StepInputs
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.tree.choice import TreeChoice
from tests.core.decode.test_lossless_greedy import PROMPT, TREES, plain
from tests.core.engines import Every, check_laws, make_engine, steps_of, tokens_of
from tests.core.models import random_weights, tiny_config
from tests.tape_runner import TapeRunner

CPU = torch.device("cpu")
KEPT = range(0, 60, 2)
FEATURES = (0, 1)
DRAFTS = ("whole", "trimmed", "conditioned", "EAGLE-3")
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=60)
SAMPLED = SamplingParams(temperature=0.9, seed=3, max_new_tokens=60)


def models(kind: str, graphs: Graphs | None, window: int = 1024) -> tuple[Llama, DraftModel]:
    """A target and a draft that agrees with it now and then."""
    size = {"EAGLE-3": 10}.get(kind, 61)  # its weights are none of the target's: chance agrees
    config = tiny_config(context_window=window, vocab_size=size, head_vocab_size=size)
    weights = random_weights(config, 1)
    features = FEATURES if kind in ("conditioned", "EAGLE-3") else ()
    target = Llama(config, weights, CPU, torch.float32, features)
    small = replace(config, num_layers=1, feature_layers=features)
    ids = None
    draft: Llama
    if kind == "conditioned":
        draft = ConditionedLlama(small, random_weights(small, 1), CPU, torch.float32)
    elif kind == "EAGLE-3":
        small = replace(small, eagle3=Eagle3(small.hidden_size, norm_output=True))
        draft = Eagle3Llama(small, random_weights(small, 5), CPU, torch.float32)
    elif kind == "trimmed":
        small, ids = replace(small, head_vocab_size=len(KEPT)), torch.tensor(list(KEPT))
        rows = {"lm_head.weight": weights["lm_head.weight"][list(KEPT)]}
        draft = Llama(small, weights | rows, CPU, torch.float32)
    else:
        draft = Llama(small, weights, CPU, torch.float32)
    if graphs is not None:
        record_forwards(graphs, target, draft)
    return target, DraftModel(draft, ids)


def engine(pair: tuple[Llama, DraftModel], choice: TreeChoice) -> Engine:
    made = make_engine(*pair)
    made.tree_choice = choice
    return made


def decoded(
    made: Engine, params: SamplingParams, prompt: Sequence[int] = PROMPT
) -> list[tuple[tuple[int, ...], ...]]:
    """Of each step the nodes' tokens, the path and the emitted tokens."""
    events = list(made.generate(prompt, params))
    check_laws(events)
    return [
        (tuple(node.token_id for node in step.nodes), step.path, step.token_ids)
        for step in steps_of(events)
    ]


@pytest.mark.parametrize("tree", TREES)
@pytest.mark.parametrize("mode", list(Mode))
def test_greedy_tokens_are_those_of_plain_decoding(mode: Mode, tree: str) -> None:
    runner = TapeRunner()
    made = engine(models("whole", Graphs(runner, CPU)), TreeChoice(mode, TREES[tree]))
    tokens = tokens_of(list(made.generate(PROMPT, replace(GREEDY, max_new_tokens=40))))
    assert tokens == plain(models("whole", None)[0], PROMPT, 40)
    assert runner.replayed >= 5


@pytest.mark.parametrize("params", [GREEDY, SAMPLED, replace(SAMPLED, top_p=0.9, top_k=20)])
@pytest.mark.parametrize("kind", DRAFTS)
@pytest.mark.parametrize("name", ["chain", "binary", "ragged", "adaptive", "look-up", "root"])
def test_every_step_is_that_without_recordings(
    name: str, kind: str, params: SamplingParams
) -> None:
    """The same guesses, the same verdicts, also with plain steps in between."""
    choice = {
        "adaptive": TreeChoice(adaptive=True),
        "look-up": TreeChoice(Mode.SEQUOIA, TREES["ragged"], lookup=Lookup.ON),
    }.get(name) or TreeChoice(Mode.SEQUOIA, TREES[name])
    runner = TapeRunner()
    graphs = Graphs(runner, CPU)
    found: list[list[tuple[tuple[int, ...], ...]]] = []
    for each in (graphs, None):
        made = engine(models(kind, each), choice)
        made.clock = Every(7)
        found.append(decoded(made, params))
    assert found[0] == found[1]
    assert sum(len(path) > 1 for _, path, _ in found[0]) > 1 or name == "root"
    assert runner.replayed >= len(found[0])
    assert graphs.rung is Rung.LOOPS
    assert graphs.notices == ()


@pytest.mark.parametrize("kind", DRAFTS)
def test_a_cleared_chat_a_race_and_a_calibration_record_nothing_anew(kind: str) -> None:
    runner = TapeRunner()
    graphs = Graphs(runner, CPU)
    choice = TreeChoice(Mode.SEQUOIA, TREES["ragged"], lookup=Lookup.OFF)
    pair = models(kind, graphs)
    first, beside = (engine(pair, choice) for _ in range(2))
    answers = [decoded(each, SAMPLED) for each in (first, beside)]
    assert answers[0] == answers[1]
    first.release()
    recorded = runner.recorded
    assert decoded(first, SAMPLED) == answers[0]
    del beside
    again = engine(pair, choice)
    assert decoded(again, SAMPLED) == answers[0]
    assert runner.recorded == recorded


def recorded_by_a_long_chat(kind: str, *, reserved: bool) -> tuple[int, set[int], set[int]]:
    """Works recorded until 4,096 tokens; leases that are recorded over, and that are in use."""
    runner = TapeRunner()
    graphs = Graphs(runner, CPU)
    pair = models(kind, graphs, window=4096)
    chat = engine(pair, TreeChoice(Mode.SEQUOIA, TREES["ragged"], lookup=Lookup.OFF))
    caches = chat._cache.target_cache, chat._cache.draft_cache
    for cache in caches if reserved else ():
        assert isinstance(cache, LayeredKVCache)
        cache.reserve(4096)
    for tokens in (40, 300, 700, 1300, 1500, 2500, 4060):
        prompt = [at % 61 for at in range(tokens)]
        assert tokens_of(list(chat.generate(prompt, replace(SAMPLED, max_new_tokens=20))))
    leases = {each for key in graphs.known for each in getattr(key, "leases", ())}
    numbers = [each.lease_numbers for each in caches if isinstance(each, LayeredKVCache)]
    return runner.recorded, leases, {each for several in numbers for each in several}


@pytest.mark.parametrize("kind", ["whole", "conditioned"])
def test_a_chat_that_grows_records_about_as_often_as_one_with_all_its_memory(kind: str) -> None:
    grown, leases, used = recorded_by_a_long_chat(kind, reserved=False)
    whole, *_ = recorded_by_a_long_chat(kind, reserved=True)
    spans = 5  # 256 to 4,096
    assert leases == used, "nothing is kept of memory that was left"
    moves = 2 * len(MOVED)  # of either cache, which know no span
    assert whole <= grown <= whole + moves * spans


def test_all_that_the_host_decides_goes_up_at_once() -> None:
    target, _ = models("whole", None)
    cache, other = target.new_cache(), target.new_cache()
    for each in (cache, other):
        target.extend(torch.arange(40), each)
    inputs, cache.defers = StepInputs(CPU), True
    pending, uniforms = inputs["pending"], inputs["uniforms"]
    rows = [30, 32, 35, 36]
    for each in (cache, other):
        each.keep(30, rows)
    inputs.set("pending", [5, 6])
    inputs.set("uniforms", [0.25, 0.5])
    assert not pending.any()
    inputs.upload([cache])
    assert pending[:3].tolist() == [5, 6, 0]
    assert uniforms[:3].tolist() == [0.25, 0.5, 0.0]
    assert uniforms.dtype is torch.float64
    for one, expected in zip(cache.lease.parts, other.lease.parts, strict=True):
        assert torch.equal(one[:, :, :, :34], expected[:, :, :, :34])
    assert cache.take_move(MOVED[-1]) is None


def test_a_path_longer_than_the_inputs_hold_is_kept() -> None:
    target, _ = models("whole", None)
    cache, other = target.new_cache(), target.new_cache()
    inputs, cache.defers = StepInputs(CPU), True
    for each in (cache, other):
        target.extend(torch.arange(2 * MOVED[-1] + 10) % 61, each)
        each.keep(5, list(range(6, MOVED[-1] + 10)))
    inputs.upload([cache])
    for one, expected in zip(cache.lease.parts, other.lease.parts, strict=True):
        assert torch.equal(one[:, :, :, : cache.length], expected[:, :, :, : cache.length])


class FullMemory(TapeRunner):
    """Memory ends at the n-th replay, and at every one after it."""

    def __init__(self, allowed: int) -> None:
        super().__init__()
        self._allowed = allowed

    @override
    def check(self) -> None:
        if self.replayed >= self._allowed:
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("allowed", [9, 10, 11, 12, 13])
@pytest.mark.parametrize("tree", ["ragged", "root"])
def test_when_memory_ends_recordings_are_dropped_before_the_tree_shrinks(
    tree: str, allowed: int
) -> None:
    """In a forward, in the drafting of a tree, or as rows that were kept are moved."""
    graphs = Graphs(FullMemory(allowed), CPU)
    choice = TreeChoice(Mode.SEQUOIA, TREES[tree], lookup=Lookup.OFF)
    made = engine(models("whole", graphs), choice)
    events = list(made.generate(PROMPT, GREEDY))
    check_laws(events)
    assert tokens_of(events) == plain(models("whole", None)[0], PROMPT, 60)
    assert {len(step.nodes) for step in steps_of(events)} == {TREES[tree].size}
    (message,) = said_of_graphs(events)
    assert "the memory is full" in message
    assert said_of_graphs(list(made.generate(PROMPT, GREEDY))) == []


class Narrow(TapeRunner):
    """Memory ends in a replay while there are more than so many recordings."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most, self.ended = most, 0

    @override
    def check(self) -> None:
        if len(self.recordings) > self._most:
            self.ended += 1
            raise torch.OutOfMemoryError("CUDA out of memory")


@pytest.mark.parametrize("kind", DRAFTS)
def test_where_fewer_recordings_fit_fewer_are_kept_and_nothing_else_changes(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequoia_core.model.graphs.LEAST_RECORDINGS", 3)
    runner = Narrow(most=6)
    graphs = Graphs(runner, CPU)
    answers: list[list[tuple[tuple[int, ...], ...]]] = []
    for each in (graphs, None):
        made = engine(models(kind, each), TreeChoice(Mode.SEQUOIA, TREES["ragged"]))
        answers.append([])
        for tree in ("ragged", "binary", "chain"):
            made.tree_choice = TreeChoice(Mode.SEQUOIA, TREES[tree])
            answers[-1] += decoded(made, GREEDY)
    assert answers[0] == answers[1]
    assert runner.ended
    assert graphs.rung is Rung.LOOPS
    assert len(graphs.known) <= 6


def test_recordings_go_first_then_half_the_tree_and_at_last_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    graphs, most = Graphs(FullMemory(5), CPU), [4]
    pair = models("whole", graphs)
    made = engine(pair, TreeChoice(Mode.SEQUOIA, TREES["binary"], lookup=Lookup.OFF))
    eagerly = Llama.forward_eagerly

    def narrow(model: Llama, token_ids: Tensor, *given: Any) -> Tensor:
        if graphs.rung is Rung.EAGER and model is pair[0] and len(token_ids) > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return eagerly(model, token_ids, *given)

    monkeypatch.setattr(Llama, "forward_eagerly", narrow)
    events = list(made.generate(PROMPT, GREEDY))
    notices = [each for each in events if isinstance(each, Notice)]
    assert [each.kind for each in notices] == [NoticeKind.GRAPHS, *[NoticeKind.MEMORY] * 2]
    assert all(str(nodes) in each.message for nodes, each in zip((7, 3), notices[1:], strict=True))
    sizes = [len(step.nodes) for step in steps_of(events)]
    assert set(sizes) == {15, 3}
    assert sizes == sorted(sizes, reverse=True)
    assert tokens_of(events) == plain(models("whole", None)[0], PROMPT, 60)
    most[0] = 0
    with pytest.raises(MemoryFullError, match="is full at"):
        list(made.generate(PROMPT, GREEDY))


@pytest.mark.parametrize("drafts", [False, True])
def test_recordings_go_before_a_prompt_is_refused(
    drafts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = Graphs(TapeRunner(), CPU)
    target, draft = models("whole", graphs)
    full = draft.model if drafts else target
    made = engine((target, draft), TreeChoice(Mode.SEQUOIA, TREES["ragged"], lookup=Lookup.OFF))
    assert list(made.generate(PROMPT, GREEDY))
    assert graphs.known
    extend = Llama.extend

    def narrow(model: Llama, token_ids: Tensor, cache: LayeredKVCache) -> None:
        if model is full and graphs.known:
            raise torch.OutOfMemoryError("CUDA out of memory")
        extend(model, token_ids, cache)

    monkeypatch.setattr(Llama, "extend", narrow)
    prompt = [at % 61 for at in range(100)]
    events = list(made.generate(prompt, GREEDY))
    check_laws(events)
    assert tokens_of(events) == plain(models("whole", None)[0], prompt, 60)
    (message,) = said_of_graphs(events)
    assert "the memory is full" in message


def said_of_graphs(events: Sequence[Event]) -> list[str]:
    notices = (each for each in events if isinstance(each, Notice))
    return [each.message for each in notices if each.kind is NoticeKind.GRAPHS]


def test_a_failure_is_said_once_by_the_engines_that_were_there() -> None:
    graphs = Graphs(TapeRunner(fails="not permitted"), CPU)
    pair = models("whole", graphs)
    first, beside = (engine(pair, TreeChoice(Mode.SEQUOIA, TREES["ragged"])) for _ in range(2))

    def said(made: Engine) -> list[str]:
        return said_of_graphs(list(made.generate(PROMPT, GREEDY)))

    (message,) = said(first)
    assert "not permitted" in message
    assert said(first) == []
    assert said(beside) == [message]
    assert said(engine(pair, TreeChoice(Mode.SEQUOIA, TREES["ragged"]))) == []


def test_what_the_next_steps_need_is_recorded_in_idle_time() -> None:
    graphs = Graphs(TapeRunner(), CPU)
    made = engine(models("whole", graphs), TreeChoice(Mode.SEQUOIA, TREES["ragged"]))

    def forwards_after(tokens: int) -> int:
        """Recordings of forwards once an answer to a prompt of so many tokens is decoded."""
        prompt = [each % 61 for each in range(tokens)]
        for _ in made.generate(prompt, replace(GREEDY, max_new_tokens=8)):
            pass
        return forwards()

    def forwards() -> int:
        return sum(hasattr(key, "span") for key in graphs.known)

    for cache in (made._cache.target_cache, made._cache.draft_cache):
        assert isinstance(cache, LayeredKVCache)
        cache.reserve(900)
    few = forwards_after(60)
    made.prepare(lambda: False)
    assert forwards() == few  # most of the span is free
    few = forwards_after(200)
    made.prepare(lambda: True)
    assert forwards() == few
    made.prepare(lambda: False)
    assert forwards() == 2 * few
    assert forwards_after(270) == 2 * few
