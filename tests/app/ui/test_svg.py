"""A stored picture holds all that is seen, and a difference is described; see `pictures`."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.segment import Segment
from rich.style import Style

from app.app import Settings
from tests.app.driving import Driver, driving
from tests.app.insights import explained_answer
from tests.app.pictures import Picture, View, differences, drawn, picture, read, view, written
from tests.app.picturing import views
from tests.app.screens.test_snapshots_race import GREEDY, end
from tests.fakes import ANSWER, RacingEngine, replay

LOOKS = ("on #000000", "#ff0000 on #000000", "bold underline #00ff00 on #102030", "reverse")
WIDTH = 12


@st.composite
def pictures(draw: st.DrawFn) -> Picture:
    rows = []
    for text in draw(st.lists(st.text("ab ─天▌.|:", max_size=WIDTH), min_size=1, max_size=4)):
        while cell_len(text) > WIDTH:
            text = text[:-1]
        rows.append(text.rstrip())
    look = st.tuples(st.sampled_from(LOOKS), st.sampled_from(LOOKS))
    row = st.lists(look, min_size=WIDTH, max_size=WIDTH).map(tuple)
    looks = draw(st.lists(row, min_size=len(rows), max_size=len(rows)))
    return Picture(("dark", "light"), tuple(rows), tuple(looks))


@given(pictures())
def test_what_is_stored_is_the_picture(shown: Picture) -> None:
    assert read(written(shown)) == shown
    assert not list(differences(shown, shown))


@given(pictures(), st.data())
def test_one_cell_in_one_theme_is_a_difference_that_names_them(
    shown: Picture, data: st.DataObject
) -> None:
    y = data.draw(st.integers(0, len(shown.rows) - 1))
    x = data.draw(st.integers(0, WIDTH - 1))
    dark, light = shown.looks[y][x]
    other = data.draw(st.sampled_from([look for look in LOOKS if look != light]))
    row = (*shown.looks[y][:x], (dark, other), *shown.looks[y][x + 1 :])
    after = replace(shown, looks=(*shown.looks[:y], row, *shown.looks[y + 1 :]))
    assert written(after) != written(shown)
    first, place = differences(shown, after)
    assert first == f"light: {light} is now {other}"
    assert place.startswith(f"light:   row {y + 1}, cells {x + 1} to {x + 1}: ")


def test_a_row_that_reads_otherwise_is_told_as_it_was_and_is() -> None:
    before = Picture(("dark",), ("one", "two"), ((("a",),) * 5,) * 2)
    after = replace(before, rows=("one", "tow"))
    assert list(differences(before, after)) == ["row 2", "  - two", "  + tow"]


def test_another_size_or_theme_is_told() -> None:
    before = Picture(("dark",), ("one",), ((("a",),) * 5,))
    wider = Picture(("dark",), ("one",), ((("a",),) * 6,))
    assert list(differences(before, wider)) == ["another size"]
    light = replace(before, themes=("light",))
    assert list(differences(before, light)) == ["dark: no longer pictured", "light: new"]


def looks(text: str, style: str) -> tuple[str, ...]:
    (row,) = view([[Segment(text, Style.parse(style))]]).looks
    return row


def test_the_colour_of_a_blank_counts_where_something_is_drawn_in_it() -> None:
    assert looks("a b", "red on blue") == ("red on blue", "on blue", "red on blue")
    assert looks(" ", "underline red on blue") == ("underline red on blue",)
    assert looks(" ", "reverse red on blue") == ("reverse red on blue",)
    assert looks("天", "red") == ("red on default",) * 2


def test_a_theme_may_not_change_what_is_written() -> None:
    plain = View(("one",), (("a",) * 3,))
    with pytest.raises(AssertionError, match=r"light changes the text:\nrow 1\n  - one\n  \+ two"):
        picture({"dark": plain, "light": replace(plain, rows=("two",))})


def test_more_looks_than_letters_are_refused() -> None:
    many = tuple((f"color({at})",) for at in range(200))
    with pytest.raises(AssertionError, match="200 looks"):
        written(Picture(("dark",), ("",), (many,)))


def test_a_picture_is_drawn_in_its_colours() -> None:
    shown = Picture(
        ("dark", "light"),
        ("天 ok",),
        ((("#ff0000 on #000000", "#112233 on #ffffff"),) * 6,),
    )
    assert "#ff0000" in drawn(shown, "dark")
    assert "#112233" in drawn(shown, "light")
    assert "#ff0000" not in drawn(shown, "light")
    assert "天&#160;ok" in drawn(shown, "dark")


Show = Callable[[str], AbstractAsyncContextManager[Driver]]


@asynccontextmanager
async def answered(theme: str) -> AsyncIterator[Driver]:
    async with driving(replay(explained_answer()), Settings(theme=theme), size=(160, 50)) as chat:
        await chat.ask()
        await chat.pilot.press("f6", "left")
        yield chat


@asynccontextmanager
async def raced(theme: str) -> AsyncIterator[Driver]:
    other = RacingEngine(ANSWER.replace("Sunlight", "Daylight"), exact=False)
    async with driving(other, replace(GREEDY, theme=theme)) as chat:
        await end(chat)
        yield chat


@asynccontextmanager
async def offered(theme: str) -> AsyncIterator[Driver]:
    async with driving(settings=Settings(theme=theme)) as chat:
        await chat.pilot.press("ctrl+p")
        await chat.until(lambda: "Edit a message" in chat.screen_text())
        yield chat


@pytest.mark.parametrize("show", [answered, raced, offered])
async def test_a_theme_that_comes_later_looks_as_one_from_the_beginning(show: Show) -> None:
    """So that one running app is enough for all themes."""
    async with show("sequoia-light") as chat:
        first = await views(chat.pilot, ["sequoia-light"])
    async with show("sequoia") as chat:
        later = await views(chat.pilot, ["sequoia", "sequoia-light"])
    assert later["sequoia-light"] == first["sequoia-light"]
    assert later["sequoia"] != first["sequoia-light"]
