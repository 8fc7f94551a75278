"""A tree shape filled with tokens: what drafting hands to verification, and what rules look at."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import exp
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sequoia_core.config import SamplingParams
from sequoia_core.model.graphs import Graphs
from sequoia_core.model.interface import Paths, Summary
from sequoia_core.speculate.sampling import log_totals, shaped_probs, to_host
from sequoia_core.tree.growmap import GrowMap


@dataclass(frozen=True, slots=True)
class HostNodes:
    """A tree's nodes as Python values."""

    token_ids: tuple[int, ...]
    columns: tuple[int, ...]  # among the draft's; 0 for the root
    draft_prob: tuple[float, ...]  # what the draft states there at the parent; 1 for the root

    @classmethod
    def read(cls, values: Sequence[Sequence[float]]) -> "HostNodes":
        tokens, columns, probs = values
        return cls(tuple(map(int, tokens)), tuple(map(int, columns)), tuple(probs))


class DeviceNodes(NamedTuple):
    """The same on the draft's device: int64 [T], int64 [T] and float32 [T]."""

    token_ids: Tensor
    columns: Tensor
    draft_prob: Tensor


@dataclass(frozen=True, slots=True)
class TokenTree:
    """Drafted tokens and the distributions they were drawn from.

    `appended` nodes were not drawn: each is the last child of its parent, and a proposal of that
    one token with certainty.
    """

    growmap: GrowMap
    nodes: HostNodes | DeviceNodes
    draft_probs: Tensor  # float32 [I, V_draft] on the draft's device, at the nodes it read
    inner_rows: Mapping[int, int]  # of those nodes
    vocab_ids: Tensor | None = None  # the target's id of each draft column, on the CPU
    appended: frozenset[int] = frozenset()
    device_ids: Tensor | None = None  # the nodes' token ids, where they were brought there

    def on_host(self) -> HostNodes:
        """The nodes on the host, where they are read in one transfer unless they are there."""
        if isinstance(self.nodes, HostNodes):
            return self.nodes
        return HostNodes.read(to_host(*self.nodes))

    def ids_on(self, device: torch.device) -> Tensor:
        """The token ids on a device: int64 [T]."""
        if self.device_ids is not None:
            return self.device_ids
        if isinstance(self.nodes, DeviceNodes):
            return self.nodes.token_ids
        return torch.tensor(self.nodes.token_ids, device=device)


@dataclass(frozen=True)  # without slots, for the cached properties
class TreeLayout:
    """A shape as the target's forward needs it; each form is made when a model asks for it."""

    growmap: GrowMap
    device: torch.device

    @cached_property
    def parents(self) -> Tensor:
        """int64 [T], the root its own."""
        return torch.tensor((0, *self.growmap.parents[1:]), device=self.device)

    @cached_property
    def mask(self) -> Tensor:
        """Bool [T, T], ancestor-or-self."""
        return self.growmap.ancestor_mask().to(self.device)

    @cached_property
    def depths(self) -> Tensor:
        """int64 [T]."""
        return torch.tensor(self.growmap.depths, device=self.device)

    @cached_property
    def paths(self) -> Paths:
        return Paths.of(self.growmap.paths())

    @cached_property
    def host_parents(self) -> "array[int]":
        return array("q", (0, *self.growmap.parents[1:]))


class DeviceSummary(NamedTuple):
    """What a `Summary` is made of, where the logits are: [T] each."""

    argmax: Tensor  # int64
    log_totals: Tensor  # float64
    peaks: Tensor  # float32, the argmax's logit
    own: Tensor  # float32, a node's own logit at its parent

    @classmethod
    def of(
        cls, logits: Tensor, parents: Tensor, token_ids: Tensor, temperature: float
    ) -> "DeviceSummary":
        """Of logits [T, V] at a temperature above 0, and int64 [T], the root its own parent."""
        peaks, best = logits.max(-1)
        own = logits[parents, token_ids]
        return cls(best, log_totals(logits, temperature), peaks, own)


class Uniforms(NamedTuple):
    """A step's uniform numbers that were drawn before it, each node's: float64 [T]."""

    host: Tensor
    device: Tensor  # the same at an address that stays, until the next step
    graphs: Graphs | None  # that judging by them may be recorded in


@dataclass(frozen=True)  # without slots, for the cached properties
class ScoredTree:
    """A token tree with the target's logits float32 [T, V]: everything an acceptance rule looks at.

    Values that lie on the device are read when one of them is asked for, or along with those of a
    rule that reads more of them at once. Distributions are made only for the nodes asked for.
    """

    tree: TokenTree
    logits: Tensor
    params: SamplingParams
    scores: Summary | DeviceSummary | None  # None: what a rule computes with the rest
    uniforms: Uniforms | None = None

    @cached_property
    def nodes(self) -> HostNodes:
        return self._on_host[0]

    @cached_property
    def summary(self) -> Summary:
        return self._on_host[1]

    @cached_property
    def _on_host(self) -> tuple[HostNodes, Summary]:
        unread = self.unread(self.device_scores)
        return self._from(to_host(*unread) if unread else [])

    @cached_property
    def device_scores(self) -> DeviceSummary | None:
        """None where they are a summary on the host."""
        if self.scores is not None:
            return None if isinstance(self.scores, Summary) else self.scores
        device, temperature = self.logits.device, self.params.temperature or 1.0
        parents = TreeLayout(self.growmap, device).parents
        return DeviceSummary.of(self.logits, parents, self.tree.ids_on(device), temperature)

    def unread(self, scores: DeviceSummary | None) -> tuple[Tensor, ...]:
        """What `take` makes nodes and summary of, but for those that are on the host."""
        nodes = self.tree.nodes if isinstance(self.tree.nodes, DeviceNodes) else ()
        return (*(scores or ()), *nodes)

    def take(self, values: Sequence[Sequence[float]]) -> None:
        """Nodes and summary from the values of `unread`, which somebody has read."""
        self.__dict__["_on_host"] = self._from(values)

    def _from(self, values: Sequence[Sequence[float]]) -> tuple[HostNodes, Summary]:
        summary, nodes = self.scores, self.tree.nodes
        if isinstance(nodes, DeviceNodes):
            nodes = HostNodes.read(values[-3:])
        if not isinstance(summary, Summary):
            argmax, totals, highest, own = values[:4]
            temperature, parents = self.params.temperature or 1.0, (0, *self.growmap.parents[1:])
            summary = Summary(
                argmax=list(map(int, argmax)),
                log_totals=totals,
                log_peaks=[
                    peak / temperature - total for peak, total in zip(highest, totals, strict=True)
                ],
                log_probs=[
                    logit / temperature - totals[parent]
                    for logit, parent in zip(own, parents, strict=True)
                ],
            )
        return nodes, summary

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
        logit = float(self.logits[node, token_id])
        return exp(logit / (self.params.temperature or 1.0) - self.summary.log_totals[node])

    def target_probs(self, node: int) -> Tensor:
        """The target's shaped distribution after a node, p: float32 [V] on the CPU."""
        return shaped_probs(self.logits[node : node + 1], self.params)[0].cpu()

    def some_target_probs(self, node: int, token_ids: NDArray[np.int64]) -> NDArray[np.float32]:
        """`target_probs` of some tokens, without top-p and top-k: float32 [n], of CPU logits."""
        logits = self.logits[node].numpy()
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
    layout: TreeLayout | None = None,
    token_ids: Tensor | None = None,
) -> ScoredTree:
    """Attach the target's logits [T, V] and sum up what every rule needs of them.

    `layout` and `token_ids`, on the logits' device, are made unless given.
    """
    layout = layout or TreeLayout(tree.growmap, logits.device)
    token_ids = tree.ids_on(logits.device) if token_ids is None else token_ids
    temperature = params.temperature or 1.0
    scores = DeviceSummary.of(logits, layout.parents, token_ids, temperature)
    return ScoredTree(tree, logits, params, scores)
