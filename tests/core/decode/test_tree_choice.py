"""Which tree is decoded with: a person's choice first, then advice, and plainly if told so."""

import pytest

from sequoia_core.config import Mode
from sequoia_core.decode.tree_choice import tree_for
from sequoia_core.errors import GrowMapError
from sequoia_core.speculate.tree_advisor import DEFAULT_CHAIN, Advice, BundledAdvisor, TreeAdvisor
from sequoia_core.tree.choice import MOST_DEPTH, MOST_NODES, ROOT, SHOWN, TreeChoice
from sequoia_core.tree.files import find_growmap, growmap_names
from sequoia_core.tree.growmap import GrowMap

TREE = GrowMap((-1, 0, 0, 1, 3), name="mine", acceptance_rates=(0.5, 0.2))


class Adviser(TreeAdvisor):
    """Says one thing and remembers what it was asked."""

    def __init__(self, advice: Advice) -> None:
        self.advice = advice
        self.asked: list[tuple[float, int, bool]] = []

    def advise(self, temperature: float, context_length: int, chain: bool) -> Advice:
        self.asked.append((temperature, context_length, chain))
        return self.advice


def test_plain_decoding_is_obeyed_without_asking() -> None:
    adviser = Adviser(Advice(TREE, (), None, "measured"))
    growmap, chosen = tree_for(TreeChoice(Mode.AR, TREE), adviser, 0.0, 7)
    assert growmap is ROOT
    assert (chosen.mode, chosen.nodes, chosen.growmap) == ("ar", 1, "")
    assert adviser.asked == []


@pytest.mark.parametrize("mode", [Mode.SEQUOIA, Mode.GREEDY])
def test_a_named_tree_is_taken_without_asking(mode: Mode) -> None:
    adviser = Adviser(Advice(None, (), 0.8, "nothing pays"))
    growmap, chosen = tree_for(TreeChoice(mode, TREE), adviser, 0.0, 7)
    assert growmap is TREE
    assert (chosen.mode, chosen.growmap, chosen.nodes, chosen.depth) == (mode.value, "mine", 5, 3)
    assert chosen.expected_tokens == TREE.expected_tokens((0.5, 0.2))
    assert chosen.expected_by_depth == TREE.expected_by_depth((0.5, 0.2))
    assert chosen.expected_by_rank == (0.5, 0.2)
    assert adviser.asked == []


def test_a_chain_is_as_long_as_the_named_tree_is_deep() -> None:
    adviser = Adviser(Advice(None, (), None, ""))
    growmap, chosen = tree_for(TreeChoice(Mode.CHAIN, TREE), adviser, 0.6, 7)
    assert growmap == GrowMap.chain(3)
    assert (chosen.mode, chosen.nodes, chosen.depth) == ("chain", 4, 3)
    path = GrowMap.chain(2)
    assert tree_for(TreeChoice(Mode.CHAIN, path), adviser, 0.6, 7)[0] is path


@pytest.mark.parametrize("temperature", [0.0, 0.6])
@pytest.mark.parametrize("mode", [Mode.SEQUOIA, Mode.CHAIN])
def test_without_a_name_the_adviser_is_asked_what_matters(mode: Mode, temperature: float) -> None:
    adviser = Adviser(Advice(TREE, (0.9, 0.05, 0.01), 1.4, "measured"))
    growmap, chosen = tree_for(TreeChoice(mode), adviser, temperature, 7)
    assert growmap is TREE
    assert adviser.asked == [(temperature, 7, mode is Mode.CHAIN)]
    assert (chosen.predicted_speedup, chosen.reason) == (1.4, "measured")
    assert chosen.expected_by_rank == (0.9, 0.05)
    assert chosen.expected_tokens == TREE.expected_tokens((0.9, 0.05, 0.01))


@pytest.mark.parametrize(
    ("paying", "reason"),
    [(None, SHOWN[0]), (GrowMap((-1, 0)), SHOWN[0]), (TREE, SHOWN[1])],
)
def test_a_tree_to_look_at_says_whether_it_is_too_large(
    paying: GrowMap | None, reason: str
) -> None:
    adviser = Adviser(Advice(paying, (0.9, 0.05), 1.4, "measured"))
    growmap, chosen = tree_for(TreeChoice(growmap=TREE, shown=True), adviser, 0.0, 7)
    assert growmap is TREE
    assert chosen.reason.startswith(reason)
    assert chosen.expected_by_rank == (0.9, 0.05)  # as known of this pair
    assert chosen.predicted_speedup is None


def test_where_no_tree_pays_the_reason_is_passed_on() -> None:
    adviser = Adviser(Advice(None, (0.1,), 0.8, "no tree is predicted to pay"))
    growmap, chosen = tree_for(TreeChoice(), adviser, 0.0, 7)
    assert growmap is ROOT
    assert (chosen.mode, chosen.nodes, chosen.depth) == ("sequoia", 1, 0)
    assert (chosen.predicted_speedup, chosen.reason) == (0.8, "no tree is predicted to pay")


def test_packaged_trees_serve_until_something_is_measured() -> None:
    advisor = BundledAdvisor({})
    greedy, sampled = (advisor.advise(each, 0, False) for each in (0.0, 0.6))
    packaged = [find_growmap(name) for name in growmap_names()]
    assert greedy.growmap in packaged
    assert sampled.growmap in packaged
    assert greedy.rates == ()  # nothing is expected of a pair that was never measured
    stated = BundledAdvisor({"greedy": (0.5, 0.1)})
    assert stated.advise(0.0, 0, False).rates == (0.5, 0.1)
    assert stated.advise(0.6, 0, False).rates == ()
    assert greedy.predicted_speedup is None
    assert "until this machine is measured" in greedy.reason
    assert advisor.advise(0.0, 0, True).growmap == GrowMap.chain(DEFAULT_CHAIN)


@pytest.mark.parametrize("tree", [GrowMap.chain(MOST_DEPTH + 1), GrowMap.k_ary([MOST_NODES])])
def test_a_tree_too_large_for_a_step_is_refused(tree: GrowMap) -> None:
    with pytest.raises(GrowMapError, match="at most 1024 nodes and depth 64"):
        TreeChoice(growmap=tree)
