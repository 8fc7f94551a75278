"""A token tree with a path that was not drawn: tokens expected to follow its root."""

from collections.abc import Sequence
from dataclasses import replace

from sequoia_core.speculate.token_tree import HostNodes, TokenTree
from sequoia_core.tree.growmap import GrowMap, breadth_first_order


def append_path(tree: TokenTree, token_ids: Sequence[int]) -> TokenTree:
    """The tree with a path of these tokens, expected to follow its root.

    Lossless whatever the tokens are: an appended node is a proposal that is certain of its token,
    tried after all that was drawn at its parent, so it may depend on what was drawn.
    """
    return with_path(tree, tree.on_host(), token_ids)[0] if token_ids else tree


def with_path(
    tree: TokenTree, nodes: HostNodes, token_ids: Sequence[int]
) -> tuple[TokenTree, Sequence[int]]:
    """`append_path` to a tree of these nodes.

    Returns of each node its place among the tree's nodes and then those of the whole path as well.
    """
    node, size = 0, tree.growmap.size
    for at, token in enumerate(token_ids):
        children = tree.growmap.children[node]
        same = next((child for child in children if nodes.token_ids[child] == token), None)
        if same is None:
            return _with_chain(tree, nodes, node, token_ids[at:], size + at)
        node = same
    return replace(tree, nodes=nodes), range(size)


def _with_chain(
    tree: TokenTree, nodes: HostNodes, node: int, added: Sequence[int], first: int
) -> tuple[TokenTree, Sequence[int]]:
    """See `with_path`: with a chain below one node, numbered breadth first again.

    `first` is the place of its first token.
    """
    new = range(tree.growmap.size, tree.growmap.size + len(added))
    old_parents = (*tree.growmap.parents, node, *new[:-1])
    children = [*map(list, tree.growmap.children), *([] for _ in new)]
    for child in new:
        children[old_parents[child]].append(child)
    order = breadth_first_order(0, children)
    place = {old: at for at, old in enumerate(order)}
    parents = (-1, *(place[old_parents[old]] for old in order[1:]))
    tokens = (*nodes.token_ids, *added)
    columns = (*nodes.columns, *[0] * len(added))
    probs = (*nodes.draft_prob, *[1.0] * len(added))
    found = replace(
        tree,
        growmap=GrowMap.numbered(parents, f"{tree.growmap.name}+lookup"),
        nodes=HostNodes(
            tuple(map(tokens.__getitem__, order)),
            tuple(map(columns.__getitem__, order)),
            tuple(map(probs.__getitem__, order)),
        ),
        inner_rows={place[old]: row for old, row in tree.inner_rows.items()},
        appended=frozenset(place[each] for each in new),
        device_ids=None,
    )
    size = tree.growmap.size
    return found, [old if old < size else old - size + first for old in order]
