"""The proof, with a model small enough for a test: what must hold holds, and is looked at."""

import itertools
import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.errors import ParameterError
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.offload import model as offload_model
from sequoia_core.model.offload.model import Buffer, GpuLoader, LayerStream
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import expected_tokens_table
from tests.core.engines import make_engine, steps_of, tokens_of
from tests.core.model.offload.test_cuda import SameThread
from tests.core.model.offload.test_layer_stream import Log
from tests.core.models import TableModel
from tests.proofs import offload_proof
from tests.proofs.offload_model import RandomLlama
from tests.proofs.offload_proof import (
    MIB,
    ProofPlan,
    ProofResult,
    embedded_rates,
    lines_of,
    prove,
)
from tests.proofs.offload_timeline import Activity, Overlap, Span, draw, watch
from tests.proofs.offload_worker import (
    DecodeStats,
    DecodeTask,
    OffloadWorker,
    WorkerResult,
    run_worker,
)
from tests.proofs.oracle_draft import OracleDraft

Proven = tuple[ProofPlan, ProofResult]
RATES = (0.5, 0.2, 0.1)
SMALL = RandomLlama(hidden=64, inner=128, layers=4, heads=4, vocab=97)


@pytest.fixture(scope="module")
def proven(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proven]:
    """Layers of 15 MiB, of which ten are more than the limit leaves besides PyTorch.

    What is not limited, or was limited once already, runs in this process, which is faster.
    """
    model = RandomLlama(hidden=512, inner=4608, layers=10, heads=8, vocab=256)
    rates = embedded_rates()
    plan = ProofPlan(model, limit=400 * MIB, prompts=1, tokens=6, rates=rates, rows=(1, 8))

    def work(task: DecodeTask) -> WorkerResult:
        limited = task.limit is not None and (task.cold or task.offload == "none")
        return run_worker(task) if limited else OffloadWorker(task).run()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(offload_proof, "run_worker", work)
        yield plan, prove(plan, tmp_path_factory.mktemp("proof"), lambda _message: None)


def test_tokens_under_the_limit_are_the_resident_models(
    proven: Proven,
) -> None:
    proof, found = proven
    wanted = found.resident.plain.answers
    assert [len(answer) for answer in wanted] == [6]
    assert len(set(wanted[0])) > 1
    assert found.cold.data < proof.limit
    for outcome in (found.cold, found.warm):
        assert outcome.error is None
        assert outcome.plain.answers == outcome.tree.answers == wanted


def test_the_resident_model_does_not_fit_under_it(proven: Proven) -> None:
    assert proven[1].refused.error is not None


def test_every_layer_is_read_for_every_step(proven: Proven) -> None:
    proof, found = proven
    layer = 2 * (found.weights - 256 * 512 * 2) / proof.model.layers
    for way in (found.cold.plain, found.cold.tree):
        assert way.bytes_read > 0.9 * layer * proof.model.layers * len(way.seconds)


def test_the_report_says_what_was_found(proven: Proven) -> None:
    text = "\n".join(lines_of(*proven))
    assert "400 MiB of data" in text
    assert text.count("6 of 6 tokens the resident model's") == 4
    for activity in Activity:
        assert text.count(f" {activity.value:<8}") >= 4


def outcome(answers: list[list[int]], plain: float = 2.0, error: str | None = None) -> WorkerResult:
    ways = [DecodeStats(answers, [seconds]) for seconds in (plain, 1.0)]
    return WorkerResult(ways[0], ways[1], error=error)


GOOD = ProofResult(
    weights=1,
    resident=outcome([[1, 2]]),
    refused=outcome([], error="no memory"),
    cold=outcome([[1, 2]]),
    warm=outcome([[1, 2]]),
)


def test_what_holds_is_no_failure() -> None:
    assert GOOD.failures == []


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (replace(GOOD, refused=outcome([])), "the limit does not bite"),
        (replace(GOOD, cold=outcome([[1, 4]])), "gives other tokens"),
        (replace(GOOD, warm=outcome([[1, 4]])), "gives other tokens"),
        (replace(GOOD, cold=outcome([[1, 2]], plain=1.9)), "less than 2 times"),
        (replace(GOOD, cold=outcome([], error="the disk is gone")), "from disk: the disk is gone"),
    ],
)
def test_what_does_not_hold_is_named(found: ProofResult, message: str) -> None:
    assert any(message in failure for failure in found.failures)


def test_the_model_is_written_in_shards_that_load(tmp_path: Path) -> None:
    count = SMALL.write(tmp_path)
    assert len(list(tmp_path.glob("*.safetensors"))) == SMALL.layers + 1
    weights = open_directory(tmp_path).weights
    assert count == sum(tensor.numel() for tensor in weights.values())
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}


@pytest.mark.parametrize(("prompts", "tokens"), [(0, 1), (1, 0)])
def test_an_empty_proof_is_refused(prompts: int, tokens: int) -> None:
    with pytest.raises(ParameterError, match="at least one"):
        ProofPlan(SMALL, MIB, prompts, tokens, RATES)


def test_the_draft_agrees_as_often_as_it_is_reported() -> None:
    """Each rank within four standard deviations of its rate."""
    draft = OracleDraft(range(4000), 97, RATES, seed=1)
    ranks = [draft.rank(position) for position in range(4000)]
    for rank, rate in enumerate(RATES):
        spread = (rate * (1 - rate) / 4000) ** 0.5
        assert abs(ranks.count(rank) / 4000 - rate) < 4 * spread


def test_the_drafts_ranks_are_what_its_logits_say() -> None:
    text = [random.Random(at).randrange(97) for at in range(200)]
    draft = OracleDraft(text, 97, RATES, seed=2)
    cache = draft.new_cache()
    positions = torch.arange(199)
    logits = draft.forward(torch.zeros(199, dtype=torch.int64), positions, None, cache)
    assert cache.length == 199
    for row, position in zip(logits, positions.tolist(), strict=True):
        likeliest = row.topk(len(RATES)).indices.tolist()
        rank = draft.rank(position + 1)
        assert len(set(likeliest)) == len(RATES)
        assert (text[position + 1] in likeliest) == (rank is not None)
        if rank is not None:
            assert likeliest[rank] == text[position + 1]


def test_a_tree_with_this_draft_emits_the_tokens_that_the_search_expects() -> None:
    target = TableModel(61, 3, window=4096)
    params = SamplingParams(temperature=0.0, max_new_tokens=600)
    plain = tokens_of(list(make_engine(target, None).generate([1, 2], params)))
    draft = OracleDraft([1, 2, *plain], 61, RATES, seed=3)
    table = expected_tokens_table(RATES, 12, 5, len(RATES))
    engine = make_engine(target, draft, table.tree(12, 5), Mode.SEQUOIA)
    events = list(engine.generate([1, 2], params))
    assert tokens_of(events) == plain
    steps = steps_of(events)
    assert 600 / len(steps) == pytest.approx(table.values[12, 5], rel=0.15)


def spans(*rows: tuple[Activity, int, float, float]) -> list[Span]:
    return [Span(*row) for row in rows]


READ, WAIT, COMPUTE = Activity.READ, Activity.WAIT, Activity.COMPUTE


def test_overlap_is_what_both_share() -> None:
    found = Overlap.of(
        spans(
            (READ, 0, 0.0, 2.0),
            (READ, 1, 2.0, 4.0),
            (WAIT, 0, 0.0, 2.0),
            (COMPUTE, 0, 2.0, 3.0),
            (COMPUTE, 1, 4.0, 5.0),
        )
    )
    assert found == Overlap(reading=4.0, computing=2.0, both=1.0, waiting=2.0)
    assert found.hidden == 0.5
    assert Overlap(0.0, 0.0, 0.0, 0.0).hidden == 0.0


class TimedStream:
    """Work of a device in order; `time` is when what is issued so far will be done."""

    def __init__(self) -> None:
        self.time = 0.0

    def wait_event(self, event: "TimedEvent") -> None:
        self.time = max(self.time, event.time)

    def synchronize(self) -> None:
        """The host's time does not count."""


class TimedEvent:
    def __init__(self, enable_timing: bool = False) -> None:
        self.time, self._timed = 0.0, enable_timing

    def record(self, stream: TimedStream) -> None:
        self.time = stream.time

    def synchronize(self) -> None:
        """It has happened."""

    def elapsed_time(self, other: "TimedEvent") -> float:
        assert self._timed
        assert other._timed
        return 1e3 * (other.time - self.time)


def test_a_watched_gpu_is_timed_by_its_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy takes two seconds, a layer's products take one; the host takes no time at all."""
    compute, copies = TimedStream(), TimedStream()
    current = [compute]

    @contextmanager
    def within(stream: TimedStream) -> Iterator[None]:
        current.append(stream)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "Stream", lambda _device: copies)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _device: current[-1])
    monkeypatch.setattr(torch.cuda, "Event", TimedEvent)
    monkeypatch.setattr(torch.cuda, "stream", within)
    monkeypatch.setattr(offload_model, "ThreadPoolExecutor", SameThread)

    class Loader(GpuLoader):
        def copy(self, source: Buffer, slot: int) -> None:
            copies.time += 2.0

    reported: list[Span] = []
    buffers = [{"down": torch.zeros(1)} for _ in range(2)]
    stream = LayerStream(Loader(lambda *_: {}, buffers), 4, {2})
    watch(stream, reported.append)
    for _ in stream.iterate(range(4)):
        compute.time += 1.0
    found: dict[Activity, list[tuple[int, float, float]]] = {each: [] for each in Activity}
    for span in reported:
        found[span.activity].append((span.layer, span.began, span.ended))
    assert found[Activity.READ] == [(0, 0.0, 2.0), (1, 2.0, 4.0), (3, 4.0, 6.0)]
    assert found[Activity.COMPUTE] == [(0, 2.0, 3.0), (1, 4.0, 5.0), (2, 5.0, 6.0), (3, 6.0, 7.0)]
    assert found[Activity.WAIT] == [(0, 0.0, 2.0), (1, 3.0, 4.0), (2, 5.0, 5.0), (3, 6.0, 6.0)]
    assert Overlap.of(reported).hidden == 3.0 / 4.0


def test_a_watched_stream_reports_its_times() -> None:
    reported: list[Span] = []
    stream = LayerStream(Log(), 3)
    watch(stream, reported.append)
    for _ in range(2):
        for _ in stream.iterate(range(3)):
            pass
    stream.close()
    for activity in Activity:
        found = [span for span in reported if span.activity is activity]
        assert [span.layer for span in found] == [0, 1, 2] * 2
        assert all(span.began <= span.ended for span in found)
        assert all(first.ended <= second.began for first, second in itertools.pairwise(found))
    for read, waited, computed in zip(*(iter(reported),) * 3, strict=True):
        assert read.ended <= waited.ended == computed.began


def test_a_drawing_shows_each_layer_where_it_was() -> None:
    drawn = draw(
        spans((READ, 0, 0.0, 2.0), (READ, 11, 2.0, 4.0), (COMPUTE, 0, 2.0, 3.0)), 0.0, 4.0, width=8
    )
    assert drawn == ["read    0000bbbb", "wait    ········", "compute ····00··"]


def test_a_growmap_of_the_report_is_the_workers(proven: Proven) -> None:
    assert GrowMap(tuple(proven[1].cold.parents)).size > 1
