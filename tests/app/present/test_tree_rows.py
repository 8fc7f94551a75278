"""Rows of a tree: preorder, guides, verdicts."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from app.present.tree_rows import (
    GLYPHS,
    MAX_GUIDE_CELLS,
    NodeVerdict,
    TreeRow,
    folds_for,
    guide_width,
    tree_rows,
)
from app.present.words import ordinal
from app.state.sanitize import quote_token
from sequoia_core.events import Outcome, Step
from tests.fakes import PARENTS_16, make_step

quick = settings(deadline=None, max_examples=80)
any_text = st.text(st.characters(codec=None), max_size=40)


@st.composite
def trees(draw: st.DrawFn) -> Step:
    """A step over any tree shape with any path from the root."""
    size = draw(st.integers(1, 40))
    parents = [-1] + [draw(st.integers(0, i - 1)) for i in range(1, size)]
    path = [0]
    while children := [i for i, parent in enumerate(parents) if parent == path[-1]]:
        if draw(st.booleans()):
            break
        path.append(draw(st.sampled_from(children)))
    ranks = [1 + sum(p == parents[i] for p in parents[:i]) for i in range(size)]
    emitted = [(draw(any_text), ranks[i]) for i in path[1:]] + [(draw(any_text), 0)]
    return make_step(1, draw(any_text), emitted, tuple(parents))


@quick
@given(step=trees())
def test_rows_are_the_tree_in_preorder_with_the_bonus_under_the_leaf(step: Step) -> None:
    rows = tree_rows(step, cells_per_level=1)
    assert len(rows) == len(step.nodes) + 1
    depths = [len(row.guides) for row in rows]
    assert sorted(depths) == sorted([node.depth for node in step.nodes] + [len(step.path)])
    assert all(after <= before + 1 for before, after in itertools.pairwise(depths))
    assert _spine(rows, depths) == [
        quote_token(text) for text in [step.nodes[i].text for i in step.path] + [step.bonus_text]
    ]


def _spine(rows: tuple[TreeRow, ...], depths: list[int]) -> list[str]:
    """The tokens from the root down to the bonus row, found by the guides alone."""
    at = next(i for i, row in enumerate(rows) if row.verdict is NodeVerdict.BONUS)
    found = [at]
    for i in range(at - 1, -1, -1):
        if depths[i] < depths[found[-1]]:
            found.append(i)
    return [rows[i].token for i in reversed(found)]


@quick
@given(step=trees(), room=st.integers(1, 45))
def test_the_heavy_line_runs_unbroken_from_root_to_bonus(step: Step, room: int) -> None:
    rows = tree_rows(step, cells_per_level=1, folds=folds_for(step, room))
    emitted = (NodeVerdict.ACCEPTED, NodeVerdict.BONUS)
    assert all(row.guides[-1].heavy for row in rows if row.verdict in emitted)
    for above, row in itertools.pairwise(rows):
        for level, part in enumerate(row.guides):
            if part.text[0] in "┃┠┡┗" and level < len(above.guides):
                assert above.guides[level].text[0] in "┃┠"
            elif part.text[0] in "│├└":
                assert level >= len(above.guides) or above.guides[level].text[0] in "│├┡"


@quick
@given(step=trees(), cells=st.integers(1, 3))
def test_guides_are_as_wide_as_the_depth(step: Step, cells: int) -> None:
    for row in tree_rows(step, cells):
        width = sum(cell_len(part.text) for part in row.guides)
        assert width == len(row.guides) * cells or width <= MAX_GUIDE_CELLS + 1


@quick
@given(step=trees(), room=st.integers(0, 200))
def test_guides_leave_half_the_room_where_they_can(step: Step, room: int) -> None:
    deepest = 1 + max(node.depth for node in step.nodes)
    width = guide_width(step, room)
    assert 1 <= width <= 3
    assert width == 1 or width * deepest <= room / 2


def test_a_chain_deeper_than_the_recursion_limit_is_drawn() -> None:
    size = 3000
    step = make_step(1, "a", [("b", 0)], tuple(range(-1, size - 1)))
    rows = tree_rows(step, cells_per_level=1)
    assert len(rows) == size + 1
    assert all(sum(len(p.text) for p in row.guides) <= MAX_GUIDE_CELLS + 1 for row in rows)


def test_verdicts_are_told_apart_by_glyph_alone() -> None:
    assert len(set(GLYPHS.values())) == len(NodeVerdict)
    assert all(cell_len(glyph) == 1 for glyph in GLYPHS.values())


@pytest.mark.parametrize(
    ("rank", "said"),
    [(1, "1st"), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (12, "12th"), (21, "21st"),
     (113, "113th")],
)  # fmt: skip
def test_ordinals_are_said_as_people_say_them(rank: int, said: str) -> None:
    assert ordinal(rank) == said


def test_the_fake_step_is_a_tree_like_the_engine_makes() -> None:
    step = make_step(3, "a", [("b", 1), ("c", 2), ("d", 0)])
    assert len(step.nodes) == len(PARENTS_16)
    assert [step.nodes[i].outcome for i in step.path] == [Outcome.ACCEPTED] * 3
    assert len(step.token_ids) == step.accepted + 1
