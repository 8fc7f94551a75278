"""A tree shape filled with tokens: what drafting hands to the target's forward."""

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from sequoia_core.model.interface import Paths
from sequoia_core.speculate.sampling import to_host
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


class LookedUp(NamedTuple):
    """Tokens expected to follow the root of a tree whose own tokens the host does not know yet.

    The target reads them as a path below the root. Those that were drawn as well are left out of
    the tree once it is read, and the others follow these (`append_path`).
    """

    token_ids: tuple[int, ...]
    filled: Tensor  # int64 [C'], the same on the device and then -1


class FilledNodes(NamedTuple):
    """A tree on the device that a step has grown, filled up so that sizes repeat."""

    nodes: DeviceNodes  # [T']
    parents: Tensor  # int64 [T'], themselves of the root and of what only fills up
    read: Tensor  # int64 [R'], the node of each row of the draft's distributions, or T'
    appended: Tensor  # int64 [C'], or T'
    most: int  # children of a node
    levels: int


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
    grown: LookedUp | FilledNodes | None = None

    def on_host(self) -> HostNodes:
        """The nodes on the host, where they are read in one transfer unless they are there."""
        if isinstance(self.nodes, HostNodes):
            return self.nodes
        return HostNodes.read(to_host(*self.nodes))

    def ids_on(self, device: torch.device) -> Tensor:
        """The token ids on a device, of all rows that the target reads: int64 [T]."""
        if isinstance(self.grown, FilledNodes):
            return self.grown.nodes.token_ids
        if self.device_ids is not None:
            return self.device_ids
        if not isinstance(self.nodes, DeviceNodes):
            return torch.tensor(self.nodes.token_ids, device=device)
        if isinstance(self.grown, LookedUp):
            return torch.cat((self.nodes.token_ids, self.grown.filled.clamp(min=0)))
        return self.nodes.token_ids

    @property
    def read_shape(self) -> GrowMap:
        """What the target reads: this tree, and what was looked up as a path below its root."""
        if not isinstance(self.grown, LookedUp):
            return self.growmap
        size, parents = self.growmap.size, self.growmap.parents
        path = (0, *range(size, size + len(self.grown.filled) - 1))
        return GrowMap.numbered((*parents, *path), f"{self.growmap.name}+lookup")


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
