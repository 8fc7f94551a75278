"""Measuring goes on in slices, stops when asked, resumes, is kept, and then decides the tree."""

import itertools
from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar, cast

import pytest
import torch
from msgspec import structs

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode.engine import Engine
from sequoia_core.errors import ParameterError
from sequoia_core.events import Notice, NoticeKind, PairDescription, Step, StepTimings
from sequoia_core.measure import calibration_run, timings
from sequoia_core.measure.calibration import (
    AcceptanceRecord,
    Band,
    Calibration,
    calibration_path,
)
from sequoia_core.measure.calibration_run import SHAPES, WIDE, CalibrationRun
from sequoia_core.measure.timings import StepCostModel, drafted_rows
from sequoia_core.measure.tuner import Tuner
from sequoia_core.model.graphs import KEPT_RECORDINGS, Graphs
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.pair import Pair
from sequoia_core.speculate.tree_advisor import Advice, BundledAdvisor, TreeAdvisor
from sequoia_core.text.chat_template import ChatTemplate
from sequoia_core.tree.choice import TreeChoice
from tests.core.engines import steps_of
from tests.core.measuring import TIMES, make_step
from tests.core.models import TableModel
from tests.core.tiny_tokenizers import byte_level
from tests.tape_runner import TapeRunner

FINGERPRINTS = itertools.count()
SHORT = ("Why?", "How so?")
DECODING = "Decoding with several trees"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PROMPTS": SHORT, "CONTEXTS": (8, 16), "ROUNDS": 2, "ANSWER_TOKENS": 9, "SHAPE_TOKENS": 5,
        "TARGET_ROWS": (1, 2, 4), "DRAFT_ROWS": (1, 2),
    }.items():  # fmt: skip
        monkeypatch.setattr(calibration_run, name, value)


def pair(draft_seed: int | None = 1, window: int = 512) -> Pair:
    tokenizer = byte_level()
    size = len(tokenizer)
    target = TableModel(size, 1, order=1, window=window)
    draft = None if draft_seed is None else TableModel(size, draft_seed, order=1, window=window)
    return Pair(
        target=cast("Llama", target),
        draft=cast("Llama | None", draft),
        draft_vocab_ids=None,
        tokenizer=tokenizer,
        eos_token_ids=frozenset({tokenizer.eos_token_id}),
        description=PairDescription("target", "draft", "cpu", "float32", window),
        fingerprint=f"tuning-{next(FINGERPRINTS)}",
        acceptance_rates={},
    )


def test_measuring_ends_with_one_notice_and_figures_on_disk() -> None:
    models = pair()
    tuner = Tuner(models)
    packaged = BundledAdvisor({}).advise(0.0, 0, False)
    assert tuner.advisor.advise(0.0, 0, False) == packaged
    assert tuner.advisor.costs(0.0, 0) is None
    events = list(tuner.tune(lambda: False))
    assert [type(event) for event in events] == [Notice]
    notice = cast("Notice", events[0])
    assert notice.kind is NoticeKind.CALIBRATION
    assert "trees now have the size that is fastest here" in notice.message
    assert "nodes" not in notice.message  # it is for whatever tree the chat decodes with
    assert "at temperature 0: " in tuner.summary()
    calibration = Calibration.load(models.fingerprint)
    assert calibration is not None
    assert set(calibration.records) == {Band.GREEDY, Band.WARM}
    for record in calibration.records.values():
        assert record.rates[0] == 1.0  # the draft is the target
        assert record.deeper[0][0] == 1.0
        assert record.steps >= (1 + len(SHORT)) * 9 // (WIDE.depth + 1)
    assert calibration == tuner.calibration
    assert tuner.advisor.advise(0.0, 0, False).rates == calibration.record(0.0).rates
    assert list(tuner.tune(lambda: False)) == []


def test_what_another_conversation_measured_is_not_measured_again() -> None:
    models = pair()
    first, second = Tuner(models), Tuner(models)
    assert len(list(first.tune(lambda: False))) == 1
    assert second.calibration is None
    assert list(second.tune(lambda: False)) == []
    assert measured_of(second) == measured_of(first)


def test_times_are_of_every_context_and_size_that_fits() -> None:
    measuring = CalibrationRun(pair())
    list(measuring.run())
    times = measuring.calibration().times
    assert times.target.contexts == times.draft.contexts == (8, 16)
    assert times.target.curves[0].rows == (1, 2, 4)
    assert times.draft.curves[0].rows == (1, 2)


def test_a_small_window_is_measured_within_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_run, "CONTEXTS", (64, 512, 1024))
    monkeypatch.setattr(calibration_run, "TARGET_ROWS", (1, 2, 4, 400))
    measuring = CalibrationRun(pair(window=300))
    list(measuring.run())
    times = measuring.calibration().times
    assert times.target.contexts == (64,)
    assert times.target.curves[0].rows == (1, 2, 4)


def test_windows_without_room_for_a_tree_are_called_that(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calibration_run, "PROMPTS", SHORT[:1])
    prompt = ChatTemplate(byte_level(), None).whole([], SHORT[0])
    with pytest.raises(ParameterError, match="no room"):
        list(Tuner(pair(window=len(prompt) + 3)).measure())


@pytest.mark.parametrize("room", [-20, 0, 3])
def test_a_chat_in_a_window_without_room_says_nothing_and_tries_once(
    room: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody has asked for a measurement, so there is nothing to shorten either."""
    monkeypatch.setattr(calibration_run, "PROMPTS", SHORT[:1])
    prompt = ChatTemplate(byte_level(), None).whole([], SHORT[0])
    tuner = Tuner(pair(window=len(prompt) + room))
    asked = itertools.count()
    assert list(tuner.tune(lambda: next(asked) < 0)) == []
    tries = next(asked)
    assert tries > 0
    assert list(tuner.tune(lambda: next(asked) < 0)) == []
    assert next(asked) == tries + 1
    with pytest.raises(ParameterError, match=r"leaves no room .*; take a larger one"):
        list(tuner.measure())


def timed_steps(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Step], StepTimings]
) -> CalibrationRun:
    """A run whose steps took the times that `change` gives."""
    original = Engine.generate

    def generate(self: Engine, *args: object) -> Iterator[object]:
        for event in original(self, *args):  # type: ignore[arg-type]
            if isinstance(event, Step):
                event = structs.replace(event, timings=change(event))
            yield event

    monkeypatch.setattr(Engine, "generate", generate)
    measuring = CalibrationRun(pair())
    list(measuring.run())
    return measuring


def test_bookkeeping_is_split_into_what_levels_and_nodes_take(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def timings(step: Step) -> StepTimings:
        depth = max(node.depth for node in step.nodes)
        rest = 0.5 if depth == 0 else 2.0 + 0.25 * depth + 0.125 * len(step.nodes)
        return StepTimings(1.0, 1.0, rest)

    times = timed_steps(monkeypatch, timings).calibration().times
    for rest in (times.greedy, times.sampled):
        assert rest.plain_ms == 0.5
        for nodes, depth in [(tree.size, tree.depth) for tree in SHAPES[1:]] + [(64, 9)]:
            assert rest.of(nodes, depth) == pytest.approx(2.0 + 0.25 * depth + 0.125 * nodes)


def test_drafting_costs_what_it_does_between_verifications(monkeypatch: pytest.MonkeyPatch) -> None:
    """Timed alone, a draft's weights may stay in the processor's caches; in steps they cannot."""
    monkeypatch.setattr(timings, "_one", lambda timed, rows, cache: 2.0)
    measuring = timed_steps(
        monkeypatch, lambda step: StepTimings(7.0 * len(drafted_rows(step)), 1.0, 1.0)
    )
    draft = measuring.calibration().times.draft
    for context, rows in itertools.product((8, 50), (1, 2)):
        assert draft.at(context)(rows) == pytest.approx(7.0)


def test_figures_are_found_again_and_not_measured_twice() -> None:
    models = pair()
    list(Tuner(models).tune(lambda: False))
    target = cast("TableModel", models.target)
    before = target.forwards
    again = Tuner(models)
    assert list(again.tune(lambda: False)) == []
    assert target.forwards == before
    assert again.advisor.advise(0.0, 0, False).predicted_speedup is not None


def test_damaged_figures_are_measured_again() -> None:
    models = pair()
    list(Tuner(models).tune(lambda: False))
    calibration_path(models.fingerprint).write_text('{"version": 1, "greedy"')
    tuner = Tuner(models)
    assert tuner.advisor.advise(0.0, 0, False) == BundledAdvisor({}).advise(0.0, 0, False)
    assert len(list(tuner.tune(lambda: False))) == 1
    assert Calibration.load(models.fingerprint) is not None


def slices(tuner: Tuner) -> Iterator[str]:
    for message, _ in tuner.measure():
        yield message


def after(asked: Iterator[int], allowed: int) -> Callable[[], bool]:
    """Says yes from the question after the allowed ones on."""
    return lambda: next(asked) >= allowed


def test_it_stops_at_the_next_slice_when_somebody_waits() -> None:
    models = pair()
    total = len(list(slices(Tuner(pair()))))
    for allowed in (0, 1, total // 2, total - 2):
        tuner = Tuner(models)
        asked = itertools.count()
        assert list(tuner.tune(after(asked, allowed))) == []
        assert next(asked) == allowed + 1
        assert Calibration.load(models.fingerprint) is None


def test_what_was_decoded_before_a_stop_is_not_decoded_again() -> None:
    models = pair()
    whole = list(slices(Tuner(pair())))
    tuner = Tuner(models)
    first = cast("Generator[tuple[str, float], None, None]", tuner.measure())
    seen = 0
    while seen < whole.count(DECODING) * 3 // 4:
        seen += next(first)[0] == DECODING
    first.close()
    rest = list(slices(tuner))
    assert rest.count(DECODING) < whole.count(DECODING) // 2
    assert set(rest) == {DECODING}
    calibration = Calibration.load(models.fingerprint)
    assert calibration is not None
    assert calibration.records[Band.GREEDY].steps == whole_record(models).steps


def whole_record(models: Pair) -> AcceptanceRecord:
    measuring = CalibrationRun(models)
    list(measuring.run())
    return measuring.calibration().records[Band.GREEDY]


def test_the_share_done_only_rises() -> None:
    shares = [share for _, share in Tuner(pair()).measure()]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)


def test_a_slow_pair_decodes_no_further_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = []
    for seconds in (1e6, 0.0):
        monkeypatch.setattr(calibration_run, "DECODING_SECONDS", seconds)
        counts.append(list(slices(Tuner(pair()))).count(DECODING))
    assert 0 < counts[1] < counts[0]


def test_a_target_without_a_draft_is_timed_alone() -> None:
    """What looking up costs is the target's rows."""
    models = pair(None)
    tuner = Tuner(models)
    assert tuner.advisor.costs(0.0, 8) is None
    (notice,) = tuner.tune(lambda: False)
    assert "no draft" in tuner.summary()
    assert isinstance(notice, Notice)
    assert "prompt lookup now has the length that is fastest here" in notice.message
    kept = Calibration.load(models.fingerprint)
    assert kept == tuner.calibration
    assert kept is not None
    assert (kept.drafts, kept.times.draft) == (False, kept.times.target)
    assert kept.times.target.curves[0].rows == (1, 2, 4)
    for temperature in (0.0, 0.6):
        assert tuner.advisor.advise(temperature, 8, False).growmap is None
        costs = tuner.advisor.costs(temperature, 8)
        assert costs is not None
        assert costs.target_ms(4) == pytest.approx(kept.times.target.at(8)(4))
        assert costs.target_ms(1) + costs.overhead_ms == pytest.approx(costs.plain_ms)
    assert list(Tuner(models).tune(lambda: False)) == []


def test_without_a_draft_what_is_looked_up_goes_on_teaching_times() -> None:
    models = pair(None)
    tuner = Tuner(models)
    list(tuner.measure())
    known, seen = measured_of(tuner), []
    advisor = tuner.advisor
    engine = Engine.of(models, advisor)
    engine.tree_choice = TreeChoice(lookup=Lookup.ON)

    def observed(step: Step, temperature: float, chain: bool) -> Advice | None:
        seen.append(step)
        return advisor.observe(step, temperature, chain)

    engine.advisor = cast("TreeAdvisor", SimpleNamespace(
        advise=advisor.advise, costs=advisor.costs, observe=observed, time=advisor.time
    ))  # fmt: skip
    events = list(engine.generate([1, 2, 3] * 9, SamplingParams(0.0, max_new_tokens=30)))
    assert seen == steps_of(events)
    assert any(len(step.nodes) > 1 for step in seen)
    assert tuner.calibration is known


def test_a_summary_is_one_line_that_the_next_start_gives_too() -> None:
    models = pair()
    tuner = Tuner(models)
    assert list(tuner.measure())
    assert "\n" not in tuner.summary()
    assert tuner.summary() == Tuner(models).summary()


def test_another_temperature_is_measured_beside_those_that_are_known() -> None:
    models = pair()
    list(Tuner(models).measure(0.3))
    tuner = Tuner(models)
    list(tuner.measure(1.0))
    assert tuner.calibration is not None
    assert set(tuner.calibration.records) == {Band.GREEDY, Band.COOL, Band.HOT}
    assert "at temperature 1: " in tuner.summary(1.0)


def test_advice_is_asked_for_per_kind_of_decoding() -> None:
    tuner = Tuner(pair())
    list(tuner.measure())
    chain = tuner.advisor.advise(0.0, 0, True)
    assert chain.growmap is None or chain.growmap.branching == 1
    assert tuner.advisor.advise(0.6, 0, False).rates != ()
    costs = tuner.advisor.costs(0.6, 20)
    assert costs is not None
    assert costs.plain_ms > 0


def test_what_steps_teach_is_kept_when_nobody_waits_and_found_by_the_next_start() -> None:
    models = pair()
    tuner = Tuner(models)
    list(tuner.measure())
    engine = Engine.of(models, tuner.advisor)
    params = SamplingParams(0.0, max_new_tokens=40)
    events = list(engine.generate([1, 2, 3], params))
    tree_steps = [step for step in steps_of(events) if len(step.nodes) > 1]
    assert tuner.calibration is not None
    before = Calibration.load(models.fingerprint)
    assert list(tuner.tune(lambda: False)) == []
    kept = Calibration.load(models.fingerprint)
    assert before is not None
    assert kept == tuner.calibration
    learnt = kept.records[Band.GREEDY].steps - before.records[Band.GREEDY].steps
    assert learnt == len(tree_steps)
    assert Tuner(models).calibration == kept


def test_what_another_process_measured_meanwhile_stays() -> None:
    models = pair()
    chat = Tuner(models)
    list(chat.measure())
    times = replace(measured_of(chat).times, target=measured_of(chat).times.target.scaled(2.0))
    other = replace(measured_of(chat).records[Band.GREEDY], steps=12345)
    records = {Band.GREEDY: other, Band.HOT: other}
    Calibration(times, records).save(models.fingerprint)
    step = make_step(WIDE, (0, 1), StepCostModel(TIMES).costs(0.6, 8))
    chat.advisor.observe(step, 0.6, False)
    chat.keep()
    learnt = measured_of(chat).records[Band.WARM]
    kept = Calibration.load(models.fingerprint)
    assert kept == Calibration(times, {**records, Band.WARM: learnt})
    list(chat.measure())
    assert Calibration.load(models.fingerprint) == chat.calibration


def measured_of(tuner: Tuner) -> Calibration:
    assert tuner.calibration is not None
    return tuner.calibration


def test_nothing_new_is_not_written_again() -> None:
    models = pair()
    tuner = Tuner(models)
    list(tuner.measure())
    calibration_path(models.fingerprint).unlink()
    list(tuner.tune(lambda: False))
    assert Calibration.load(models.fingerprint) is None


@pytest.mark.parametrize("mode", [Mode.AR, Mode.SEQUOIA])
def test_a_running_engine_learns_only_from_speculation(mode: Mode, tmp_path: Path) -> None:
    models = pair(draft_seed=5)
    tuner = Tuner(models)
    list(tuner.measure())
    known = tuner.calibration
    engine = Engine.of(models, tuner.advisor)
    engine.tree_choice = type(engine.tree_choice)(mode, WIDE if mode is Mode.SEQUOIA else None)
    list(engine.generate([1, 2, 3], SamplingParams(0.0, max_new_tokens=30)))
    assert (tuner.calibration is known) == (mode is Mode.AR)


class Known:
    """A `ForwardTimer` of which the times are known; it keeps what it was asked for."""

    made: ClassVar[list["Known"]] = []

    def __init__(self, target: Llama, draft: Llama | None, contexts: list[int]) -> None:
        self.contexts, self.asked = contexts, 0
        Known.made.append(self)

    @staticmethod
    def ms(rows: int) -> float:
        raise NotImplementedError

    def run(
        self, rows: tuple[list[int], list[int]], rounds: int, seconds: float
    ) -> Iterator[float]:
        self.rows = rows
        self.asked = rounds
        yield 1.0

    @property
    def surfaces(self) -> tuple[timings.TimeSurface, timings.TimeSurface]:
        rows = tuple(self.rows[0])
        curve = timings.TimeCurve(rows, tuple(map(self.ms, rows)))
        return (timings.TimeSurface((8,), (curve,)),) * 2


GPU_ROWS = (192, 256, 384, 512, 768)


@pytest.mark.parametrize(
    ("device", "most_nodes", "ms", "large", "contexts"),
    [
        ("cpu", 768, lambda _: 1.0, (), 2),
        ("cuda", 768, lambda _: 20.0, GPU_ROWS, 2),
        ("cuda", 384, lambda _: 20.0, (192, 256, 384), 2),
        ("cuda", 128, lambda _: 20.0, (), 2),
        ("cuda", 768, lambda rows: 1.0 + rows / 20, (192, 256), 2),
        ("cuda", 768, lambda _: 5000.0, (384, 768), 1),
    ],
    ids=["cpu", "flat", "less memory", "least memory", "rising", "offloaded"],
)
def test_a_gpu_times_as_many_rows_as_can_pay(
    device: str,
    most_nodes: int,
    ms: Callable[[int], float],
    large: tuple[int, ...],
    contexts: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A CPU times what it has timed before, and nothing is tried out."""
    rows = (1, 2, 4, 8, 32, 96, 128)
    monkeypatch.setattr(calibration_run, "TARGET_ROWS", rows)
    monkeypatch.setattr(calibration_run, "ForwardTimer", Known)
    monkeypatch.setattr(Known, "ms", staticmethod(ms))
    Known.made.clear()
    models = replace(pair(window=2048), most_nodes=most_nodes)
    monkeypatch.setattr(models.target, "device", torch.device(device))
    assert list(itertools.islice(CalibrationRun(models).run(), 1))
    run = CalibrationRun(models)
    slices = run.run()
    while run._timer is None or not run._timer.asked:  # type: ignore[attr-defined]
        next(slices)
    probe, timer = Known.made[-2:]
    assert bool(probe.asked) == (device == "cuda" and most_nodes > 0)
    kept, drafted = timer.rows
    slow = ms(1) > 1000.0
    assert tuple(kept) == tuple(n for n in rows if not slow or n in (1, 8, 32, 128)) + large
    assert len(timer.contexts) == contexts
    assert drafted[-1] == (256 if device == "cuda" else 2)


@pytest.mark.parametrize("recorded", [False, True])
def test_no_more_is_timed_than_is_kept_of_recordings(
    recorded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each round would record anew, which would be taken for the time of a forward."""
    graphs = Graphs(TapeRunner(), torch.device("cpu")) if recorded else None
    monkeypatch.setattr(calibration_run, "graphs_of", lambda _: graphs)
    monkeypatch.setattr(calibration_run, "CONTEXTS", (8, 16, 24, 32))
    monkeypatch.setattr(calibration_run, "TARGET_ROWS", (1, 2, 4, 8, 32, 96, 128))
    monkeypatch.setattr(calibration_run, "ForwardTimer", Known)
    monkeypatch.setattr(Known, "ms", staticmethod(lambda _: 20.0))
    models = replace(pair(window=2048), most_nodes=768)
    monkeypatch.setattr(models.target, "device", torch.device("cuda"))
    run = CalibrationRun(models)
    slices = run.run()
    while run._timer is None or not run._timer.asked:  # type: ignore[attr-defined]
        next(slices)
    timer = Known.made[-1]
    works = sum(map(len, timer.rows)) * len(timer.contexts)
    assert (works <= KEPT_RECORDINGS) == recorded
    assert len(timer.contexts) > 1
