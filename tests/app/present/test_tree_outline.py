"""Folds: what matters stays in view, nothing is lost, and what is folded can be opened."""

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.present.accessible import row_in_words
from app.present.tree_outline import TreeOutline
from app.present.tree_rows import BONUS_NODE, fold_index, is_fold, tree_rows
from sequoia_core.events import Outcome, Step, TreeNode
from tests.app.present.test_tree_rows import quick, trees
from tests.fakes import make_step

WIDTH = 60
rooms = st.integers(1, 45)


def outline(step: Step, room: int) -> TreeOutline:
    made = TreeOutline()
    made.use(step, room)
    made.rows(WIDTH)
    return made


@quick
@given(step=trees(), room=rooms)
def test_path_and_tried_nodes_always_have_rows_and_no_node_is_lost(step: Step, room: int) -> None:
    rows = outline(step, room).rows(WIDTH)
    shown = {row.node for row in rows}
    tried = {i for i, node in enumerate(step.nodes) if node.outcome is not Outcome.NOT_REACHED}
    assert tried | {BONUS_NODE} <= shown
    nodes = sum(row.folded or 1 for row in rows)
    assert nodes == len(step.nodes) + 1
    assert all(row.folded != 1 for row in rows)
    rejected = len(tried) - len(step.path)
    assert len(rows) <= max(room, 1 + 2 * len(step.path) + 2 * rejected)


@quick
@given(step=trees(), more=st.integers(0, 5))
def test_a_tree_that_fits_is_not_folded(step: Step, more: int) -> None:
    rows = outline(step, len(step.nodes) + 1 + more).rows(WIDTH)
    assert not any(row.folded for row in rows)
    assert [row.node for row in rows] == [row.node for row in tree_rows(step)]


@quick
@given(step=trees(), room=rooms, data=st.data())
def test_a_node_in_a_fold_is_stood_for_and_can_be_revealed(
    step: Step, room: int, data: st.DataObject
) -> None:
    node = data.draw(st.integers(BONUS_NODE, len(step.nodes) - 1))
    made = outline(step, room)
    shown = {row.node for row in made.rows(WIDTH)}
    assert made.shown(node) == node if node in shown else is_fold(made.shown(node))
    assert made.shown(node) in shown
    made.reveal(node)
    assert made.shown(node) == node
    assert made.rows(WIDTH)[made.row_of(node)].node == node


def test_a_node_in_a_fold_within_a_fold_is_stood_for_by_the_outer_one() -> None:
    # the root's children 2 and 3 are folded, and so are the children of each
    step = make_step(1, "a", [("b", 1), ("c", 0)], (-1, 0, 0, 0, 2, 2, 3, 3))
    made = outline(step, 4)
    assert [row.node for row in made.rows(WIDTH)] == [0, 1, BONUS_NODE, fold_index(0)]
    assert {made.shown(node) for node in range(2, 8)} == {fold_index(0)}
    made.toggle(fold_index(0))
    assert made.shown(7) == fold_index(3)


def test_a_fold_is_a_sentence_in_accessible_mode() -> None:
    step = make_step(1, "a", [("b", 0)], tuple([-1] + [0] * 20))
    made = outline(step, 1)
    made.use(replace(step, nodes=tuple(map(_unreached, step.nodes))), 1)
    (root, fold, _) = made.rows(WIDTH)
    assert row_in_words(root) == 'root "a"'
    assert row_in_words(fold) == "depth 1, 20 not reached, not listed"
    made.toggle(fold.node)
    assert row_in_words(made.rows(WIDTH)[1]) == "depth 1, 20 not reached, listed next"


def _unreached(node: TreeNode) -> TreeNode:
    return node if node.parent < 0 else replace(node, outcome=Outcome.NOT_REACHED)


@quick
@given(step=trees(), room=rooms)
def test_folds_open_and_close(step: Step, room: int) -> None:
    made = outline(step, room)
    before = made.rows(WIDTH)
    for row in before:
        if row.folded:
            assert made.toggle(row.node) == row.node
            opened = made.rows(WIDTH)
            assert opened[made.row_of(row.node)].opened
            assert len(opened) > len(before)
            child = opened[made.row_of(row.node) + 1].node
            assert child in made.folded(row.node)
            assert made.toggle(child) is not None  # closes the fold that it is in, or one below it
            if made.shown(child) == child:
                made.toggle(child)
                made.toggle(row.node)
            assert made.rows(WIDTH) == before
    made.toggle_all()
    assert len(made.rows(WIDTH)) == len(step.nodes) + 1
    made.toggle_all()
    assert made.rows(WIDTH) == before
