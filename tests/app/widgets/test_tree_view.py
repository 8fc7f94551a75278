"""Trees that do not fit: folds, the minimap, and the strip where there is no room for a tree."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from app.config.settings import Settings
from app.present.tree_rows import BONUS_NODE, FIGURES_CELLS, fold_index, subtree_sizes
from app.widgets.tree_strip import TreeStrip, path_rows
from sequoia_core.events import Event, Origin, Step, TreeNode
from sequoia_core.tree.growmap import GrowMap
from tests.app.driving import Driver, driving
from tests.fakes import TREE_16, make_answer, replay

LARGE = GrowMap.k_ary((5, 4, 3)).parents  # 86 nodes
TREE = replace(TREE_16, growmap="large", nodes=len(LARGE), depth=3)


def large_answer() -> tuple[Event, ...]:
    return make_answer("One two three four five six seven.", TREE, LARGE)


def rows_shown(chat: Driver) -> list[str]:
    region = chat.tree.content_region
    rows = chat.screen_text().splitlines()[region.y : region.bottom]
    return [row[region.x : region.right] for row in rows]


def first_fold(chat: Driver) -> int:
    return next(at for at, row in enumerate(rows_shown(chat)) if "+" in row)


async def test_the_path_and_what_was_tried_are_seen_without_scrolling() -> None:
    async with driving(replay(large_answer()), size=(160, 50)) as chat:
        await chat.ask()
        await chat.walk("home")
        shown = "\n".join(rows_shown(chat))
        step = chat.tree.step
        assert step is not None
        assert shown.count("✔") == step.accepted
        assert "➜" in shown
        assert "not reached" in shown
        assert chat.tree.max_scroll_y == 0


async def test_a_click_opens_a_fold_and_another_closes_it() -> None:
    async with driving(replay(large_answer()), size=(160, 50)) as chat:
        await chat.ask()
        before, at = rows_shown(chat), first_fold(chat)
        await chat.pilot.click(chat.tree, offset=(10, at + 1))
        await chat.until(lambda: "−" in rows_shown(chat)[at])
        assert "·" in rows_shown(chat)[at + 1]
        await chat.pilot.click(chat.tree, offset=(10, at + 1))
        await chat.until(lambda: "+" in rows_shown(chat)[at])
        assert [row.replace("▸", " ") for row in rows_shown(chat)] == before


async def test_what_a_fold_in_the_last_row_has_is_brought_into_view() -> None:
    async with driving(replay(large_answer()), size=(100, 30)) as chat:
        await chat.ask()
        at = max(at for at, row in enumerate(rows_shown(chat)) if "+" in row)
        assert at == chat.tree.size.height - 1
        await chat.pilot.click(chat.tree, offset=(6, at + 1))
        await chat.until(lambda: any("−" in row for row in rows_shown(chat)))
        opened = next(at for at, row in enumerate(rows_shown(chat)) if "−" in row)
        assert len(rows_shown(chat)) - opened > 4
        marked = [row[chat.tree.text_width] == "┃" for row in rows_shown(chat)]
        assert marked[-1]


async def test_keys_open_one_fold_or_all() -> None:
    async with driving(replay(large_answer()), size=(160, 50)) as chat:
        await chat.ask()
        at = first_fold(chat)
        await chat.pilot.press("tab", "pageup")
        while "▸" not in rows_shown(chat)[at]:
            before = chat.tree.node
            await chat.pilot.press("down")
            assert chat.tree.node != before
        assert chat.tree.folded
        await chat.pilot.press("enter")
        assert "−" in rows_shown(chat)[at]
        await chat.pilot.press("down", "plus")  # from a node in it
        assert "+" in rows_shown(chat)[at]
        await chat.pilot.press("asterisk")
        assert chat.tree.virtual_size.height == len(LARGE) + 2
        assert "not reached" not in "".join(rows_shown(chat))
        await chat.pilot.press("asterisk")
        assert chat.tree.max_scroll_y == 0


async def test_a_fold_says_why_in_one_sentence() -> None:
    async with driving(replay(large_answer()), size=(160, 50)) as chat:
        await chat.ask()
        chat.app.chat.action_why()
        await chat.pilot.click(chat.tree, offset=(10, first_fold(chat) + 1))
        await chat.until(lambda: "None was tried" in chat.screen_text())
        assert "not reached, folded into one row" in chat.screen_text()


async def test_selecting_a_node_in_a_fold_opens_it() -> None:
    async with driving(replay(large_answer()), size=(160, 50)) as chat:
        await chat.ask()
        chat.tree.focus()
        last = len(LARGE) - 1
        assert chat.tree._outline.shown(last) != last
        chat.tree.point(last)
        await chat.pilot.pause()
        assert chat.tree.node == last
        assert any("▸" in row for row in rows_shown(chat))


async def test_the_minimap_marks_what_is_in_view_and_leads_elsewhere() -> None:
    async with driving(replay(large_answer()), size=(160, 50)) as chat:
        await chat.ask()
        tree = chat.tree
        assert tree.side_width
        assert not any("┃" in row[tree.text_width :] for row in rows_shown(chat))
        await chat.pilot.press("tab", "asterisk")
        marked = [at for at, row in enumerate(rows_shown(chat)) if row[tree.text_width] == "┃"]
        assert marked[0] == 0
        assert len(marked) < tree.size.height
        drawn = tree._map_here
        assert drawn is not None
        line = tree.size.height - 2
        await chat.pilot.click(tree, offset=(tree.text_width + 2, line + 1))
        await chat.until(lambda: any("▸" in row for row in rows_shown(chat)))
        assert abs(drawn.line_of(tree.node) - line) <= 1
        assert rows_shown(chat)[drawn.line_of(tree.node)][tree.text_width] == "┃"


async def test_a_tree_that_fits_has_neither_folds_nor_a_minimap() -> None:
    async with driving(replay(make_answer()), size=(160, 50)) as chat:
        await chat.ask()
        assert not chat.tree.side_width
        assert "not reached" not in "".join(rows_shown(chat))


async def test_steps_of_a_large_tree_need_no_layout() -> None:
    async with driving(replay(large_answer()), size=(160, 50)) as chat:
        await chat.ask()
        await chat.walk("left")
        sizes = set()
        for _ in range(3):
            await chat.walk("left")
            sizes.add((chat.tree.virtual_size, chat.tree.text_width))
        assert len(sizes) == 1


async def test_the_selected_fold_stays_one_when_the_step_changes() -> None:
    async with driving(replay(large_answer()), size=(160, 50)) as chat:
        await chat.ask()
        chat.tree.point(fold_index(chat.tree._outline.step.path[-1]))  # type: ignore[union-attr]
        for _ in range(4):
            await chat.walk("left")
            assert chat.tree.node in {row.node for row in chat.tree._rows}


# The strip


def strip_rows(chat: Driver) -> list[str]:
    region = chat.app.chat.query_one(TreeStrip).region
    return chat.screen_text().splitlines()[region.y : region.bottom]


@pytest.mark.parametrize(("size", "rows"), [((80, 24), 7), ((60, 20), 4), ((98, 40), 8)])
async def test_a_narrow_screen_has_the_path_below_the_chat(
    size: tuple[int, int], rows: int
) -> None:
    async with driving(replay(large_answer()), size=size) as chat:
        assert not strip_rows(chat)
        await chat.ask()
        await chat.walk("home")
        step = chat.tree.step
        assert step is not None
        for _ in range(4):
            await chat.walk("right_square_bracket")
            assert len(strip_rows(chat)) == rows
        shown = "\n".join(strip_rows(chat))
        assert "➜" in shown
        assert all(len(row) <= size[0] for row in strip_rows(chat))


@given(width=st.integers(50, 100), index=st.integers(0, 4))
def test_the_guesses_beside_a_token_are_listed_or_counted(width: int, index: int) -> None:
    steps = [event for event in large_answer() if isinstance(event, Step)]
    step = steps[index % len(steps)]
    sizes, path = subtree_sizes(step), width * 2 // 5
    rows = path_rows(step, path, width, 8)
    for row, node in zip(rows[1:], [*step.path[1:], BONUS_NODE], strict=True):
        parent = step.path[-1] if node == BONUS_NODE else step.nodes[node].parent
        others = sum(sizes[each] for each in step.children[parent] if each != node)
        beside = row.plain[path + FIGURES_CELLS :].strip()
        rest = re.search(r"\+(\d+)$", beside)
        assert len(re.findall(r'[✘·] "', beside)) + int(rest[1] if rest else 0) == others


async def test_the_strip_says_which_tokens_were_looked_up() -> None:
    answer = [
        replace(event, nodes=tuple(_looked_up(node) for node in event.nodes))
        if isinstance(event, Step)
        else event
        for event in large_answer()
    ]
    async with driving(replay(answer), size=(80, 24)) as chat:
        await chat.ask()
        await chat.walk("home")
        step = chat.tree.step
        assert step is not None
        assert "\n".join(strip_rows(chat)).count("lookup") == step.accepted > 0


def _looked_up(node: TreeNode) -> TreeNode:
    return replace(node, origin=Origin.LOOKUP, draft_prob=None) if node.parent >= 0 else node


async def test_a_click_on_the_strip_shows_the_whole_tree() -> None:
    async with driving(replay(large_answer()), size=(80, 24)) as chat:
        await chat.ask()
        await chat.pilot.click(TreeStrip)
        assert chat.app.chat.covers_chat


async def test_no_strip_where_nothing_is_drafted_or_sentences_are_wanted() -> None:
    plain = replace(TREE_16, growmap="", nodes=1, depth=0)
    async with driving(replay(make_answer("One.", plain, (-1,))), size=(80, 24)) as chat:
        await chat.ask()
        assert not strip_rows(chat)
    async with driving(replay(), Settings(accessible=True), size=(80, 24)) as chat:
        await chat.ask()
        assert not strip_rows(chat)
