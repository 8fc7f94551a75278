"""Lines that were painted once look as if they were painted anew, and the mouse finds its place."""

import random

import pytest
from rich.segment import Segment
from rich.style import Style
from textual.geometry import Offset, Region
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from app.widgets.framed import FramedView
from app.widgets.line_view import LineView
from app.widgets.painted import Painted
from app.widgets.rows import Row
from app.widgets.tree_view import TreeView
from tests.app.driving import driving
from tests.fakes import ANSWER, make_answer, replay


class Painter:
    """Paints rows and counts them."""

    def __init__(self) -> None:
        self.painted: list[str] = []

    def __call__(self, row: Row) -> Strip:
        assert row is not None
        self.painted += [segment.text for segment in row]
        return Strip(row)


def rows(texts: str) -> list[list[Segment]]:
    return [[Segment(text)] for text in texts]


def test_a_line_that_only_moved_is_not_painted() -> None:
    painted, painter = Painted[Row](), Painter()
    a, b, c, d = rows("abcd")
    painted.use("look")
    lines = [painted.line(row, painter).text for row in (a, b, c, b, d, c, a)]
    assert painter.painted == ["a", "b", "c", "d"]
    assert lines == ["a", "b", "c", "b", "d", "c", "a"]


def test_another_look_paints_everything() -> None:
    painted, painter = Painted[Row](), Painter()
    (row,) = rows("a")
    for look in ("dark", "dark", "light"):
        painted.use(look)
        painted.line(row, painter)
    assert painter.painted == ["a", "a"]


def test_what_is_kept_has_a_limit() -> None:
    painted, painter = Painted[Row](limit=10), Painter()
    for row in rows("abcdefghijklmnopqrstuvwxyz"):
        painted.use("look")
        painted.line(row, painter)
        assert len(painted) <= 11
    assert len(painter.painted) == 26


Cell = tuple[str, object]


def cells(strips: list[Strip]) -> list[list[Cell]]:
    """Characters with their looks, however they are cut into segments."""
    return [
        [(c, seen(s.style) if c == " " else s.style) for s in strip for c in s.text]
        for strip in strips
    ]


def seen(style: Style | None) -> object:
    """What a blank shows of its style."""
    return style and (style.bgcolor, style.color if style.underline or style.reverse else None)


def textuals(view: FramedView) -> list[list[Cell]]:
    """The lines of a view as Textual would paint them."""
    view._styles_cache.clear()
    if isinstance(view, LineView):
        view._painting = True
    try:
        return cells(ScrollView.render_lines(view, view.outer_size.region))
    finally:
        if isinstance(view, LineView):
            view._painting = False


def ours(view: FramedView) -> list[list[Cell]]:
    """The lines that are painted."""
    return cells(view.render_lines(view.outer_size.region))


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_the_lines_are_those_that_textual_would_paint(seed: int) -> None:
    chance = random.Random(seed)
    async with driving(replay(make_answer(ANSWER * 3)), size=(120, 30)) as chat:
        await chat.ask()
        screen, transcript = chat.app.chat, chat.app.chat.transcript
        tree = screen.query_one(TreeView)
        doings = {
            "scroll": lambda: transcript.scroll_to(y=chance.randrange(60), animate=False),
            "focus": lambda: (screen.prompt, transcript, tree)[chance.randrange(3)].focus(),
            "walk": lambda: screen.action_walk("back"),
            "theme": lambda: setattr(
                chat.app, "theme", chance.choice(("sequoia", "sequoia-light", "high-contrast"))
            ),
            "tint": screen.action_tint,
            "note": lambda: screen.note("said"),
            "select": lambda: setattr(
                screen, "selections", {transcript: Selection(Offset(2, 3), Offset(9, 8))}
            ),
            "select nothing": screen.clear_selection,
        }  # fmt: skip
        for name in chance.choices(list(doings), k=14):
            doings[name]()
            if chance.random() < 0.3:
                await chat.pilot.resize_terminal(
                    chance.choice((60, 90, 120)), chance.choice((2, 5, 30))
                )
            await chat.pilot.pause()
            for view in (transcript, tree):
                assert ours(view) == textuals(view), name


async def test_no_line_has_a_style_of_its_own_but_the_mouse_finds_its_place() -> None:
    async with driving(replay(make_answer(ANSWER * 3)), size=(120, 30)) as chat:
        await chat.ask()
        transcript = chat.app.chat.transcript
        part = Region(2, 3, 40, 10)
        styles = {s.style for strip in transcript.render_lines(part) for s in strip}
        assert not any(style.meta for style in styles if style is not None)
        region = transcript.content_region
        widget, place = chat.app.screen.get_widget_and_offset_at(region.x + 4, region.y + 6)
        assert widget is transcript
        assert place == Offset(4, 6 + transcript.scroll_offset.y)
