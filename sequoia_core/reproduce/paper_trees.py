"""The best trees for the published pairs and hardware, from what is published of them.

No pair's acceptance vector is published, but tokens per step and trees are. So the vector is fitted
to them. In the paper the probability that all of k children are rejected falls as a power of k
(section 3.1). The exponent is that of the one vector that the release ships; with the factor, the
best tree of the published size gives the published tokens per step. If the depth is not published
either, it is the least one from which going deeper does not pay at the published time of a step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from sequoia_core.errors import ParameterError
from sequoia_core.reproduce.paper_facts import AcceptedCounts, Figure, PaperFacts, Setup
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import TreeTable, expected_tokens_table

RANKS = 32
"""Children that a node may have, as in the release's vector."""
_DEEPEST = 16
_LEAST = 0.05
_START = (0.4, 0.3)
_ROUNDS = 30
_CLOSE = 1e-3
_KINDS = {0.0: "greedy", 0.6: "stochastic"}


@dataclass(frozen=True, slots=True)
class PowerLaw:
    """Acceptance by rank: k children are all rejected with probability `factor * k**-exponent`."""

    factor: float
    exponent: float

    def rates(self, ranks: int = RANKS) -> tuple[float, ...]:
        """a_1, a_2, ... to five decimals."""
        left = [1.0, *(self.factor * rank**-self.exponent for rank in range(1, ranks + 1))]
        return tuple(round(left[at] - left[at + 1], 5) for at in range(ranks))


@dataclass(frozen=True, slots=True)
class Fit:
    """A power law fitted to a published figure, and the size and depth of the best tree for it."""

    law: PowerLaw
    nodes: int
    depth: int
    figure: Figure


def exponent_of(vector: AcceptedCounts) -> float:
    """Least squares of log rejection on log rank, to three decimals."""
    rejected = 1.0 - np.cumsum(vector.accepted) / vector.tried
    ranks = np.arange(1, len(rejected) + 1)
    slope, _ = np.polyfit(np.log(ranks), np.log(rejected), 1)
    return -round(float(slope), 3)


def fitted_factor(exponent: float, nodes: int, depth: int, tokens: float) -> float | None:
    """The factor with which the best tree gives so many tokens, to four decimals, or None."""

    def excess(factor: float) -> float:
        table = _table(PowerLaw(factor, exponent), nodes, depth)
        return float(table.values[nodes, depth]) - tokens

    if depth + 1 < tokens:
        return None
    before, factor = _START
    excess_before = excess(before)
    for _ in range(_ROUNDS):
        here = excess(factor)
        if abs(here) < _CLOSE:
            return round(factor, 4)
        # a secant step: tokens fall smoothly as the logarithm of the factor rises
        slope = (here - excess_before) / math.log(factor / before)
        before, excess_before = factor, here
        factor = min(max(factor * math.exp(-here / slope), _LEAST), 1.0)
        if factor == before:
            return None  # no factor in the range
    raise AssertionError(f"no factor found for {tokens} tokens with {nodes} nodes, depth {depth}")


def fit(facts: PaperFacts, setup: Setup, dataset: str, temperature: float) -> Fit | None:
    """The fit to the first hardware's figure, since acceptance does not depend on it."""
    for hardware in facts.hardware:
        figure = facts.figure(hardware, setup.pair, dataset, temperature)
        if figure is not None:
            measured = next(each for each in facts.setups_on(hardware) if each.pair == setup.pair)
            return _fit(exponent_of(facts.vector), figure, measured)
    return None


def _fit(exponent: float, figure: Figure, setup: Setup) -> Fit:
    nodes = figure.nodes or setup.nodes
    depths = range(1, _DEEPEST) if figure.levels is None else (figure.levels - 1,)
    for depth in depths:
        factor = fitted_factor(exponent, nodes, depth, figure.tokens)
        if factor is None:
            continue
        law = PowerLaw(factor, exponent)
        if figure.levels is not None or _best_depth(law, figure, setup, depth) <= depth:
            return Fit(law, nodes, depth, figure)
    raise ParameterError(f"{figure}: no tree of {nodes} nodes yields that; correct paper.toml")


def _best_depth(law: PowerLaw, figure: Figure, setup: Setup, depth: int) -> int:
    """The depth of the lowest time per token, if the published step drafted `depth` times."""
    nodes = figure.nodes or setup.nodes
    assert setup.plain_ms is not None, f"{setup.pair}: a depth cannot be fitted without times"
    step_ms = figure.tokens * setup.plain_ms / figure.speedup
    draft_ms = setup.draft_ms or (step_ms - setup.plain_ms) / depth
    target_ms = step_ms - depth * draft_ms
    values = _table(law, nodes, _DEEPEST).values[nodes]
    return max(range(1, _DEEPEST), key=lambda deep: values[deep] / (target_ms + deep * draft_ms))


def _table(law: PowerLaw, nodes: int, depth: int) -> TreeTable:
    return expected_tokens_table(law.rates(), nodes, depth, RANKS)


def paper_tree(facts: PaperFacts, setup: Setup, dataset: str, temperature: float) -> GrowMap | None:
    """The best tree of that setup's size; None without a figure to fit it to."""
    fitted = fit(facts, setup, dataset, temperature)
    if fitted is None:
        return None
    own = fitted.figure.hardware == setup.hardware
    nodes = fitted.nodes if own else setup.nodes
    # the paper gives both machines' figures for C4: there the depths agree
    table = _table(fitted.law, nodes, fitted.depth)
    name = tree_name(setup.hardware, setup.pair, dataset, temperature)
    return table.tree(nodes, fitted.depth, name, _source(fitted, setup, own))


def tree_name(hardware: str, pair: str, dataset: str, temperature: float) -> str:
    """The name of a packaged tree, for instance `a100/68m-7b/c4-stochastic`."""
    return f"{hardware}/{pair}/{dataset}-{_KINDS[temperature]}"


def _source(fitted: Fit, setup: Setup, own: bool) -> str:
    figure, law = fitted.figure, fitted.law
    place = f"{figure.hardware.upper()}, {figure.dataset}, T={figure.temperature:g}"
    depth = (
        f"{figure.levels} levels as published"
        if figure.levels is not None
        else "depth where its published step time pays best"
    )
    size = "" if figure.nodes is not None and own else f"; size: {setup.why}"
    return (
        f"exact search; rates fitted, not measured: k children are all rejected with chance "
        f"{law.factor:.4f} k^-{law.exponent:.3f}, the exponent of the release's acceptance vector, "
        f"the factor that gives the paper's {figure.tokens:.2f} tokens per step ({place}) "
        f"with {fitted.nodes} nodes, {depth}{size}"
    )
