"""A whole token tree in a few cells, drawn in dots of Braille."""

from collections.abc import Iterator
from itertools import groupby, pairwise
from typing import NamedTuple

from textual.content import Content

from sequoia_core.events import Step

from .tree_rows import BONUS_NODE, NODE_STYLES, NodeVerdict, verdict_of

_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a Braille cell, by row
_DOWN, _ACROSS = len(_DOTS), len(_DOTS[0])
_BLANK = 0x2800
_MOST_TO_CHILD, _MOST_TO_LEAF = 8, 4  # dots; farther apart, a small tree is not seen as one
_FEW = 3
_STYLES = NODE_STYLES | {NodeVerdict.ROOT: NODE_STYLES[NodeVerdict.ACCEPTED]}
_THICK = NodeVerdict.ROOT, NodeVerdict.ACCEPTED, NodeVerdict.BONUS
_ORDER = NodeVerdict.NOT_REACHED, NodeVerdict.REJECTED, *_THICK
"""Where nodes share a cell, it has the colour of the last."""


class MapRun(NamedTuple):
    """Neighbouring cells of one verdict; None for blanks."""

    text: str
    verdict: NodeVerdict | None


class TreeMap(NamedTuple):
    lines: tuple[tuple[MapRun, ...], ...]
    places: dict[int, tuple[int, int]]  # column and row of each node's dot, the bonus token's too

    def line_of(self, node: int) -> int:
        return self.places[node][1] // _DOWN

    def node_at(self, column: int, line: int) -> int:
        """The node nearest to a cell, of those in its line if there are any."""

        def distance(node: int) -> tuple[int, int]:
            x, y = self.places[node]
            return abs(y // _DOWN - line), abs(x // _ACROSS - column)

        return min(self.places, key=distance)


def minimap(step: Step, width: int, height: int) -> tuple[Content, ...]:
    """The tree of a step in `height` lines of `width` cells, in the colours of the theme.

    The leaves lie along the longer side: depth goes to the right in a high map, downwards in a
    wide one. The accepted path and the target's own token are thick, so that they are seen without
    colour too. A tree that is too large for so many dots is made smaller: then nodes share a dot.
    """
    return tuple(
        Content.assemble(*((run.text, _STYLES[run.verdict] if run.verdict else "") for run in line))
        for line in tree_map(step, width, height).lines
    )


def tree_map(step: Step, width: int, height: int) -> TreeMap:
    """What `minimap` draws, and where each node is."""
    downwards = width * _ACROSS > height * _DOWN
    places = _places(step, width * _ACROSS, height * _DOWN, downwards=downwards)
    before = {at: left for each in step.children for left, at in pairwise(each)}
    verdicts = {at: verdict_of(node) for at, node in enumerate(step.nodes)}
    verdicts[BONUS_NODE] = NodeVerdict.BONUS
    cells: dict[tuple[int, int], tuple[NodeVerdict, int]] = {}
    for node in sorted(verdicts, key=lambda each: _ORDER.index(verdicts[each])):
        verdict = verdicts[node]
        parent = step.path[-1] if node == BONUS_NODE else max(0, step.nodes[node].parent)
        first, last, thick = places[parent], places[node], verdict in _THICK
        if node in before and not thick:  # the line down to the sibling before is drawn already
            left = places[before[node]]
            first = (left[0], first[1]) if downwards else (first[0], left[1])
        for x, y in _edge(first, last, thick=thick, downwards=downwards):
            cell = x // _ACROSS, y // _DOWN
            beneath, dots = cells.get(cell, (verdict, 0))
            if thick and beneath not in _THICK:
                dots = 0  # the path alone, or it would be lost among its neighbours
            cells[cell] = verdict, dots | _DOTS[y % _DOWN][x % _ACROSS]
    return TreeMap(tuple(tuple(_runs(cells, width, line)) for line in range(height)), places)


def _places(step: Step, across: int, down: int, *, downwards: bool) -> dict[int, tuple[int, int]]:
    """Column and row of every node's dot, by its depth and the leaves before it in preorder."""
    leaf, found, leaves = step.path[-1], dict[int, tuple[int, int]](), 0
    stack = [(0, 0)]
    while stack:
        node, depth = stack.pop()
        found[node] = depth, leaves
        if node == BONUS_NODE:
            branch = []
        else:
            branch = [*step.children[node], *([BONUS_NODE] if node == leaf else [])]
        leaves += not branch
        stack += [(child, depth + 1) for child in reversed(branch)]
    # One dot is left for the thickness of the path.
    room, length = (down, across) if downwards else (across, down)
    to_child = _spacing(room - 2, max(depth for depth, _ in found.values()), _MOST_TO_CHILD)
    to_leaf = _spacing(length - 2, leaves - 1, _MOST_TO_LEAF)
    placed = {node: (int(x * to_child), int(y * to_leaf)) for node, (x, y) in found.items()}
    return {node: (y, x) for node, (x, y) in placed.items()} if downwards else placed


def _spacing(room: int, count: int, most: int) -> float:
    """Dots from one to the next, whole ones where a part of one is not needed."""
    exact = max(0, room) / max(1, count)
    return min(most, exact if exact < _FEW else int(exact))


def _edge(
    parent: tuple[int, int], child: tuple[int, int], *, thick: bool, downwards: bool
) -> Iterator[tuple[int, int]]:
    """The dots from a parent to its child: along the siblings, then into the depth."""
    (left, top), (right, bottom) = parent, child
    corner = (right, top) if downwards else (left, bottom)
    for x in range(left, right + 1):
        for y in range(corner[1], corner[1] + 1 + thick):
            yield x, y
    for y in range(top, bottom + 1):
        for x in range(corner[0], corner[0] + 1 + thick):
            yield x, y


def _runs(
    cells: dict[tuple[int, int], tuple[NodeVerdict, int]], width: int, line: int
) -> Iterator[MapRun]:
    row = [cells.get((column, line), (None, 0)) for column in range(width)]
    for verdict, same in groupby(row, key=lambda cell: cell[0]):
        text = "".join(chr(_BLANK + dots) if dots else " " for _, dots in same)
        yield MapRun(text, verdict)
