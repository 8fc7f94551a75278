"""Lines that were painted once look as if they were painted anew, and the mouse finds its place."""

import random

import pytest
from rich.segment import Segment
from textual.geometry import Offset, Region
from textual.selection import Selection
from textual.strip import Strip

from app.widgets.painted import Painted
from tests.app.driving import Driver, driving
from tests.fakes import ANSWER, make_answer, replay


class Brush:
    """Paints lines and counts them."""

    def __init__(self) -> None:
        self.painted: list[int] = []

    def __call__(self, first: int, count: int) -> list[Strip]:
        lines = range(first, first + count)
        self.painted += lines
        return [Strip([Segment(str(line))]) for line in lines]


def rows(*texts: str) -> list[list[Segment]]:
    return [[Segment(text)] for text in texts]


def test_a_line_that_only_moved_is_not_painted() -> None:
    painted, brush = Painted(), Brush()
    a, b, c, d = rows("a", "b", "c", "d")
    painted.lines("look", [(1, a), (2, b), (3, c)], brush)
    moved = painted.lines("look", [(1, b), (2, d), (3, c), (4, a)], brush)
    assert brush.painted == [1, 2, 3, 2]
    assert [strip.text for strip in moved] == ["2", "2", "3", "1"]


def test_another_look_paints_everything() -> None:
    painted, brush = Painted(), Brush()
    (row,) = rows("a")
    for look in ("dark", "dark", "light"):
        painted.lines(look, [(0, row)], brush)
    assert brush.painted == [0, 0]


def test_what_is_kept_has_a_limit() -> None:
    painted, brush = Painted(limit=10), Brush()
    for row in rows(*"abcdefghijklmnopqrstuvwxyz"):
        painted.lines("look", [(0, row)], brush)
        assert len(painted) <= 11
    assert len(brush.painted) == 26


def lines(chat: Driver, *, anew: bool) -> list[Strip]:
    """What the transcript paints, from what it kept or not."""
    transcript = chat.app.chat.transcript
    if anew:
        transcript._painted = Painted()
        transcript._styles_cache.clear()
    return transcript.render_lines(transcript.outer_size.region)


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_happens_the_lines_are_those_painted_anew(seed: int) -> None:
    chance = random.Random(seed)
    async with driving(replay(make_answer(ANSWER * 3)), size=(120, 30)) as chat:
        await chat.ask()
        screen, transcript = chat.app.chat, chat.app.chat.transcript
        doings = {
            "scroll": lambda: transcript.scroll_to(y=chance.randrange(60), animate=False),
            "focus": lambda: (screen.prompt, transcript)[chance.randrange(2)].focus(),
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
                await chat.pilot.resize_terminal(chance.choice((60, 90, 120)), 30)
            await chat.pilot.pause()
            kept = lines(chat, anew=False)
            assert [list(strip) for strip in kept] == [
                list(strip) for strip in lines(chat, anew=True)
            ], name


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
