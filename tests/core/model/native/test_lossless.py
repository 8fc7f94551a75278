"""Sampling with native models follows the target's distribution, however trees are drafted."""

from array import array
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats

from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.errors import GrowMapError
from sequoia_core.events import TreeChosen
from sequoia_core.model.interface import TreeRows
from sequoia_core.model.native.library import Pool
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.scored_tree import ScoredTree
from sequoia_core.speculate.token_tree import HostNodes, TokenTree
from sequoia_core.tree.choice import ADAPTIVE, ROOT, TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import make_engine, tokens_of
from tests.core.model.native.test_invariance import MODELS, mixed_config, mixed_model

PROMPT = [3, 1, 4, 1, 5, 7, 2, 6]
RUNS = 4000
TOKENS = 8
"""So few that a wrong share of one of them is seen after so many runs."""
KEPT = [0, 2, 3, 5, 7]
"""Tokens that a trimmed draft knows."""
CHOICES = {
    "tree": TreeChoice(Mode.SEQUOIA, GrowMap.k_ary([3, 2])),
    "adaptive with look-up": TreeChoice(Mode.SEQUOIA, adaptive=True, lookup=Lookup.ON),
    "trimmed draft": TreeChoice(Mode.SEQUOIA, GrowMap.k_ary([3, 2])),
    "specinfer": TreeChoice(Mode.SPECINFER, GrowMap.k_ary([3, 1])),
    "topk": TreeChoice(Mode.TOPK, GrowMap.k_ary([3, 1])),
    "traverse": TreeChoice(Mode.TRAVERSE, GrowMap.k_ary([3, 2])),
}


@pytest.fixture(scope="module")
def pair() -> tuple[NativeLlama, NativeLlama]:
    """A target, and a draft that is often but not always right: its last layer is missing."""
    if not MODELS:
        pytest.skip("the native library was not built")
    name, pool = next(iter(MODELS))[0], Pool(2)
    target, draft = (
        mixed_model(pool, name, num_layers=layers, vocab_size=TOKENS, head_vocab_size=TOKENS)
        for layers in (mixed_config().num_layers, 1)
    )
    return target, draft


def trimmed() -> DraftModel:
    """A draft that knows five of the eight tokens, so that others come from the residual."""
    model = mixed_model(
        Pool(2), next(iter(MODELS))[0], num_layers=1, vocab_size=TOKENS, head_vocab_size=len(KEPT)
    )
    return DraftModel(model, torch.tensor(KEPT))


@pytest.mark.parametrize("temperature", [0.01, 0.6, 2.0])
def test_probabilities_at_some_columns_are_those_of_the_whole_softmax(
    pair: tuple[NativeLlama, NativeLlama], temperature: float
) -> None:
    target, _ = pair
    cache = target.new_cache()
    target.forward(torch.tensor(PROMPT[:-1]), torch.arange(len(PROMPT) - 1), None, cache)
    rows = TreeRows(PROMPT[-1:])
    logits, summary = target.read_tree(rows, array("q", [0]), temperature, cache)
    nodes = HostNodes((PROMPT[-1],), (0,), (1.0,))
    tree = TokenTree(ROOT, nodes, torch.empty((0, 0)), {}, torch.tensor(KEPT))
    found = ScoredTree(tree, logits, SamplingParams(temperature), summary)
    wanted = found.target_probs(0)[KEPT].numpy()
    np.testing.assert_allclose(found.some_target_probs(0, np.array(KEPT)), wanted, atol=1e-6)


def probs_after(model: NativeLlama, ids: list[int], temperature: float) -> torch.Tensor:
    cache = model.new_cache()
    logits = model.forward(torch.tensor(ids), torch.arange(len(ids)), None, cache)[-1]
    return torch.softmax(logits.double() / temperature, -1)


@pytest.mark.parametrize(
    ("name", "temperature", "top_p"),
    [*((name, 1.5, 1.0) for name in CHOICES), ("tree", 2.0, 0.9)],
)
def test_the_first_two_tokens_follow_the_targets_distribution(
    pair: tuple[NativeLlama, NativeLlama], name: str, temperature: float, top_p: float
) -> None:
    """Pearson's test of the first, and of the second after the most frequent first one."""
    target, draft = pair
    engine = make_engine(target, trimmed() if name == "trimmed draft" else draft)
    engine.tree_choice = CHOICES[name]
    drawn = []
    for seed in range(RUNS):
        params = SamplingParams(temperature, top_p, seed=seed, max_new_tokens=2)
        drawn.append(tokens_of(list(engine.generate(PROMPT, params))))
    firsts = Counter(first for first, _ in drawn)
    likely = firsts.most_common(1)[0][0]
    seconds = Counter(second for first, second in drawn if first == likely)
    for counts, ids in ((firsts, PROMPT), (seconds, [*PROMPT, likely])):
        probs = probs_after(target, ids, temperature)
        order = probs.argsort(descending=True)
        before = probs[order].cumsum(0) - probs[order]
        probs[order[before >= top_p]] = 0.0
        assert p_value(counts, (probs / probs.sum()).tolist()) > 1e-4


@pytest.mark.parametrize(
    ("choice", "adaptive"),
    [
        (TreeChoice(), True),
        (TreeChoice(Mode.GREEDY), True),
        (TreeChoice(adaptive=False), False),
        (TreeChoice(Mode.CHAIN), False),
        (TreeChoice(Mode.SPECINFER), False),
        (TreeChoice(growmap=GrowMap.chain(2)), False),
    ],
)
def test_models_that_read_trees_in_one_call_have_adaptive_ones_by_default(
    pair: tuple[NativeLlama, NativeLlama], choice: TreeChoice, adaptive: bool
) -> None:
    engine = make_engine(*pair)
    engine.tree_choice = choice
    params = SamplingParams(0.6, seed=1, max_new_tokens=4)
    chosen = next(each for each in engine.generate(PROMPT, params) if isinstance(each, TreeChosen))
    assert (chosen.growmap == ADAPTIVE) == adaptive
    assert chosen.nodes > 1


@pytest.mark.parametrize("temperature", [0.0, 0.6])
def test_a_tree_wider_than_the_drafts_vocabulary_is_refused_in_one_line(
    pair: tuple[NativeLlama, NativeLlama], temperature: float
) -> None:
    engine = make_engine(pair[0], trimmed(), GrowMap.k_ary([len(KEPT) + 1]))
    with pytest.raises(GrowMapError, match="6 children at a node, but the draft knows only 5"):
        list(engine.generate(PROMPT, SamplingParams(temperature, max_new_tokens=2)))


def p_value(counts: Counter[int], probs: list[float]) -> float:
    """Of Pearson's test; tokens expected less than five times count as one."""
    total = counts.total()
    large = [token for token, prob in enumerate(probs) if prob * total >= 5]
    observed = [counts[token] for token in large]
    expected = [probs[token] * total for token in large]
    if total - sum(expected) > 1e-9 * total:
        observed.append(total - sum(observed))
        expected.append(total - sum(expected))
    else:
        assert sum(observed) == total
    assert len(observed) > 3
    return float(stats.chisquare(observed, expected).pvalue)
