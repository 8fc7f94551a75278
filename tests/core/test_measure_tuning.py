"""Measuring goes on in slices, stops when asked, resumes, is kept, and then decides the tree."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import replace
from itertools import count
from types import SimpleNamespace
from typing import cast

import pytest

from sequoia_core.config import Mode
from sequoia_core.events import Notice, NoticeKind, StepTimings
from sequoia_core.measure import calibrate, tuning
from sequoia_core.measure.calibration import calibration_path, load_calibration
from sequoia_core.measure.tuning import Tuner
from sequoia_core.model.llama import Llama
from sequoia_core.pair import Pair
from sequoia_core.protocols import PairDescription
from sequoia_core.trees import BundledAdvisor
from tests.core.models import TableModel
from tests.core.tiny_tokenizers import byte_level

FINGERPRINTS = count()
SHORT = ("Why?", "How so?")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "PROMPTS": SHORT, "CONTEXT": 8, "REPEATS": 2, "ANSWER_TOKENS": 5,
        "TARGET_ROWS": (1, 2, 4), "DRAFT_ROWS": (1, 2),
    }.items():  # fmt: skip
        monkeypatch.setattr(tuning, name, value)


def pair(draft_seed: int | None = 1) -> Pair:
    tokenizer = byte_level()
    size = len(tokenizer)
    target = TableModel(size, 1, order=1)
    draft = None if draft_seed is None else TableModel(size, draft_seed, order=1)
    return Pair(
        target=cast("Llama", target),
        draft=cast("Llama | None", draft),
        draft_vocab_ids=None,
        tokenizer=tokenizer,
        eos_token_ids=frozenset({tokenizer.eos_token_id}),
        description=PairDescription("target", "draft", "cpu", "float32", 512),
        fingerprint=f"tuning-{next(FINGERPRINTS)}",
        acceptance_rates={},
    )


def test_measuring_ends_with_one_notice_and_figures_on_disk() -> None:
    models = pair()
    tuner = Tuner(models)
    packaged = BundledAdvisor.default({}).advise(0.0, 0, False)
    assert tuner.advise(0.0, 0, False) == packaged
    events = list(tuner.tune(lambda: False))
    assert [type(event) for event in events] == [Notice]
    notice = cast("Notice", events[0])
    assert notice.kind is NoticeKind.CALIBRATION
    assert notice.message == tuner.summary()
    calibration = load_calibration(models.fingerprint)
    assert calibration is not None
    assert calibration.greedy_positions == len(SHORT) * 5
    assert calibration.stochastic_positions == len(SHORT) * 5
    assert calibration.greedy[0] == calibration.stochastic[0] == 1.0  # the draft is the target
    assert tuner.advise(0.0, 0, False) == calibration.advise(True, False)
    assert list(tuner.tune(lambda: False)) == []


def test_bookkeeping_beyond_a_plain_steps_is_part_of_the_figures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def steps(_: Tuner, mode: Mode) -> list[SimpleNamespace]:
        costs = (1.0, 2.0, 9.0) if mode is Mode.AR else (4.0, 5.0, 90.0)
        return [SimpleNamespace(timings=StepTimings(0.0, 0.0, cost)) for cost in costs]

    monkeypatch.setattr(Tuner, "_steps", steps)
    models = pair()
    list(Tuner(models).tune(lambda: False))
    calibration = load_calibration(models.fingerprint)
    assert calibration is not None
    assert calibration.overhead_ms == 3.0
    dearer = replace(calibration, overhead_ms=1e6)
    assert calibration.advise(True, False).predicted_speedup != 0
    assert dearer.advise(True, False).growmap is None


def test_figures_are_found_again_and_not_measured_twice() -> None:
    models = pair()
    list(Tuner(models).tune(lambda: False))
    target = cast("TableModel", models.target)
    before = target.forwards
    again = Tuner(models)
    assert list(again.tune(lambda: False)) == []
    assert target.forwards == before
    assert again.advise(0.0, 0, False).predicted_speedup is not None


def test_damaged_figures_are_measured_again() -> None:
    models = pair()
    list(Tuner(models).tune(lambda: False))
    calibration_path(models.fingerprint).write_text('{"version": 1, "greedy"')
    tuner = Tuner(models)
    assert tuner.advise(0.0, 0, False) == BundledAdvisor.default({}).advise(0.0, 0, False)
    assert len(list(tuner.tune(lambda: False))) == 1
    assert load_calibration(models.fingerprint) is not None


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
        asked = count()
        assert list(tuner.tune(after(asked, allowed))) == []
        assert next(asked) == allowed + 1
        assert load_calibration(models.fingerprint) is None


def test_what_was_written_before_a_stop_is_not_written_again() -> None:
    models = pair()
    whole = list(slices(Tuner(pair())))
    reading = "Reading the target's own text"
    tuner = Tuner(models)
    first = cast("Generator[tuple[str, float], None, None]", tuner.measure())
    seen = 0
    while seen < whole.count(reading) * 3 // 4:
        seen += next(first)[0] == reading
    first.close()
    assert list(slices(tuner)).count(reading) < whole.count(reading) * 3 // 4
    calibration = load_calibration(models.fingerprint)
    assert calibration is not None
    assert calibration.greedy_positions == len(SHORT) * 5
    assert calibration.stochastic_positions == len(SHORT) * 5


def test_the_share_done_only_rises() -> None:
    shares = [share for _, share in Tuner(pair()).measure()]
    assert shares == sorted(shares)
    assert all(0 <= share <= 1 for share in shares)


def test_a_target_without_a_draft_has_nothing_to_measure() -> None:
    tuner = Tuner(pair(None))
    assert list(tuner.measure()) == []
    assert "no draft" in tuner.summary()


def test_calibrate_reports_progress_and_a_line(tmp_path: object) -> None:
    told: list[tuple[str, float | None]] = []
    models = pair()
    line = calibrate(models, lambda message, share: told.append((message, share)))
    assert told
    assert "\n" not in line
    assert line == Tuner(models).summary()


def test_advice_is_asked_for_per_kind_of_decoding() -> None:
    tuner = Tuner(pair())
    list(tuner.measure())
    chain = tuner.advise(0.0, 0, True)
    assert chain.growmap is None or chain.growmap.branching == 1
    assert tuner.advise(0.6, 0, False).rates != ()
