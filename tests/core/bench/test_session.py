"""A whole benchmark on tiny models, and the processes that measure memory."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sequoia_core.bench import BenchPlan, names, own_systems, process, session
from sequoia_core.bench.own_systems import SizedAdvisor, sized_systems
from sequoia_core.bench.process import StartedSystems, WorkerProcess, start_systems
from sequoia_core.bench.report import BenchSetting, as_values, for_terminal, write_document
from sequoia_core.bench.runs import Decode, NoSpeedError, PeerError, Run
from sequoia_core.bench.session import BenchSession, calibrate, measure, weight_bytes
from sequoia_core.bench.systems import (
    BASELINES,
    OWN,
    PEERS,
    ModelFactory,
    Sources,
    SystemSpec,
    build,
)
from sequoia_core.config import SamplingParams, WeightFormat
from sequoia_core.measure import tuner
from sequoia_core.measure.calibration import Band, Calibration
from sequoia_core.measure.tuner import OnlineAdvisor
from sequoia_core.model.cpu import cpu_threads
from sequoia_core.model.loading.pair import Pair, load_pair
from tests.core.bench_runs import FixedSystem
from tests.core.checkpoints import save_model, tiny_tokenizer
from tests.core.measuring import TIMES, calibration_of, make_step, record_of

RATES = [(0.5, 0.2, 0.1, 0.05)]
MEGABYTES = 64
FEW_PEERS = (*BASELINES, *(peer for peer in PEERS if peer.name == names.LLAMA_CPP))


class StillTuner:
    """Has figures without measuring anything."""

    def __init__(self, _pair: object) -> None:
        self.calibration: Calibration | None = None
        self.measured: list[float] = []

    def measure(self, temperature: float) -> Iterator[tuple[str, float]]:
        yield "measuring", 0.5
        self.measured.append(temperature)
        known = self.calibration.records if self.calibration else {}
        record = record_of([(0.5, 0.2, 0.1, 0.05)], trials=1e6)
        new = dict.fromkeys((Band.GREEDY, Band.of(temperature)), record)
        self.calibration = Calibration(TIMES, {**known, **new})

    def summary(self, temperature: float) -> str:
        return f"measured at {self.measured}, reported of {temperature}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A target and a draft."""
    wide = {"max_position_embeddings": 256}
    save_model(tmp_path / "target", tiny_tokenizer(), **wide)
    save_model(tmp_path / "draft", tiny_tokenizer(), num_hidden_layers=1, **wide)
    (tmp_path / "prompts.txt").write_text("ABC\nDEF\n")
    return tmp_path


def plan_in(folder: Path, **changes: object) -> BenchPlan:
    values: dict[str, object] = {
        "target": str(folder / "target"),
        "draft": str(folder / "draft"),
        "prompts": str(folder / "prompts.txt"),
        "count": 2,
        "tokens": 16,
        "memory": False,
        "conditions": False,
        "dtype": "float32",
        "weights": WeightFormat.TORCH,
        "tree_sizes": (2, 5),
    }
    return BenchPlan(**(values | changes))  # type: ignore[arg-type]


def pair_of(plan: BenchPlan) -> Pair:
    return load_pair(plan.target, plan.draft, dtype=plan.dtype, weights=plan.weights)


def sources_of(plan: BenchPlan) -> Sources:
    return Sources(plan, "cpu", "float32", threads=1)


def with_still_tuner(folder: Path) -> tuple[ModelFactory, StillTuner]:
    plan = plan_in(folder)
    factory = ModelFactory(sources_of(plan), pair_of(plan))
    factory.tuner = tuner = StillTuner(None)  # type: ignore[assignment]
    return factory, tuner


def test_a_benchmark_from_beginning_to_end(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tuner, "Tuner", StillTuner)
    monkeypatch.setattr(session, "PEERS", FEW_PEERS)
    plan, reported = plan_in(folder), list[str]()
    findings = measure(pair_of(plan), plan, lambda message, _: reported.append(message))
    assert findings.tuned == "measured at [0.6], reported of 0.6"
    assert "Prompt 2 of 2: sequoia tree" in reported
    own, peers = [names.PLAIN, *names.TREES], [names.PYTORCH]
    assert set(findings.absent) == {names.LLAMA_CPP}
    for comparison in findings.comparisons:
        assert list(comparison.runs) == own + peers
        assert list(comparison.sizes) == [1, 2, 5]
        assert all(len(runs) == 2 for runs in comparison.runs.values())
        for runs in comparison.runs.values():
            assert all(len(run.token_ids) == plan.tokens for run in runs)
    greedy, sampled = findings.comparisons
    assert greedy.params.temperature == 0.0
    for name, runs in greedy.runs.items():  # float32: every way to decode gives the same text
        texts = [run.token_ids for run in runs]
        assert texts == [run.token_ids for run in greedy.runs[names.PLAIN]], name
    assert {run.tree for run in sampled.runs[names.PACKAGED]} == {"6 nodes, depth 2"}
    assert {run.tree for run in sampled.runs[names.ADAPTIVE]} == {"adaptive"}
    assert {run.tree for run in sampled.runs[names.DYNAMIC]} == {"dynamic:60x6x10"}
    for comparison in findings.comparisons:  # one for all runs, though measured trees may change
        (bounds,) = {run.tree for run in comparison.runs[names.DYNAMIC_MEASURED]}
        assert bounds.startswith("dynamic:")
    assert {run.tree for run in sampled.runs[names.PLAIN]} == {"plain"}
    assert len(findings.divergences) == len(own + peers) - 1
    assert all("the same text" in line for line in findings.divergences)
    setting = BenchSetting("here", "this", "those")
    write_document(findings, setting, folder / "bench.md")
    assert as_values(findings, setting)["threads"] == cpu_threads()
    assert names.ADAPTIVE in for_terminal(findings)


def test_without_a_draft_plain_decoding_is_compared_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "Tuner", StillTuner)
    plan = plan_in(folder, draft="none", peers=False, temperatures=(0.6,))
    findings = measure(pair_of(plan), plan, lambda *_: None)
    (comparison,) = findings.comparisons
    assert list(comparison.runs) == [names.PLAIN]
    assert list(comparison.sizes) == [1]
    assert "name one with --draft" in findings.absent[names.TREE]
    assert findings.divergences == ()


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@pytest.mark.parametrize("nodes", [2, 3, 7, 16])
def test_the_sweep_takes_trees_of_exactly_the_size_asked_for(
    nodes: int, temperature: float
) -> None:
    advice = SizedAdvisor(OnlineAdvisor(calibration_of(RATES)), nodes).advise(
        temperature, 100, False
    )
    assert advice.growmap is not None
    assert advice.growmap.size == nodes


@pytest.mark.parametrize(
    ("asked", "measured"),
    [((0.0,), [0.0]), ((0.0, 0.6), [0.6]), ((0.3, 0.0, 1.2, 1.0), [1.2, 0.3]), ((0.5, 0.6), [0.6])],
)
def test_every_temperature_band_asked_for_is_measured_now(
    folder: Path, asked: tuple[float, ...], measured: list[float]
) -> None:
    factory, tuner = with_still_tuner(folder)
    for times in (1, 2):  # whatever is known already: it may be of a busier machine
        calibrate(factory, asked, lambda *_: None)
        assert tuner.measured == times * measured


def test_what_one_system_learns_changes_no_other(folder: Path) -> None:
    factory, tuner = with_still_tuner(folder)
    list(tuner.measure(0.6))
    before = tuner.calibration
    learning, other = factory.advisor(), factory.advisor()
    expected = other.advise(0.6, 100, False)
    costs = learning.costs(0.6, 100)
    assert expected.growmap is not None
    assert costs is not None
    for _ in range(40):
        learning.observe(make_step(expected.growmap, [0], costs, slower=3.0), 0.6, False)
    assert learning.advise(0.6, 100, False).rates != expected.rates
    assert learning.costs(0.6, 100).plain_ms != costs.plain_ms  # type: ignore[union-attr]
    assert other.advise(0.6, 100, False) == expected
    assert tuner.calibration is before


def test_no_two_systems_share_an_advisor(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    factory, tuner = with_still_tuner(folder)
    list(tuner.measure(0.6))
    advisors: list[Any] = []
    make = own_systems.engine_system

    def noting(pair: Pair, advisor: Any, *others: Any) -> Decode:
        advisors.append(getattr(advisor, "_tuned", advisor))
        return make(pair, advisor, *others)

    monkeypatch.setattr(own_systems, "engine_system", noting)
    with start_systems(factory, OWN) as started:
        assert list(started.systems) == [each.name for each in OWN]
    sized_systems(factory, (2, 5))
    own = len(OWN) - 1  # the tree of measured bounds has an engine from its first run on
    assert len(set(map(id, advisors))) == len(advisors) == own + 2


def test_without_any_figures_systems_take_packaged_trees(folder: Path) -> None:
    factory, _ = with_still_tuner(folder)
    assert "packaged" in factory.advisor().advise(0.0, 0, False).reason


def test_the_weights_of_both_models_are_counted_in_two_bytes_each(folder: Path) -> None:
    plan = plan_in(folder)
    pair = pair_of(plan)
    models = [save_model(folder / "again"), save_model(folder / "again", num_hidden_layers=1)]
    expected = sum(each.numel() for model in models for each in model.state_dict().values())
    assert pair.draft is not None
    assert weight_bytes(plan) == 2 * expected


def printed(code: str) -> list[int]:
    """Numbers that a fresh interpreter prints."""
    code = f"from sequoia_core.bench.process import peak_memory\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.split()]


def test_the_peak_is_of_what_was_held_at_once_also_when_it_is_freed() -> None:
    size = MEGABYTES << 20
    hold = f"held = bytearray(b'x') * {size}; del held"
    before, after = printed(f"print(peak_memory())\n{hold}\n{hold}\nprint(peak_memory())")
    assert 0.95 * size < after - before < 1.5 * size


def test_a_process_does_not_count_what_the_one_that_started_it_held() -> None:
    held = bytearray(b"x") * (400 << 20)
    assert len(held) > printed("print(peak_memory())")[0]


def test_under_particular_conditions_plain_decoding_and_the_best_tree_are_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "Tuner", StillTuner)
    monkeypatch.setattr(session, "PREFILL_ROUNDS", 2)
    monkeypatch.setattr(session, "best_tree", lambda _: names.LOOKUP)
    plan = plan_in(folder, conditions=True, peers=False, count=1, temperatures=(0.0,))
    found = measure(pair_of(plan), plan, lambda *_: None)
    assert found.prefill_tokens == 256 - 16  # what the context window leaves room for
    assert found.prefill is not None
    assert {name: len(runs) for name, runs in found.prefill.runs.items()} == {names.PLAIN: 2}
    assert found.busy is not None
    wanted = [names.PLAIN, names.LOOKUP]
    assert list(found.busy.runs) == [each for name in wanted for each in (name, names.busy(name))]
    texts = {runs[0].token_ids for runs in found.busy.runs.values()}
    assert len(texts) == 1
    assert found.avx2 is None  # PyTorch computes this pair


def test_an_interrupt_leaves_out_what_follows(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tuner, "Tuner", StillTuner)
    plan = plan_in(folder, conditions=True, memory=True, peers=False, temperatures=(0.0,))

    def interrupt(message: str, _fraction: float | None) -> None:
        if message.startswith("Prompt 2"):
            raise KeyboardInterrupt

    findings = measure(pair_of(plan), plan, interrupt)
    assert findings.interrupted
    assert {len(runs) for runs in findings.comparisons[0].runs.values()} == {1}
    assert findings.busy is None
    assert findings.memory == {}
    assert "was interrupted" in for_terminal(findings)


def test_a_condition_under_which_every_system_breaks_down_has_no_figures(folder: Path) -> None:
    plan = plan_in(folder)
    measuring = BenchSession(
        ModelFactory(sources_of(plan), pair_of(plan)), [[3, 5]], lambda *_: None
    )
    systems = {"a": FixedSystem("a", 10, [], fails_at=0)}
    assert measuring._one(systems, [[3]], SamplingParams(0.0)) is None
    assert measuring.findings.absent == {"a": "it fell over"}


class FakeProcess(WorkerProcess):
    """A process that holds as many bytes as it has decoded tokens, unless it is `gone`."""

    def __init__(self, tokens: int = 0, gone: bool = False) -> None:
        self.tokens, self.gone = tokens, gone

    def decode(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        self.tokens += params.max_new_tokens
        raise NoSpeedError("one step")

    def ask(self, **request: Any) -> int:
        assert request == {"peak_memory": True}
        if self.gone:
            raise PeerError("it is gone")
        return self.tokens


def test_memory_is_of_processes_that_have_answered(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def start_elsewhere(_: object, specs: Sequence[SystemSpec]) -> Iterator[StartedSystems]:
        assert not any(each.here for each in specs)
        yield StartedSystems(processes={each.name: FakeProcess() for each in specs})

    monkeypatch.setattr(session, "start_systems", start_elsewhere)
    monkeypatch.setattr(session, "best_tree", lambda _: names.CHAIN)
    plan = plan_in(folder, memory=True)
    factory = ModelFactory(sources_of(plan), pair_of(plan))
    measuring = BenchSession(factory, [[3, 5]], lambda *_: None)
    # a peer has taken part, so it need not answer again
    peers = {names.HF_PLAIN: FakeProcess(7), names.OPENVINO: FakeProcess(gone=True)}
    measuring.measure_memory(peers)
    found = measuring.findings
    assert found.memory == {names.PLAIN: 16, names.CHAIN: 16, names.HF_PLAIN: 7}
    assert found.absent == {f"{names.OPENVINO}, memory": "it is gone"}


def test_processes_end_with_the_block_and_when_a_system_cannot_be_built(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []

    class Process(FakeProcess):
        def __init__(self, sources: Sources, environment: object = None) -> None:
            super().__init__()

        def ask(self, **request: Any) -> int:
            self.name = request["build"]
            if self.name == "b":
                raise PeerError("it has no draft")
            return 0

        def close(self) -> None:
            closed.append(self.name)

    monkeypatch.setattr(process, "WorkerProcess", Process)
    specs = [
        SystemSpec(name, "sequoia_core", lambda _: FakeProcess().decode) for name in ("a", "b", "c")
    ]
    with start_systems(ModelFactory(sources_of(plan_in(folder))), specs) as started:
        assert list(started.systems) == list(started.processes) == ["a", "c"]
        assert started.absent == {"b": "it has no draft"}
        assert closed == ["b"]
    assert closed == ["b", "a", "c"]


@contextmanager
def elsewhere(folder: Path, name: str, **changes: object) -> Iterator[WorkerProcess]:
    """A system of this engine in a process of its own."""
    with closing(WorkerProcess(sources_of(plan_in(folder, **changes)))) as worker:
        worker.ask(build=name)
        yield worker


def test_a_system_decodes_the_same_in_a_process_of_its_own(folder: Path) -> None:
    plan = plan_in(folder)
    sources, pair = sources_of(plan), pair_of(plan)
    params, prompt = SamplingParams(0.0, seed=1, max_new_tokens=16), [3, 17, 5]
    with elsewhere(folder, names.PLAIN) as worker:
        run, again = (worker.decode(prompt, params) for _ in range(2))
        with pytest.raises(NoSpeedError, match="decode more"):
            worker.decode(prompt, SamplingParams(0.0, max_new_tokens=1))
        used = worker.ask(peak_memory=True)
    here = build(ModelFactory(sources, pair), names.PLAIN)(prompt, params)
    assert run.token_ids == again.token_ids == here.token_ids
    assert (run.tokens, run.steps, run.tree) == (here.tokens, here.steps, here.tree)
    assert run.parts is not None
    assert MEGABYTES << 20 < used < 1 << 30


def test_why_a_process_has_ended_is_its_last_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = "import sys; sys.stdin.readline(); sys.exit('first\\nno such thing')"
    monkeypatch.setattr(process, "COMMAND", ("-c", source))
    ended = pytest.raises(PeerError, match="its process ended: no such thing")
    with ended, elsewhere(folder, names.PLAIN):
        pass


def test_what_a_system_needs_is_reported_across_processes(folder: Path) -> None:
    needs = pytest.raises(PeerError, match="name one with --draft")
    with needs, elsewhere(folder, names.CHAIN, draft="none"):
        pass


def test_the_environment_of_a_spec_is_its_process_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = (
        "import json, os, sys\nfor line in sys.stdin:\n"
        " asked = json.loads(line)\n"
        " if 'build' in asked:\n"
        "  print(json.dumps({'error': os.environ['NAMED'] + os.environ['OMP_NUM_THREADS'],"
        " 'no_speed': False}), flush=True)"
    )
    monkeypatch.setattr(process, "COMMAND", ("-c", source))
    spec = SystemSpec("any", "sequoia_core", lambda _: None, environment={"NAMED": "here"})  # type: ignore[arg-type,return-value]
    factory = ModelFactory(replace(sources_of(plan_in(folder)), threads=7))
    with start_systems(factory, [spec]) as started:
        pass
    assert started.absent == {"any": "here7"}
