"""What stays in view: the walked step's text, the keys that matter; and a picture of it all."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from app.config.settings import Settings
from app.widgets.header import Header
from app.widgets.key_bar import KeyBar
from app.widgets.statistics_panel import StatisticsPanel, _spark_line
from app.widgets.transcript import Transcript
from sequoia_core.events import Event, Origin, Step, TreeChosen
from tests.app.driving import driving
from tests.fakes import TREE_16, make_answer, replay


async def test_the_text_of_the_walked_step_is_brought_into_view() -> None:
    text = " ".join(f"word{at}" for at in range(400))
    async with driving(replay(make_answer(text)), size=(80, 16)) as chat:
        await chat.ask()
        await chat.until(lambda: not chat.session.busy)
        transcript = chat.app.chat.query_one(Transcript)
        await chat.until(lambda: transcript.scroll_offset.y == transcript.max_scroll_y > 0)
        await chat.pilot.press("home")
        await chat.until(lambda: transcript.scroll_offset.y == 0)
        await chat.pilot.press("end")
        await chat.until(lambda: transcript.scroll_offset.y == transcript.max_scroll_y)


@pytest.mark.parametrize("size", [(160, 50), (100, 30), (120, 36), (100, 44)])
@pytest.mark.parametrize("repeats", [1, 2])
async def test_why_this_tree_is_read_whole(size: tuple[int, int], repeats: int) -> None:
    reason = "; ".join(["grown by the draft's own probabilities, at most so large"] * repeats)
    events = [
        replace(event, reason=reason) if isinstance(event, TreeChosen) else event
        for event in make_answer()
    ]
    async with driving(replay(events), size=size) as chat:
        await chat.ask()
        await chat.pilot.press("left")
        panel = chat.app.chat.query_one(StatisticsPanel)

        def shown() -> str:
            rows = [row[panel.region.x :] for row in chat.screen_text().splitlines()]
            rows = rows[panel.region.y : panel.region.bottom]
            return " ".join(
                " ".join(rows).translate(dict.fromkeys(map(ord, "│╭╮╰╯─"), " ")).split()
            )

        await chat.until(lambda: reason in shown().removeprefix("tree "))


@pytest.mark.parametrize(
    ("value", "shown"), [(0.0671, "0.07"), (1.14, "1.14"), (3, "3"), (0.5, "0.5"), (12345, "12345")]
)
def test_the_last_figure_of_a_sparkline_keeps_to_its_column(value: float, shown: str) -> None:
    line = _spark_line("speed-up", (1.0, value), "$speedup", 40)
    assert line.plain.endswith(f" {shown}")
    assert line.cell_length == 40


async def test_a_picture_is_saved_where_one_works_and_its_place_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with driving() as chat:
        chat.app.action_picture()
        (picture,) = tmp_path.glob("sequoia-*.svg")
        assert "<svg" in picture.read_text()


@pytest.mark.parametrize("width", [30, 60, 160])
async def test_help_and_quit_are_the_last_keys_to_go(width: int) -> None:
    async with driving(size=(width, 20)) as chat:
        keys = chat.app.chat.query_one(KeyBar).render().plain
        assert "f1 help" in keys
        assert "^q quit" in keys


def looked_up(event: Event) -> Event:
    """A step whose last node was found in the conversation."""
    if not isinstance(event, Step):
        return event
    last = replace(event.nodes[-1], draft_prob=None, origin=Origin.LOOKUP)
    return replace(event, nodes=(*event.nodes[:-1], last))


async def test_a_node_that_was_looked_up_says_so_instead_of_a_draft_probability() -> None:
    async with driving(replay(map(looked_up, make_answer())), size=(160, 50)) as chat:
        await chat.pause_at(3)
        step = chat.tree.step
        assert step is not None
        shown = f"lookup   {step.nodes[-1].target_prob:.2f}"
        assert chat.screen_text().count(shown) == 1


@pytest.mark.parametrize(
    ("tree", "asked", "text"),
    [
        (TREE_16, "auto", "tree auto, 16 nodes, depth 4"),
        (replace(TREE_16, lookup="on"), "auto", "tree auto, 16 nodes, depth 4 + lookup"),
        (
            replace(TREE_16, growmap="adaptive", nodes=64),
            "adaptive",
            "tree adaptive, up to 64 nodes, depth 4",
        ),
        (replace(TREE_16, lookup="auto"), "auto", "tree auto, 16 nodes, depth 4 + lookup"),
        (TREE_16, "adaptive", f"tree {TREE_16.growmap}, 16 nodes, depth 4"),
        (TreeChosen("ar", "", 1, 0), "auto", "plain decoding"),
        (TreeChosen("sequoia", "", 1, 0, lookup="auto"), "auto", "tree lookup only"),
    ],
)
def test_the_header_says_what_kind_of_tree_it_is(tree: TreeChosen, asked: str, text: str) -> None:
    header = Header()
    header.settings, header.chosen_tree = Settings(growmap=asked), tree
    assert header._tree_forms()[0] == text
