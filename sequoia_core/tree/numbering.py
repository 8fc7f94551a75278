"""From lists of parents or children, in any numbering, to one breadth-first tree; linear time.

Each function raises GrowMapError for what is no tree.
"""

import operator
import reprlib
from collections.abc import Sequence
from typing import Any

from sequoia_core.errors import GrowMapError

MAX_NODES = 65_536


def check_size(nodes: int) -> None:
    """Refuse what is no tree of 1 to `MAX_NODES` nodes."""
    if nodes < 1:
        raise GrowMapError("empty; a tree has at least a root")
    if nodes > MAX_NODES:
        raise GrowMapError(f"more than {MAX_NODES:,} nodes")


def children_from_parents(parents: Sequence[Any]) -> tuple[int, list[list[int]]]:
    """The root, and each node's children in the order they are listed."""
    check_size(len(parents))
    roots: list[int] = []
    children: list[list[int]] = [[] for _ in parents]
    for node, value in enumerate(parents):
        parent = _whole(value, f"the parent of node {node}")
        if parent == -1:
            roots.append(node)
        elif 0 <= parent < len(parents):
            children[parent].append(node)
        else:
            raise GrowMapError(f"the parent of node {node} is outside 0 to {len(parents) - 1}")
    if len(roots) != 1:
        raise GrowMapError(f"{len(roots)} roots (parent -1); a tree has one")
    return roots[0], children


def children_from_successors(successors: Sequence[Sequence[Any]]) -> list[list[int]]:
    """Each node's children in rank order; node 0 is the root."""
    check_size(len(successors))
    is_child = [False] * len(successors)
    is_child[0] = True
    children: list[list[int]] = []
    for node, row in enumerate(successors):
        children.append([])
        for value in row:
            child = _whole(value, f"a child of node {node}")
            if not 0 <= child < len(successors):
                raise GrowMapError(f"a child of node {node} is outside 0 to {len(successors) - 1}")
            if is_child[child]:
                raise GrowMapError(
                    f"node {child}, a child of node {node}, is the root or another's"
                )
            is_child[child] = True
            children[node].append(child)
    return children


def breadth_first_order(root: int, children: Sequence[Sequence[int]]) -> list[int]:
    """The nodes level by level; where some do not hang below the root they form a cycle."""
    order = [root]
    for node in order:
        order.extend(children[node])
    if len(order) != len(children):
        missing = len(children) - len(order)
        raise GrowMapError(f"{missing} nodes do not hang below the root (there is a cycle)")
    return order


def breadth_first(root: int, children: Sequence[Sequence[int]]) -> list[int]:
    """The tree's parents once its nodes are renumbered level by level."""
    parents = [-1]
    for new_index, node in enumerate(breadth_first_order(root, children)):
        parents.extend([new_index] * len(children[node]))
    return parents


def _whole(value: Any, what: str) -> int:
    """A whole number; a bool, a float or a string is none."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)
        except TypeError:
            pass
    raise GrowMapError(f"{what} is {reprlib.repr(value):.40}; a whole number is expected")
