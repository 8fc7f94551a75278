"""Captions say what the steps say, by fixed rules."""

from msgspec.structs import replace

from app.present.captions import captions, rejection_text, summary, totals_of
from app.state.summary import best_step
from sequoia_core.events import Outcome, Step
from tests.fakes import make_answer, with_baseline

STEPS = [event for event in make_answer() if isinstance(event, Step)]


def test_the_first_step_the_first_rejection_and_the_best_have_one() -> None:
    made = captions(STEPS, {})
    best = max(step.accepted for step in STEPS)
    where = {
        said.text.split(":")[0]: (index, said.node) for index, all_ in made.items() for said in all_
    }
    first = next(s for s in STEPS if any(n.outcome is Outcome.REJECTED for n in s.nodes))
    (rejected,) = (said for said in made[first.index] if said.node is not None)
    assert first.nodes[rejected.node or 0].outcome is Outcome.REJECTED
    assert "15 tokens" in made[1][0].text
    index, _ = where["The best step"]
    assert STEPS[index - 1].accepted == best
    assert all(said.seconds > 2 for all_ in made.values() for said in all_)


def test_the_best_step_is_the_one_that_gave_most_though_another_accepted_more() -> None:
    best = max(STEPS, key=lambda step: step.accepted)
    cut = replace(best, token_ids=best.token_ids[:1])  # a stop came within it
    steps = [cut if step is best else step for step in STEPS]
    (index,) = (
        at for at, all_ in captions(steps, {}).items() for each in all_ if "best" in each.text
    )
    assert index == best_step(steps).index != best.index
    assert max(len(step.token_ids) for step in steps) == len(steps[index - 1].token_ids)


def test_own_captions_take_the_place_of_those_that_are_made() -> None:
    made = captions(STEPS, {1: "Mine.", 7: "Mine too."})
    assert [said.text for said in made[1]] == ["Mine."]
    assert [said.text for said in made[7]] == ["Mine too."]


def test_plain_steps_and_no_steps_have_none_to_explain() -> None:
    plain = [replace(s, nodes=s.nodes[:1], path=(0,), token_ids=(1,)) for s in STEPS]
    assert captions(plain, {}) == {}
    assert captions([], {}) == {}


def test_a_rejection_is_told_as_it_was_decided() -> None:
    step = next(s for s in STEPS if any(n.outcome is Outcome.REJECTED for n in s.nodes))
    node = next(at for at, n in enumerate(step.nodes) if n.outcome is Outcome.REJECTED)
    drawn = replace(step.nodes[node], accept_prob=0.2, draw=0.75, text=" sky")
    nodes = (*step.nodes[:node], drawn, *step.nodes[node + 1 :])
    text = rejection_text(replace(step, nodes=nodes), node)
    assert text.startswith('"·sky" is rejected')
    assert "0.20" in text
    assert "0.75" in text
    greedy = replace(drawn, draw=None)
    nodes = (*step.nodes[:node], greedy, *step.nodes[node + 1 :])
    assert "the target takes" in rejection_text(replace(step, nodes=nodes), node)


def test_the_summary_counts_passes_without_measuring_steps() -> None:
    steps = [e for e in with_baseline(make_answer(), 3) if isinstance(e, Step)]
    totals = totals_of(steps)
    text = summary(steps).text
    assert f"{totals.tokens} tokens" in text
    assert f"over {len(steps) - 1} passes" in text
    assert text.endswith("than plain.")
    unmeasured = [replace(step, plain_ms=0.0) for step in steps]
    assert "plain" not in summary(unmeasured).text
