"""What drawing costs: the clock, and the order of the runs."""

import pytest

from sequoia_core.config import SamplingParams
from sequoia_core.events import Step
from tests.app import screen_bench
from tests.app.screen_bench import AnswerClock, measure_screen
from tests.fakes import replay


def test_the_clock_counts_what_came_after_the_first_step(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(1000))
    monkeypatch.setattr(screen_bench, "perf_counter", lambda: float(next(ticks)))
    engine = replay()
    clock = AnswerClock(engine)
    events = list(engine.reply("Why?", SamplingParams(), lambda: False))
    steps = [event for event in events if isinstance(event, Step)]
    assert len(steps) > 2
    assert clock.tokens == sum(len(step.token_ids) for step in steps[1:])
    assert clock.seconds == len(steps) - 1
    assert list(engine.tune(lambda: False)) == []


def test_runs_alternate_and_the_ratio_is_taken_pair_by_pair(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []

    def run(kind: str, _prompts: object, _flags: object, typed: list[float] | None = None) -> float:
        if typed is not None:
            typed += [0.002, 0.001, 0.004]
        else:
            order.append(kind)
        return 90.0 if kind == "screen" else 100.0

    monkeypatch.setattr(screen_bench, "_run_in_terminal", run)
    text = measure_screen(["a"], {}, 2, lambda _message, _fraction: None)
    assert order == ["screen", "headless", "headless", "screen"]
    assert "ratio 0.90 (0.90 to 0.90)" in text
    assert "key to echo while it decodes 2.0 ms, 99% within 4.0 ms, 3 keys" in text
