"""Grafts a known continuation onto a drafted tree.

Owns where the continuation's tokens go: along nodes that were drafted anyway, and from where the
tree leaves it as new nodes, each the last child of its parent. A pure function of values.

Lossless whatever the continuation is: a grafted node is a proposal that is certain of its token,
tried after all that was drawn at its parent, so it may depend on what was drawn.
"""

from collections.abc import Sequence
from dataclasses import replace

from sequoia_core.speculate.sampling import to_host
from sequoia_core.speculate.token_tree import TokenTree
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.numbering import breadth_first_order


def graft(tree: TokenTree, token_ids: Sequence[int]) -> TokenTree:
    """The tree with a path of these tokens below its root.

    Args:
        tree: as drafted.
        token_ids: what is expected to follow the root; () changes nothing.
    """
    if not token_ids:
        return tree
    known = to_host(tree.token_ids)[0]
    node, at = 0, 0
    while at < len(token_ids):
        children = tree.growmap.children[node]
        same = next((child for child in children if known[child] == token_ids[at]), None)
        if same is None:
            break
        node, at = same, at + 1
    added = list(token_ids[at:])
    return _extended(tree, node, added) if added else tree


def _extended(tree: TokenTree, node: int, added: list[int]) -> TokenTree:
    """With a chain of new nodes below one node, numbered breadth first again."""
    size = tree.growmap.size
    children = [list(each) for each in tree.growmap.children] + [[] for _ in added]
    for at in range(len(added)):
        children[node if at == 0 else size + at - 1].append(size + at)
    order = breadth_first_order(0, children)
    place = [0] * len(order)
    for new, old in enumerate(order):
        place[old] = new
    parents = [-1] * len(order)
    for old, below in enumerate(children):
        for child in below:
            parents[place[child]] = place[old]
    tokens, columns, probs = to_host(tree.token_ids, tree.columns, tree.node_probs)
    none = [0] * len(added)
    return replace(
        tree,
        growmap=GrowMap.numbered(parents, f"{tree.growmap.name}+lookup"),
        token_ids=_reordered([*tokens, *added], order),
        columns=_reordered([*columns, *none], order),
        node_probs=tuple(map([*probs, *(1.0 for _ in added)].__getitem__, order)),
        inner_rows={place[old]: row for old, row in tree.inner_rows.items()},
        grafted=frozenset(place[size : size + len(added)]),
    )


def _reordered(values: Sequence[float], order: Sequence[int]) -> tuple[int, ...]:
    return tuple(int(values[at]) for at in order)
