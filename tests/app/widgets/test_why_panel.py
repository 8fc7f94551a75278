"""Why a node came out as it did."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.present.tree_rows import BONUS_NODE, NodeVerdict, tree_rows
from app.widgets.why_panel import explain_node
from sequoia_core.config import Mode, SamplingParams
from sequoia_core.events import Outcome, Step
from sequoia_core.speculate.baseline_timer import NoBaseline
from sequoia_core.tree.growmap import GrowMap
from tests.app.insights import explained_answer
from tests.core.engines import make_engine, steps_of
from tests.core.models import TableModel
from tests.fakes import make_answer, make_step

STEPS = [event for event in explained_answer() if isinstance(event, Step)]
PLAIN = [event for event in make_answer() if isinstance(event, Step)]
EVERY = st.sampled_from(STEPS)


@given(step=EVERY, data=st.data())
def test_every_row_of_a_tree_can_be_explained(step: Step, data: st.DataObject) -> None:
    row = data.draw(st.sampled_from(tree_rows(step)))
    explained = explain_node(step, row.node)
    assert explained.verdict is row.verdict
    assert explained.token == row.token
    assert explained.headline
    assert explained.place
    assert explained.quantities or explained.reason
    assert explained.rankings
    if row.verdict is NodeVerdict.ROOT:
        assert "nothing to judge" in explained.reason


@given(step=EVERY, data=st.data())
def test_the_figures_decide_as_the_walk_did(step: Step, data: st.DataObject) -> None:
    tried = [at for at, node in enumerate(step.nodes) if node.draw is not None]
    if not tried:
        return
    at = data.draw(st.sampled_from(tried))
    figures = {each.symbol: float(each.value) for each in explain_node(step, at).quantities}
    node = step.nodes[at]
    assert set(figures) == {"p", "q", "p / q", "r"}
    assert figures["p / q"] == pytest.approx(figures["p"] / figures["q"], rel=2e-3, abs=1e-3)
    assert (figures["r"] < figures["p / q"]) == (node.outcome is Outcome.ACCEPTED)
    assert node.outcome.value in next(
        each.remark for each in explain_node(step, at).quantities if each.symbol == "r"
    )


def test_a_rejected_node_shows_what_it_left_and_its_successor_what_it_met() -> None:
    step = next(s for s in STEPS if any(s.nodes[i].rank == 2 for i in s.path))
    accepted = next(i for i in step.path if step.nodes[i].rank == 2)
    before = next(
        i
        for i, node in enumerate(step.nodes)
        if node.parent == step.nodes[accepted].parent and node.rank == 1
    )
    assert step.insight is not None
    trial = step.insight.trial(before)
    assert trial is not None
    left, met = explain_node(step, before).rankings, explain_node(step, accepted).rankings
    assert left["residual after"] == met["residual before"] == trial.residual


def test_the_bonus_says_what_it_was_drawn_from() -> None:
    leaf = next(s for s in STEPS if not any(n.parent == s.path[-1] for n in s.nodes))
    assert "own distribution" in explain_node(leaf, BONUS_NODE).reason
    cut = next(s for s in STEPS if any(n.parent == s.path[-1] for n in s.nodes))
    explained = explain_node(cut, BONUS_NODE)
    assert "rejected: drawn from the residual" in explained.reason
    assert "residual" in explained.rankings


def test_a_node_that_was_not_reached_says_whose_doing_that_is() -> None:
    step = make_step(1, "so", [(" of", 1), (" it", 0)])
    beside = next(i for i, n in enumerate(step.nodes) if n.parent == 0 and n.rank == 2)
    assert explain_node(step, beside).reason == '"·of" before it was accepted.'
    below = next(i for i, n in enumerate(step.nodes) if n.parent == beside)
    assert explain_node(step, below).reason.endswith("was not reached.")


def test_greedy_decoding_names_the_token_it_wanted() -> None:
    step = STEPS[1]
    greedy = replace(
        step,
        nodes=tuple(
            replace(
                n,
                draw=None,
                accept_prob=None if n.draw is None else float(n.outcome is Outcome.ACCEPTED),
            )
            for n in step.nodes
        ),
        insight=replace(step.insight, trials=()) if step.insight else None,
    )
    rejected = next(i for i, n in enumerate(step.nodes) if n.outcome is Outcome.REJECTED)
    assert greedy.insight is not None
    opinion = greedy.insight.opinion(step.nodes[rejected].parent)
    assert opinion is not None
    explained = explain_node(greedy, rejected)
    assert explained.reason.startswith("Greedy decoding takes the target's most")
    assert explained.rankings.keys() == {"target", "draft"}
    explained = explain_node(greedy, step.path[1])
    assert explained.reason.startswith("It is the target's most probable token")


def test_an_older_step_says_that_it_knows_no_more() -> None:
    for row in tree_rows(PLAIN[1]):
        explained = explain_node(PLAIN[1], row.node)
        assert "not recorded" in explained.heading
        assert not explained.rankings


def test_a_large_tree_says_what_was_left_out() -> None:
    step = STEPS[0]
    assert step.insight is not None
    cut = replace(step, insight=replace(step.insight, opinions=step.insight.opinions[:1]))
    deep = next(i for i, node in enumerate(step.nodes) if node.depth == 2)
    assert "kept only for the path" in explain_node(cut, deep).heading


def test_of_whole_sequences_it_says_what_the_random_number_was_compared_with() -> None:
    """In the mode `traverse` a node stands for all above it, and its guesses are tried first."""
    tree = GrowMap((-1, 0, 0, 1, 1, 2, 3))
    engine = make_engine(TableModel(9, 4), TableModel(9, 5, order=2), tree, Mode.TRAVERSE)
    engine.insight, engine.clock = True, NoBaseline()
    params = SamplingParams(temperature=1.0, seed=3, max_new_tokens=200)
    fell = together = 0
    for step in steps_of(list(engine.generate([1, 2, 3], params))):
        for at, node in enumerate(step.nodes):
            explained = explain_node(step, at)
            if node.draw is None:
                if at and node.outcome is Outcome.ACCEPTED:
                    assert explained.reason.startswith("Accepted with the whole sequence")
                    together += 1
                continue
            figures = {each.symbol: float(each.value) for each in explained.quantities}
            remarks = {each.symbol: each.remark for each in explained.quantities}
            assert [*figures] == ["p", "q", "p / q", "w", "r"]
            if abs(figures["r"] - figures["w"]) > 1e-3:
                assert (figures["r"] < figures["w"]) == (node.outcome is Outcome.ACCEPTED)
            assert remarks["r"].endswith(f"< w: {node.outcome.value}")
            above = float(remarks["p / q"].split()[1].rstrip(","))
            first = min(1.0, figures["p / q"] * above)
            assert figures["w"] <= first + 2e-3
            if remarks["w"] != "at most 1":
                assert step.children[at]
                assert float(remarks["w"].split()[0]) == pytest.approx(first, abs=2e-3)
                fell += 1
    assert min(fell, together) > 5
