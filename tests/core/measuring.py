"""Steps with known verdicts and times, and the figures of an invented machine."""

import random
from collections.abc import Sequence

from msgspec.structs import replace

from sequoia_core.events import Origin, Outcome, Step, StepTimings, TreeNode
from sequoia_core.measure.calibration import AcceptanceRecord, Band, Calibration, Tally
from sequoia_core.measure.timings import MachineTimes, Overhead, TimeCurve, TimeSurface, step_ms
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.tree.growmap import GrowMap

ROWS = (1, 2, 4, 8, 16, 32, 128)
CONTEXTS = (64, 1024)

Rates = Sequence[Sequence[float]]
"""Acceptance by depth, the last for all below, and rank."""


def surface(base: float, row: float, token: float) -> TimeSurface:
    """Affine in rows and in tokens of context."""
    curves = (
        TimeCurve(ROWS, tuple(base + row * rows + token * context for rows in ROWS))
        for context in CONTEXTS
    )
    return TimeSurface(CONTEXTS, tuple(curves))


OVERHEAD = Overhead(base_ms=0.4, level_ms=0.2, node_ms=0.03, plain_ms=0.5)
TIMES = MachineTimes(surface(10.0, 0.5, 0.001), surface(1.0, 0.05, 0.0001), OVERHEAD, OVERHEAD)


def record_of(rates: Rates, trials: float = 1e3) -> AcceptanceRecord:
    """As if these rates had been counted in so many trials each."""
    tallies = (Tally(tuple(r * trials for r in each), (trials,) * len(each)) for each in rates)
    return AcceptanceRecord(tuple(tallies), round(trials))


def calibration_of(rates: Rates, trials: float = 1e3) -> Calibration:
    record = record_of(rates, trials)
    return Calibration(TIMES, {Band.GREEDY: record, Band.WARM: record})


def walk(tree: GrowMap, rates: Rates, rng: random.Random) -> tuple[int, ...]:
    """A path through the tree where a child of rank k at depth d is accepted at `rates[d][k]`."""
    path = [0]
    while children := tree.children[path[-1]]:
        depth = tree.depths[path[-1]]
        drawn = rng.random()
        for rank, child in enumerate(children):
            here = rates[min(depth, len(rates) - 1)]
            drawn -= here[rank] if rank < len(here) else 0.0
            if drawn < 0:
                path.append(child)
                break
        else:
            break
    return tuple(path)


def make_step(
    tree: GrowMap,
    path: Sequence[int],
    costs: StepCosts,
    *,
    emitted: int | None = None,
    context: int = 100,
    slower: float = 1.0,
) -> Step:
    """A step with this path, its time as `costs` say, times `slower`.

    Args:
        tree: its shape.
        path: accepted nodes, root first.
        costs: of its parts; the drafting part holds what sampling takes.
        emitted: tokens that were left by a cut; None for the path and its bonus.
        context: tokens in the cache.
        slower: everything took so many times as long.
    """
    nodes = [
        TreeNode(
            token_id=node,
            text="a",
            parent=tree.parents[node],
            depth=tree.depths[node],
            rank=tree.ranks[node],
            draft_prob=None if node == 0 else 0.5,
            target_prob=None if node == 0 else 0.5,
            outcome=_outcome(tree, path, node),
        )
        for node in range(tree.size)
    ]
    plain = tree.size == 1
    verify = costs.target_ms(tree.size) - tree.size * OVERHEAD.node_ms
    rest = OVERHEAD.plain_ms if plain else OVERHEAD.of(tree.size, tree.depth)
    draft = 0.0 if plain else step_ms(tree, costs) - verify - rest
    return Step(
        index=1,
        nodes=tuple(nodes),
        path=tuple(path),
        bonus_token_id=0,
        bonus_text="a",
        bonus_prob=0.5,
        token_ids=(0,) * (len(path) if emitted is None else emitted),
        context_length=context,
        timings=StepTimings(draft * slower, verify * slower, rest * slower),
        plain_ms=costs.plain_ms * slower,
        plain_source="invented",
    )


def grafted(step: Step, at: int = 0, length: int = 2) -> Step:
    """The same step with a continuation that was looked up below a node, and not accepted."""
    nodes = list(step.nodes)
    for parent in (at, *range(len(nodes), len(nodes) + length - 1)):
        nodes.append(
            TreeNode(
                token_id=1,
                text="b",
                parent=parent,
                depth=nodes[parent].depth + 1,
                rank=1 + sum(node.parent == parent for node in nodes),
                draft_prob=None,
                target_prob=0.5,
                outcome=Outcome.NOT_REACHED,
                origin=Origin.LOOKUP,
            )
        )
    return replace(step, nodes=tuple(nodes))


def _outcome(tree: GrowMap, path: Sequence[int], node: int) -> Outcome:
    if node in path:
        return Outcome.ACCEPTED
    if tree.parents[node] not in path:
        return Outcome.NOT_REACHED
    siblings = [each for each in path if each and tree.parents[each] == tree.parents[node]]
    tried = not siblings or tree.ranks[node] < tree.ranks[siblings[0]]
    return Outcome.REJECTED if tried else Outcome.NOT_REACHED
