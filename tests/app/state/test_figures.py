"""Figures in words: speed against plain decoding, and what a request came to."""

from collections import Counter

import pytest
from msgspec.structs import replace

from app.config.settings import Settings
from app.present.captions import totals_of
from app.present.words import describe
from app.state.figures import accepted_words, figures, request_lines, speed_words
from app.widgets.header import Header, _figures
from app.widgets.line import first_fitting, speed_text
from sequoia_core.config import Lookup
from sequoia_core.events import DeviceMemory, MemoryUse, Step, StepTimings, Totals
from sequoia_core.files import decode, encode
from tests.app.records import answer_of
from tests.fakes import PAIR, TREE_16, make_answer, unmeasured, with_baseline

STEPS = [event for event in make_answer() if isinstance(event, Step)]


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (0.781, "22% slower than plain"),
        (0.97, "3% slower than plain"),
        (0.98, "as fast as plain"),
        (1.02, "as fast as plain"),
        (1.03, "3% faster than plain"),
        (1.0949, "9% faster than plain"),
        (1.0951, "1.1x faster than plain"),
        (1.44, "1.4x faster than plain"),
        (9.949, "9.9x faster than plain"),
        (9.96, "10x faster than plain"),
        (31.4, "31x faster than plain"),
    ],
)
def test_wall_clock_is_said_in_words(ratio: float, words: str) -> None:
    assert speed_words(ratio) == words
    assert speed_words(ratio, short=True) == words.removesuffix(" than plain")


def timed(tokens: int, step_ms: float, plain_ms: float) -> Step:
    """A step of so many tokens; one of a single token is a plain one."""
    return replace(
        STEPS[0],
        token_ids=(7,) * tokens,
        timings=StepTimings(0.0, step_ms, 0.0),
        plain_ms=plain_ms,
        baseline=tokens == 1,
    )


def test_a_delayed_plain_step_makes_no_pass_shorter_than_a_plain_one() -> None:
    passes = [timed(4, 20.0, 90.0)] * 9
    answer = [*passes[:1], timed(1, 90.0, 90.0), *passes[1:]]
    totals = totals_of(answer)
    assert totals.speedup == pytest.approx(37 / 10)  # 90 ms say 12 times
    assert totals.speedup < totals.tokens_per_step == 4.0
    assert totals.plain_seconds_per_token == pytest.approx(0.027)  # 270 ms, 10 steps
    assert [each.speedup for each in answer] == [4.0, 1.0, *[4.0] * 8]
    quiet = [timed(4, 20.0, 15.0), timed(1, 15.0, 15.0)]
    assert totals_of(quiet).speedup == pytest.approx(5 * 15 / 35)
    assert quiet[0].speedup == 3.0


def test_a_gain_and_a_loss_have_colours_of_their_own() -> None:
    looks = [str(speed_text(ratio).spans[0].style) for ratio in (0.8, 1.0, 1.5)]
    assert looks == ["$rejected", "$notice", "$accepted"]


def test_the_headline_comes_first_and_stays_longest() -> None:
    answer = answer_of(make_answer())
    totals = answer.statistics[-1].totals
    headline = f"{totals.tokens_per_step:.2f} tokens per pass"
    assert figures(totals, 1.5)[:2] == [headline, "1.5x faster than plain"]
    assert answer.footer().startswith(headline)
    forms = [form.plain for form in _figures(answer.statistics[-1])]
    assert forms[0].startswith(headline)
    assert all(f"{totals.tokens_per_step:.2f}" in form for form in forms)
    assert [len(form) for form in forms] == sorted(map(len, forms), reverse=True)
    assert first_fitting(_figures(answer.statistics[-1]), 0).plain.endswith("per pass")


def test_an_unmeasured_speed_is_not_in_the_header() -> None:
    answer = answer_of(unmeasured(make_answer()))
    assert not any("plain" in form.plain for form in _figures(answer.statistics[-1]))
    assert "tokens per pass" in str(Header().tooltip)


def test_a_request_is_counted_by_the_names_of_the_field() -> None:
    totals = answer_of(with_baseline(make_answer(), at=2)).statistics[-1].totals
    drafts = [step for step in STEPS if step.index != 2]
    accepted = [step.accepted for step in drafts]
    assert totals.num_drafts == len(drafts) == totals.steps - 1
    assert totals.num_draft_tokens == 15 * len(drafts)
    assert totals.num_accepted_tokens == sum(accepted)
    assert totals.num_accepted_tokens_per_pos == tuple(
        sum(each > at for each in accepted) for at in range(max(accepted))
    )
    lengths = Counter(accepted)
    assert totals.accepted_lengths == tuple(lengths[n] for n in range(max(lengths) + 1))
    assert totals.mean_acceptance_length == pytest.approx(1 + sum(accepted) / len(drafts))


def test_figures_recorded_by_earlier_versions_are_read_and_promise_nothing() -> None:
    old = encode(Totals(tokens=9, steps=3, seconds=0.5))
    old = {name: value for name, value in old.items() if not name.startswith("num_")}
    totals = decode(Totals, old)
    assert totals.tokens_per_step == 3.0
    assert totals.mean_acceptance_length is None
    assert totals.accepted_lengths == ()
    assert request_lines(totals) == ()


def test_lengths_are_said_in_words_and_the_last_stands_for_longer_ones() -> None:
    assert accepted_words((9, 14, 6, 1)) == "0 in 9 passes, 1 in 14, 2 in 6, 3 in 1"
    assert accepted_words((9, 14, 6, 1), 3) == "0 in 9 passes, 1 in 14, 2 or more in 7"
    assert accepted_words((1,), 2) == "0 in 1 pass"


def test_show_has_the_figures_of_the_last_answer() -> None:
    answer = answer_of(make_answer())
    text = describe(Settings(), PAIR, replace(TREE_16, predicted_speedup=1.31), answer)
    assert "16 nodes, depth 4" in text
    assert "predicted 1.3x faster" in text
    length = answer.statistics[-1].totals.mean_acceptance_length
    assert f"mean_acceptance_length {length:.2f}: 1 + accepted tokens / drafts" in text
    assert f"num_drafts {len(STEPS)}," in text
    assert "last answer" not in describe(Settings(), PAIR, TREE_16)
    alone = replace(PAIR, draft=None)
    assert "none: prompt lookup alone" in describe(Settings(), alone, None)
    assert "none: plain decoding" in describe(Settings(lookup=Lookup.OFF), alone, None)


def test_show_has_the_memory_of_each_device() -> None:
    cpu = DeviceMemory("cpu", 98 << 20, 3 << 20, 3 << 20, 0, 700 << 20, 5 << 30)
    gpu = DeviceMemory("cuda:0", 14 << 30, 1 << 30, 2 << 30, 300 << 20, 20 << 30, 3 << 30)
    text = describe(Settings(), PAIR, TREE_16, None, MemoryUse((gpu, cpu)))
    first, second = text[text.index("memory") :].splitlines()[:2]
    assert first.split(None, 1)[1] == (
        "cuda:0: weights 14.0 GiB, KV cache 2.0 GiB (1.0 GiB used), CUDA graphs 300.0 MiB, "
        "peak 20.0 GiB, free 3.0 GiB"
    )
    assert second.strip() == (
        "cpu: weights 98.0 MiB, KV cache 3.0 MiB, peak 700.0 MiB, free 5.0 GiB"
    )
    assert "memory" not in describe(Settings(), PAIR, TREE_16)
