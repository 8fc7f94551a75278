"""What traversal verification gains over the rule from the root, on the same trees, without noise.

`python -m tests.core.traversal_gain FILE.jsonl [PROMPTS]` decodes prompts with the embedded pair by
`sequoia`, at two temperatures and with two trees. Of each drafted tree both rules' expected tokens
are computed from their acceptance probabilities; the interval of the ratio is over prompts.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.data.passages import DataSpec, load_prompts
from sequoia_core.decode.engine import Engine
from sequoia_core.decode.step import Sampler
from sequoia_core.model.loading.pair import load_pair
from sequoia_core.speculate import verify
from sequoia_core.speculate.baseline_timer import NoBaseline
from sequoia_core.speculate.scored_tree import ScoredTree
from sequoia_core.speculate.traversal import climb
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.speculate.verify import Attempt, Verdict
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.files import find_growmap
from sequoia_core.tree.growmap import GrowMap

TOKENS = 64
RESAMPLES = 4000
TREES = (find_growmap("smollm2-135m/stochastic-16x4"), GrowMap.chain(4))


def from_the_root(scored: ScoredTree) -> float:
    """Expected tokens of a step by `verify.sequoia`, given its tree."""
    growmap, reach = scored.growmap, [1.0] * scored.growmap.size
    for node in range(growmap.size):
        if growmap.children[node] and reach[node] > 0:
            attempts, left = dict[int, Attempt](), reach[node]
            verify._try_children(scored, node, [1.0] * growmap.size, attempts)
            for child in growmap.children[node]:
                prob = attempts[child].accept_prob if child in attempts else 0.0
                reach[child] = left * prob
                left *= 1.0 - prob
        else:
            for child in growmap.children[node]:
                reach[child] = 0.0
    return sum(reach)  # the bonus token for the root


def from_the_leaves(scored: ScoredTree) -> float:
    """The same by `traverse`."""
    attempts, left, found = climb(scored, [1.0] * scored.growmap.size).attempts, 1.0, 1.0
    for node, attempt in attempts.items():
        found += left * attempt.accept_prob * scored.growmap.depths[node]
        left *= 1.0 - attempt.accept_prob
    return found


def main(file: str, prompts: int = 40) -> None:
    pair = load_pair()
    engine = Engine.of(replace(pair, eos_token_ids=frozenset()), BundledAdvisor({}))
    engine.clock = NoBaseline()
    expected: list[tuple[float, float]] = []

    def make(params: SamplingParams, device: torch.device, mode: Mode) -> Sampler:
        made = Sampler.of(params, device, mode)

        def rule(scored: ScoredTree, generator: torch.Generator) -> Verdict:
            expected.append((from_the_root(scored), from_the_leaves(scored)))
            return made.rule(scored, generator)

        return replace(made, rule=rule)

    engine.make_sampler = make
    texts = load_prompts(DataSpec(file, 0, prompts), pair.tokenizer)
    for growmap, temperature in product(TREES, (0.6, 1.0)):
        engine.tree_choice = TreeChoice(Mode.SEQUOIA, growmap)
        counts = []
        for at, text in enumerate(texts):
            expected.clear()
            params = SamplingParams(temperature, seed=at + 1, max_new_tokens=TOKENS)
            for _ in engine.generate(text, params):
                pass
            counts.append((len(expected), *np.sum(expected, axis=0)))
        print(
            f"{growmap.name}, T {temperature:g}, {len(texts)} prompts: {gain(counts)}", flush=True
        )


def gain(counts: Sequence[tuple[float, ...]]) -> str:
    """From steps and expected tokens of both rules, of each prompt."""
    values = np.array(counts)
    drawn = np.random.default_rng(17).integers(len(values), size=(RESAMPLES, len(values)))
    steps, root, leaves = values[drawn].sum(1).T
    low, high = np.quantile((leaves - root) / steps, (0.025, 0.975))
    steps, root, leaves = values.sum(0)
    return (
        f"{root / steps:.3f} from the root, {leaves / steps:.3f} from the leaves, "
        f"{(leaves - root) / steps:+.3f} ({low:+.3f} to {high:+.3f})"
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
