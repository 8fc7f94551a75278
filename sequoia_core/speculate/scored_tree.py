"""A token tree with the target's logits: what the acceptance rules look at."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from math import exp
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.model.graphs import Graphs
from sequoia_core.model.interface import Summary
from sequoia_core.speculate.appended_path import with_path
from sequoia_core.speculate.sampling import log_totals, shaped_probs, to_host
from sequoia_core.speculate.token_tree import (
    DeviceNodes,
    FilledNodes,
    HostNodes,
    LookedUp,
    TokenTree,
    TreeLayout,
)
from sequoia_core.tree.growmap import GrowMap


class DeviceSummary(NamedTuple):
    """What a `Summary` is made of, where the logits are: [T] each."""

    argmax: Tensor  # int64
    log_totals: Tensor  # float64
    peaks: Tensor  # float32, the argmax's logit
    own: Tensor  # float64, log probability of a node's own token at its parent

    @classmethod
    def of(
        cls, logits: Tensor, parents: Tensor, token_ids: Tensor, temperature: float
    ) -> "DeviceSummary":
        """Of logits [T, V] at a temperature above 0, and int64 [T], the root its own parent."""
        peaks, best = logits.max(-1)
        totals = log_totals(logits, temperature)
        own = logits[parents, token_ids].double() / temperature - totals[parents]
        return cls(best, totals, peaks, own)


class Uniforms(NamedTuple):
    """A step's uniform numbers that were drawn before it, of each row that the target reads."""

    host: Tensor  # float64 [T]
    device: Tensor  # the same at an address that stays, until the next step
    graphs: Graphs | None  # that judging by them may be recorded in


class _Read(NamedTuple):
    """What is read from the device."""

    tree: TokenTree
    rows: Sequence[int]  # of its nodes, among those that the target has read
    nodes: HostNodes
    summary: Summary


@dataclass(frozen=True)  # without slots, for the cached properties
class ScoredTree:
    """A token tree with the target's logits float32 [T, V]: everything an acceptance rule looks at.

    Values that lie on the device are read when one of them is asked for, or along with those of a
    rule that reads more of them at once. Distributions are made only for the nodes asked for.
    Where a looked-up path is part of the tree is known once it is read.
    """

    drafted: TokenTree
    logits: Tensor  # of the rows that the target has read; see `rows`
    params: SamplingParams
    scores: Summary | DeviceSummary | None  # None: what a rule computes with the rest
    uniforms: Uniforms | None = None

    @cached_property
    def tree(self) -> TokenTree:
        return self._on_host.tree if isinstance(self.drafted.grown, LookedUp) else self.drafted

    @cached_property
    def rows(self) -> Sequence[int]:
        """Of each node its row of the logits, and of what the target's cache holds of the tree."""
        looked_up = isinstance(self.drafted.grown, LookedUp)
        return self._on_host.rows if looked_up else range(self.drafted.growmap.size)

    @cached_property
    def nodes(self) -> HostNodes:
        return self._on_host.nodes

    @cached_property
    def summary(self) -> Summary:
        return self._on_host.summary

    @cached_property
    def _on_host(self) -> _Read:
        unread = self.unread(self.device_scores)
        return self._from(to_host(*unread) if unread else [])

    @cached_property
    def device_scores(self) -> DeviceSummary | None:
        """None where they are a summary on the host."""
        if self.scores is not None:
            return None if isinstance(self.scores, Summary) else self.scores
        device, temperature = self.logits.device, self.params.temperature or 1.0
        drafted = self.drafted
        if isinstance(drafted.grown, FilledNodes):
            parents = drafted.grown.parents
        else:
            parents = TreeLayout(drafted.read_shape, device).parents
        return DeviceSummary.of(self.logits, parents, drafted.ids_on(device), temperature)

    def unread(self, scores: DeviceSummary | None) -> tuple[Tensor, ...]:
        """What `take` makes nodes and summary of, but for those that are on the host."""
        nodes = self.drafted.nodes if isinstance(self.drafted.nodes, DeviceNodes) else ()
        return (*(scores or ()), *nodes)

    def take(self, values: Sequence[Sequence[float]]) -> None:
        """Nodes and summary from the values of `unread`, which somebody has read."""
        self.__dict__["_on_host"] = self._from(values)

    def _from(self, values: Sequence[Sequence[float]]) -> _Read:
        summary, tree, nodes = self.scores, self.drafted, self.drafted.nodes
        rows: Sequence[int] = range(tree.growmap.size)
        if isinstance(nodes, DeviceNodes):
            nodes = HostNodes.read(values[-3:])
        if isinstance(tree.grown, LookedUp):
            on_host = replace(tree, nodes=nodes, grown=None)
            tree, rows = with_path(on_host, nodes, tree.grown.token_ids)
            nodes = tree.on_host()
        if not isinstance(summary, Summary):
            argmax, totals, highest, own = ([each[row] for row in rows] for each in values[:4])
            temperature = self.params.temperature or 1.0
            summary = Summary(
                argmax=list(map(int, argmax)),
                log_totals=totals,
                log_peaks=[
                    peak / temperature - total for peak, total in zip(highest, totals, strict=True)
                ],
                log_probs=own,
            )
        return _Read(tree, rows, nodes, summary)

    @property
    def growmap(self) -> GrowMap:
        return self.tree.growmap

    def emitted(self, path: Sequence[int], bonus_token: int) -> list[int]:
        """Tokens of an accepted path, the root's left out, and the bonus token."""
        return [*(self.nodes.token_ids[node] for node in path[1:]), bonus_token]

    def target_prob(self, node: int) -> float:
        """The target's probability of a node at its parent, before top-p and top-k."""
        return exp(self.summary.log_probs[node])

    def target_prob_of(self, node: int, token_id: int) -> float:
        """The target's probability of any token after a node, in the sense of `target_prob`."""
        if token_id == self.summary.argmax[node]:
            return exp(self.summary.log_peaks[node])
        logit = float(self.logits[self.rows[node], token_id])
        return exp(logit / (self.params.temperature or 1.0) - self.summary.log_totals[node])

    def target_probs(self, node: int) -> Tensor:
        """The target's shaped distribution after a node, p: float32 [V] on the CPU."""
        row = self.rows[node]
        return shaped_probs(self.logits[row : row + 1], self.params)[0].cpu()

    def some_target_probs(self, node: int, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """`target_probs` of some tokens, without top-p and top-k: float32 [n], of CPU logits."""
        logits = self.logits[self.rows[node]].numpy()
        found = logits.take(token_ids)
        found -= logits[self.summary.argmax[node]]
        found *= 1.0 / self.params.temperature
        np.exp(found, out=found)
        found *= exp(self.summary.log_peaks[node])
        return found

    def draft_probs(self, node: int) -> Tensor:
        """The distribution a node's children were drawn from, q: float32 [V_draft] on the CPU."""
        return self.tree.draft_probs[self.tree.inner_rows[node]].cpu()


def score(
    tree: TokenTree,
    logits: Tensor,
    params: SamplingParams,
    parents: Tensor | None = None,
    token_ids: Tensor | None = None,
) -> ScoredTree:
    """Attach the target's logits [T, V] and sum up what every rule needs of them.

    `parents`, int64 [T], the root its own, and `token_ids`, on the logits' device, are made unless
    given.
    """
    scored = ScoredTree(tree, logits, params, None)
    if parents is None or token_ids is None:
        return replace(scored, scores=scored.device_scores)
    scores = DeviceSummary.of(logits, parents, token_ids, params.temperature or 1.0)
    return replace(scored, scores=scores)
