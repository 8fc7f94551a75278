"""The rows of a tree in a panel, with folds that a person opens and closes."""

from sequoia_core.events import Step

from .tree_rows import (
    BONUS_NODE,
    Folds,
    TreeRow,
    fold_index,
    folds_for,
    guide_width,
    is_fold,
    tree_rows,
)


class TreeOutline:
    """The rows of one step after the other; folds that were opened stay open in the same shape."""

    def __init__(self) -> None:
        self.step: Step | None = None
        self._room = 0
        self._folds: Folds = {}
        self._opened: set[int] = set()  # the nodes above the folds
        self._unfolded = False  # all folds are open
        self._rows: tuple[TreeRow, ...] | None = None
        self._row_at: dict[int, int] = {}
        self._width = 0

    def use(self, step: Step | None, room: int) -> None:
        """Go on with a step in a panel of so many rows; none of 0 rows is made."""
        if step is None or self.step is None or len(step.nodes) != len(self.step.nodes):
            self._opened.clear()
        self.step, self._room, self._rows = step, room, None
        folds = step is not None and room > 0 and not self._unfolded
        self._folds = folds_for(step, room) if step is not None and folds else {}

    def rows(self, width: int) -> tuple[TreeRow, ...]:
        """The rows, with guides for lines of so many cells without the figures."""
        if self._rows is None or width != self._width:
            self._width, self._rows = width, ()
            if self.step is not None and self._room > 0:
                cells = guide_width(self.step, width)
                self._rows = tree_rows(self.step, cells, self._folds, self._opened)
            self._row_at = {row.node: at for at, row in enumerate(self._rows)}
        return self._rows

    def row_of(self, node: int) -> int:
        self.rows(self._width)
        return self._row_at.get(node, 0)

    def shown(self, node: int | None) -> int:
        """The node, or the fold it is in; None and what is not in the tree: the path's end."""
        if self.step is None:
            return BONUS_NODE
        self.rows(self._width)
        if node is not None and is_fold(node) and node not in self._row_at:
            node = fold_index(node)
        if node is None or node >= len(self.step.nodes):
            return self.step.path[-1]
        while self._row_at and node not in self._row_at:
            above = self.step.nodes[node].parent
            fold = fold_index(above)
            in_it = node in self._folds.get(above, ()) and fold in self._row_at
            node = fold if in_it else above
        return node

    def folded(self, node: int) -> tuple[int, ...]:
        """The nodes that a fold stands for, without those below them."""
        return self._folds.get(fold_index(node), ())

    def reveal(self, node: int) -> None:
        """Open the folds that a node is in."""
        nodes = self.step.nodes if self.step is not None else ()
        while 0 < node < len(nodes):
            above = nodes[node].parent
            if node in self._folds.get(above, ()):
                self._opened.add(above)
            node = above
        self._rows = None

    def toggle(self, node: int) -> int | None:
        """Open or close a fold: this one, the one below the node, or the one it is in.

        Returns the fold; None if there is none.
        """
        while self.step is not None and node != BONUS_NODE:
            above = fold_index(node) if is_fold(node) else node
            if above in self._folds:
                self._opened ^= {above}
                self._rows = None
                return fold_index(above)
            node = self.step.nodes[above].parent
        return None

    def toggle_all(self) -> None:
        self._unfolded = not self._unfolded
        self._opened.clear()
        self.use(self.step, self._room)
