"""The minimap: it keeps to its cells, every node is in it, and the path is seen without colour."""

from hypothesis import given
from hypothesis import strategies as st

from app.present.minimap import minimap, tree_map
from app.present.tree_rows import BONUS_NODE, NodeVerdict
from sequoia_core.events import Step
from tests.app.present.test_tree_rows import quick, trees
from tests.fakes import make_step

widths, heights = st.integers(1, 30), st.integers(1, 30)


@quick
@given(step=trees(), width=widths, height=heights)
def test_it_keeps_to_its_cells(step: Step, width: int, height: int) -> None:
    lines = minimap(step, width, height)
    assert [line.cell_length for line in lines] == [width] * height


@quick
@given(step=trees(), width=widths, height=heights)
def test_every_node_is_drawn_where_it_is_found(step: Step, width: int, height: int) -> None:
    drawn = tree_map(step, width, height)
    assert drawn.places.keys() == {BONUS_NODE, *range(len(step.nodes))}
    for node, (x, y) in drawn.places.items():
        text = "".join(run.text for run in drawn.lines[drawn.line_of(node)])
        assert text[x // 2] != " "
        found = drawn.places[drawn.node_at(x // 2, y // 4)]
        assert (found[0] // 2, found[1] // 4) == (x // 2, y // 4)


def test_the_accepted_path_is_thick_and_the_rest_is_thin() -> None:
    accepted = make_step(1, "a", [("b", 1), ("c", 1), ("d", 0)], (-1, 0, 1))
    unreached = make_step(1, "a", [("d", 0)], (-1, 0, 1))
    thick = _dots(accepted, NodeVerdict.ACCEPTED, NodeVerdict.BONUS)
    thin = _dots(unreached, NodeVerdict.REJECTED, NodeVerdict.NOT_REACHED)
    assert thick > 2 * thin > 0


def _dots(step: Step, *verdicts: NodeVerdict) -> int:
    runs = [run for line in tree_map(step, 20, 20).lines for run in line]
    cells = "".join(run.text for run in runs if run.verdict in verdicts)
    return sum((ord(cell) - 0x2800).bit_count() for cell in cells)


def test_a_wide_map_has_its_depth_downwards() -> None:
    chain = make_step(1, "a", [("b", 0)], tuple(range(-1, 9)))
    wide, high = tree_map(chain, 30, 4), tree_map(chain, 4, 30)
    assert wide.places[9][1] > wide.places[9][0] == 0
    assert high.places[9][0] > high.places[9][1] == 0
