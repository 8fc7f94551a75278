"""Whether acceptance by depth foretells acceptance better than one vector, on prompts held out.

`python -m tests.core.depth_likelihood FILE.jsonl [PROMPTS]` decodes prompts with the embedded pair
at two temperatures and prints rates by depth and rank, and mean log-likelihoods: of the outcomes
of a fixed tree by rates counted on other prompts and estimated in several ways; and of those of an
adaptive tree, each foretold before it is learnt, by estimators with more and fewer
classes of depth. Nothing is timed.
"""

import math
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from sequoia_core.config import SamplingParams
from sequoia_core.data.passages import DataSpec, load_prompts
from sequoia_core.decode.engine import Engine
from sequoia_core.events import Step
from sequoia_core.measure.acceptance import Acceptance, AcceptancePlan, accepted_ranks
from sequoia_core.model.loading.pair import Pair, load_pair
from sequoia_core.speculate.adaptive_policy import (
    _RANKS as RANKS,
)
from sequoia_core.speculate.adaptive_policy import (
    EDGES,
    AcceptanceEstimator,
    AdaptivePolicy,
    NodeOutcome,
    overlapping,
    stated,
)
from sequoia_core.speculate.baseline_timer import NoBaseline
from sequoia_core.speculate.cost_model import CostModel, FadingRatio
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import TreeChoice

TOKENS, WIDTH, DEPTH = 64, 4, 5
TRAINED_ON, SPLITS = (1, 3, 10, 20), 40
LEAST = 1e-4  # probability of what an estimate excludes
Counts = Sequence[Sequence[Acceptance]]  # by prompt and depth
Rates = list[NDArray[np.float64]]  # by depth


def estimates(counts: Counts) -> dict[str, Rates]:
    """Several, of the same counts."""
    by_depth = [np.concatenate(each) for each in zip(*counts, strict=True)]
    hits = [each.sum(0) for each in by_depth]
    tried = [len(each) for each in by_depth]
    pooled = np.sum(hits, axis=0) / sum(tried)
    first = hits[0] / tried[0]

    def to_above(prior: float) -> Iterator[NDArray[np.float64]]:
        above = first
        yield above
        for hit, trials in zip(hits[1:], tried[1:], strict=True):
            above = (hit + prior * above) / (trials + prior)
            yield above

    found = {"one vector": [pooled] * DEPTH, "the first level's": [first] * DEPTH}
    for prior in (8, 24, 64, 100):
        found[f"to the level above, {prior}"] = list(to_above(prior))
        found[f"to all together, {prior}"] = [
            (hit + prior * pooled) / (trials + prior)
            for hit, trials in zip(hits, tried, strict=True)
        ]
    return found


def likelihood(rates: Rates, counts: Counts) -> float:
    """Mean log-likelihood of which child was accepted, or none."""
    total, positions = 0.0, 0
    for prompt in counts:
        for rate, rows in zip(rates, prompt, strict=True):
            known = np.clip(rate, LEAST, None)
            none = math.log(max(1.0 - float(known.sum()), LEAST))
            total += float((rows @ np.log(known)).sum() + (1.0 - rows.sum(1)).sum() * none)
            positions += len(rows)
    return total / positions


def held_out(counts: Counts, trained_on: int) -> dict[str, float]:
    rng, found = np.random.default_rng(1), dict[str, list[float]]()
    for _ in range(SPLITS):
        order = rng.permutation(len(counts))
        known, new = ([counts[at] for at in part] for part in np.split(order, [trained_on]))
        if sum(len(prompt[0]) for prompt in known):
            for name, rates in estimates(known).items():
                found.setdefault(name, []).append(likelihood(rates, new))
    return {name: float(np.mean(each)) for name, each in found.items()}


class Classes(AcceptanceEstimator):
    """With so many classes of depth."""

    def __init__(self, belief: Callable[[int, float], float], classes: int) -> None:
        super().__init__(belief)
        self._classes = classes

    @override
    def _cell(self, depth: int, rank: int, prob: float) -> FadingRatio:
        place = min(depth, self._classes), min(rank, RANKS), bisect_right(EDGES, prob)
        return self._cells[place]


def foretold(outcomes: Sequence[NodeOutcome], greedy: bool, classes: int) -> float:
    """Mean log-likelihood of each candidate's outcome by what was learnt before its node."""
    estimator = Classes(stated if greedy else overlapping, classes)
    found = list[float]()
    for each in outcomes:
        count = len(each.tokens) if greedy else each.count
        trials = [
            (rank, each.probs[rank - 1], each.tokens[rank - 1] == each.token_id)
            if greedy
            else (rank, each.peak, rank == each.accepted)
            for rank in range(1, count + 1)
        ]
        for rank, prob, right in trials:
            known = min(max(estimator.estimate(each.depth, rank, prob), LEAST), 1.0 - LEAST)
            found.append(math.log(known if right else 1.0 - known))
        for rank, prob, right in trials:
            estimator.record(each.depth, rank, prob, right)
    return float(np.mean(found))


def new_engine(pair: Pair, choice: TreeChoice) -> Engine:
    engine = Engine.of(replace(pair, eos_token_ids=frozenset()), BundledAdvisor({}))
    engine.clock, engine.tree_choice = NoBaseline(), choice
    return engine


def counted(engine: Engine, prompt: Sequence[int], params: SamplingParams) -> list[Acceptance]:
    ranks: list[list[int]] = [[] for _ in range(DEPTH)]
    for event in engine.generate(prompt, params):
        if isinstance(event, Step):
            for found, rank in zip(ranks, accepted_ranks(event), strict=False):
                found.append(rank)
    return [np.equal.outer(each, range(1, WIDTH + 1)).astype(np.float64) for each in ranks]


class Listening(AdaptivePolicy):
    """Keeps what it learns from."""

    def __init__(self, costs: CostModel, greedy: bool) -> None:
        super().__init__(costs, greedy)
        self.outcomes: list[NodeOutcome] = []

    @override
    def learn(self, outcomes: Sequence[NodeOutcome]) -> None:
        self.outcomes += outcomes
        super().learn(outcomes)


def adaptive_outcomes(
    pair: Pair, prompts: Sequence[tuple[Sequence[int], SamplingParams]], greedy: bool
) -> list[NodeOutcome]:
    engine = new_engine(pair, TreeChoice(adaptive=True))
    speculator = engine._speculator
    policy = speculator._policies[greedy] = Listening(speculator.costs, greedy)
    for text, params in prompts:
        for _ in engine.generate(text, params):
            pass
    return policy.outcomes


def print_rates(counts: Counts) -> None:
    for depth, rows in enumerate(map(np.concatenate, zip(*counts, strict=True)), start=1):
        rates = " ".join(f"{rate:.3f}" for rate in rows.mean(0))
        print(f"  depth {depth}, {len(rows)} positions: {rates}, sum {rows.sum(1).mean():.3f}")
    for trained_on in (each for each in TRAINED_ON if each < len(counts)):
        print(f"  counted on {trained_on}, mean of {SPLITS} splits")
        for name, value in held_out(counts, trained_on).items():
            print(f"    {name:24} {value:.4f}")


def main(file: str, count: int = 24) -> None:
    pair = load_pair()
    texts = load_prompts(DataSpec(file, 0, count), pair.tokenizer)
    for temperature in (0.0, 0.6):
        greedy = temperature == 0.0
        prompts = [
            (text, SamplingParams(temperature, seed=at, max_new_tokens=TOKENS))
            for at, text in enumerate(texts, start=1)
        ]
        print(f"T {temperature:g}, {len(texts)} prompts of {TOKENS} tokens")
        engine = new_engine(pair, TreeChoice(growmap=AcceptancePlan(WIDTH, depth=DEPTH).tree))
        print_rates([counted(engine, *each) for each in prompts])
        outcomes = adaptive_outcomes(pair, prompts, greedy)
        for classes in (1, 2, 3, 4):
            value = foretold(outcomes, greedy, classes)
            print(f"  estimator with classes of depth: {classes}  {value:.5f}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
