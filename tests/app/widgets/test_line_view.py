"""Lines that were painted once look as if they were painted anew, and the mouse finds its place."""

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest
from rich.segment import Segment
from rich.style import Style
from textual.app import App, ComposeResult
from textual.geometry import Offset, Region
from textual.reactive import reactive
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip

from app.widgets.line_view import MOST_PAINTED, LineView
from app.widgets.tree_view import TreeView
from tests.app.driving import driving
from tests.fakes import ANSWER, make_answer, replay


class Words(LineView[str]):
    """Words, and how often each was painted."""

    word_style = reactive(Style())

    def __init__(self) -> None:
        super().__init__("words")
        self.words: Sequence[str] = ()
        self.painted = Counter[str]()

    def item_at(self, y: int) -> str | None:
        return self.words[y] if y < len(self.words) else None

    def segments(self, item: str, width: int) -> list[Segment]:
        self.painted[item] += 1
        return [Segment(item, self.word_style)]

    @property
    def look(self) -> Style:
        return self.word_style

    @property
    def blank(self) -> Style:
        return Style()

    def shown(self, *words: str) -> list[str]:
        self.words = words
        strips = self.render_lines(self.outer_size.region)
        return [strip.text.strip() for strip in strips if strip.text.strip()]


class WordsApp(App[None]):
    def compose(self) -> ComposeResult:
        yield Words()


@pytest.fixture
async def view() -> AsyncIterator[Words]:
    app = WordsApp()
    async with app.run_test(size=(20, 10)):
        yield app.query_one(Words)


async def test_a_line_that_only_moved_is_not_painted_again(view: Words) -> None:
    assert view.shown("one", "two", "three") == ["one", "two", "three"]
    assert view.shown("three", "one") == ["three", "one"]
    assert set(view.painted.values()) == {1}


async def test_another_look_paints_everything(view: Words) -> None:
    for style in (Style(), Style(bold=True), Style(bold=True)):
        view.word_style = style
        view.shown("one")
    assert view.painted["one"] == 2


async def test_only_so_many_painted_lines_are_kept(view: Words) -> None:
    for at in range(0, 2 * MOST_PAINTED, 10):
        view.shown(*(f"word {each}" for each in range(at, at + 10)))
        assert len(view._painted) <= MOST_PAINTED + 10
    assert view.painted.total() == 2 * MOST_PAINTED


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


def painted_by_textual(view: LineView[Any]) -> list[list[Cell]]:
    view._styles_cache.clear()
    view._painting = True
    try:
        return cells(ScrollView.render_lines(view, view.outer_size.region))
    finally:
        view._painting = False


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
            "note": lambda: screen.pages.note("said"),
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
            views: tuple[LineView[Any], ...] = (transcript, tree)
            for view in views:
                painted = cells(view.render_lines(view.outer_size.region))
                assert painted == painted_by_textual(view), name


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
