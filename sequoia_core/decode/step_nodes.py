"""A judged tree as the plain values that a `Step` reports.

Owns the translation; knows neither models nor the loop.
"""

from sequoia_core.events import Origin, TreeNode
from sequoia_core.speculate.token_tree import ScoredTree
from sequoia_core.speculate.verify import Verdict
from sequoia_core.text.detokenizer import TextCodec


def step_nodes(scored: ScoredTree, verdict: Verdict, codec: TextCodec) -> tuple[TreeNode, ...]:
    """Every node with what both models and the walk made of it."""
    growmap, trials, grafted = scored.growmap, verdict.trials, scored.tree.grafted
    outcomes = verdict.outcomes(growmap)
    return tuple(
        TreeNode(
            token_id=scored.token_ids[node],
            text=codec.token_text(scored.token_ids[node]),
            parent=growmap.parents[node],
            depth=growmap.depths[node],
            rank=growmap.ranks[node],
            draft_prob=scored.draft_prob[node] if node and node not in grafted else None,
            target_prob=scored.target_prob[node] if node else None,
            outcome=outcomes[node],
            accept_prob=trials[node].accept_prob if node in trials else None,
            draw=trials[node].draw if node in trials else None,
            origin=Origin.LOOKUP if node in grafted else Origin.DRAFT,
        )
        for node in range(growmap.size)
    )
