"""The host's half of `judging`: follows the accepted children in what was read from the device."""

from collections.abc import Sequence
from itertools import chain
from math import exp

from sequoia_core.config import Mode
from sequoia_core.speculate.grown_plan import GrownShape, PathPlan
from sequoia_core.speculate.judge_plan import JudgePlan
from sequoia_core.speculate.residual import Remainder
from sequoia_core.speculate.sampling import checked
from sequoia_core.speculate.scored_tree import ScoredTree
from sequoia_core.speculate.token_tree import FilledNodes, LookedUp
from sequoia_core.speculate.verify import Attempt, Verdict

NODE_VALUES = 5  # of `Judging.judged` before the bonus token


def followed(
    scored: ScoredTree,
    mode: Mode,
    block_nodes: Sequence[int],
    uniforms: Sequence[float],
    values: Sequence[Sequence[float]],
) -> Verdict | None:
    """The verdict by each node's number and the values of `Judging.judged`.

    `block_nodes` are those whose nuclei the last of these are about; None if a visited one is not
    whole.
    """
    rows, ((bonus,), (log_prob,), *whole) = values[:NODE_VALUES], values[NODE_VALUES:]
    p, q, accepted, covered, even = ([each[row] for row in scored.rows] for each in rows)
    certain = range(1, scored.growmap.size) if mode is Mode.TOPK else scored.tree.appended
    path, attempts = [0], dict[int, Attempt]()
    for node in path:
        last, without = 0, list[int]()  # drawn child, tokens of certain ones
        for child in scored.growmap.children[node]:
            residual = None
            if not accepted[child]:
                if child in certain:
                    without.append(scored.nodes.token_ids[child])
                else:
                    last = child
                residual = Remainder(node, covered[last], even[last], tuple(without))
            accept_prob = min(1.0, p[child] / q[child]) if q[child] > 0 else float(p[child] > 0)
            attempts[child] = Attempt(accept_prob, uniforms[child], p[child], q[child], residual)
            if accepted[child]:
                path.append(child)
                break
    if whole:
        flags = zip(block_nodes, chain.from_iterable(whole[1:]), strict=True)
        incomplete = {node for node, complete in flags if not complete}
        if not whole[0][0] or not incomplete.isdisjoint(path):
            return None
    checked([int(bonus)])
    return Verdict(tuple(path), int(bonus), attempts, exp(log_prob))


def block_nodes(
    scored: ScoredTree, shape: JudgePlan | GrownShape, path: PathPlan | None
) -> Sequence[int]:
    """The nodes of all blocks, in order, once the tree is read; -1 of what is none."""
    if isinstance(shape, JudgePlan):
        return shape.block_nodes
    tree, grown = scored.tree, scored.drafted.grown
    by_row = {row: node for node, row in tree.inner_rows.items()}
    read = range(len(shape.most)) if path is None else path.draft_rows
    found = [by_row.get(row, -1) for row in read]
    # a path that was appended hangs together
    above = [tree.growmap.parents[node] for node in sorted(tree.appended)]
    if isinstance(grown, LookedUp):
        above = [-1] * (len(grown.token_ids) - len(above)) + above
    assert grown is not None
    filled = len(grown.appended if isinstance(grown, FilledNodes) else grown.filled)
    return [*found, *above, *[-1] * (filled - len(above))]
