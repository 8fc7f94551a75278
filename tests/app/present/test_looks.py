"""Edited themes are taken over, terminals of few colours stay readable, frames can be left out."""

import re
from pathlib import Path

import pytest
from rich.segment import Segment
from rich.style import Style
from textual.color import Color

from app.config.settings import Settings
from app.config.themes import TERMINAL_THEME
from app.present.accessible import PlainFrames, row_in_words
from app.present.tree_rows import NodeVerdict, TreeRow
from app.ui.base_app import BaseApp
from tests.app.color_vision import contrast
from tests.app.driving import Driver, driving
from tests.fakes import replay

OWN = 'name = "mine"\n[colors]\nprimary = "{primary}"\nbackground = "#000000"\n'
FRAMES = re.compile("[\u2500-\u259f]")


@pytest.fixture
def theme_file(config_home: Path) -> Path:
    folder = config_home / "themes"
    folder.mkdir()
    path = folder / "mine.toml"
    path.write_text(OWN.format(primary="#ff0000"))
    return path


def notices(driver: Driver) -> str:
    return "\n".join(each.message for each in driver.app._notifications)


async def look_again(driver: Driver) -> None:
    driver.app.reload_themes()
    await driver.pilot.pause()


async def test_a_theme_is_taken_over_while_it_is_edited(theme_file: Path) -> None:
    async with driving(settings=Settings(theme="mine")) as driver:
        assert driver.app.current_theme.primary == "#ff0000"
        theme_file.write_text(OWN.format(primary="#00ff00"))
        await look_again(driver)
        await driver.until(lambda: driver.app.current_theme.primary == "#00ff00")
        await driver.until(lambda: driver.prompt.styles.border_title_color.g > 250)


async def test_a_broken_file_is_told_and_the_theme_stays(theme_file: Path) -> None:
    async with driving(settings=Settings(theme="mine")) as driver:
        theme_file.write_text("name = ")
        await look_again(driver)
        await driver.until(lambda: "the one before stays" in notices(driver))
        assert driver.app.theme == "mine"
        assert driver.app.current_theme.primary == "#ff0000"
        theme_file.write_text(OWN.format(primary="#0000ff"))
        await look_again(driver)
        await driver.until(lambda: driver.app.current_theme.primary == "#0000ff")


async def test_a_theme_that_is_new_can_be_used(theme_file: Path) -> None:
    async with driving() as driver:
        (theme_file.parent / "other.toml").write_text('name = "other"\n[colors]\nprimary = "red"\n')
        await look_again(driver)
        await driver.type("/set theme other", "enter")
        await driver.until(lambda: driver.app.theme == "other")


async def test_the_folders_are_looked_at_again_and_again(
    theme_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.ui.base_app.WATCH_SECONDS", 0.01)
    async with driving(settings=Settings(theme="mine")) as driver:
        theme_file.write_text(OWN.format(primary="#00ff00"))
        await driver.until(lambda: driver.app.current_theme.primary == "#00ff00")


# Few colours, and none


@pytest.mark.parametrize("term", ["screen", "xterm-16color"])
async def test_a_terminal_of_sixteen_colours_gets_its_own(
    monkeypatch: pytest.MonkeyPatch, term: str
) -> None:
    monkeypatch.delenv("COLORTERM")
    monkeypatch.setenv("TERM", term)
    async with driving() as driver:
        assert driver.app.theme == TERMINAL_THEME
        await driver.ask()
        await driver.pilot.press("f6", "left")
        for style in styles(driver):
            for color in (style.color, style.bgcolor):
                assert color is None or color.triplet is None, style


async def test_a_theme_of_ones_own_choice_is_used_there_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("COLORTERM")
    monkeypatch.setenv("TERM", "screen")
    async with driving(settings=Settings(theme="redwood")) as driver:
        assert driver.app.theme == "redwood"


@pytest.mark.parametrize("theme", ["sequoia", "sequoia-light", "terminal"])
async def test_without_colour_there_is_none_and_verdicts_differ(
    monkeypatch: pytest.MonkeyPatch, theme: str
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with driving(settings=Settings(theme=theme)) as driver:
        await driver.ask()
        for key in ("f6", "f5"):
            await driver.pilot.press(key)
            for style in styles(driver):
                assert all(c is None or c.is_default for c in (style.color, style.bgcolor))
        chosen = [each.style for each in segments(driver) if "theme  " in each.text]
        assert [style is not None and style.underline for style in chosen] == [True]


@pytest.mark.parametrize("no_color", [False, True])
@pytest.mark.parametrize("theme", ["sequoia", "sequoia-light", "terminal"])
async def test_the_cursor_is_seen_where_the_colours_are_not_the_apps_own(
    monkeypatch: pytest.MonkeyPatch, theme: str, no_color: bool
) -> None:
    if no_color:
        monkeypatch.setenv("NO_COLOR", "1")
    async with driving(settings=Settings(theme=theme)) as driver:
        await driver.pilot.press(*"abc")
        strips = driver.app.screen._compositor.render_strips()
        row = list(next(strip for strip in strips if " abc" in strip.text))
        cursor = row[1 + next(at for at, each in enumerate(row) if "abc" in each.text)].style
        assert cursor is not None
        default = all(c is None or c.is_default for c in (cursor.color, cursor.bgcolor))
        assert default == (theme == "terminal" or no_color)
        assert bool(cursor.reverse) == default


@pytest.mark.parametrize("theme", ["sequoia", "graphite", "high-contrast", "sequoia-light"])
async def test_selected_text_can_be_read(theme: str) -> None:
    async with driving(settings=Settings(theme=theme)) as driver:
        await driver.ask()
        await driver.pilot.mouse_down("#transcript", offset=(3, 2))
        await driver.pilot.hover("#transcript", offset=(30, 12))
        await driver.pilot.mouse_up("#transcript", offset=(30, 12))
        selected = driver.app.screen.get_component_rich_style("screen--selection").bgcolor
        found = [
            each.style
            for each in segments(driver)
            if each.style is not None and each.style.bgcolor == selected and each.text.strip()
        ]
        assert len(found) > 5
        assert selected is not None
        for style in found:
            assert style.color is not None
            ink, ground = Color.from_rich_color(style.color), Color.from_rich_color(selected)
            assert contrast(ink, ground) >= 3.4
        plain = Color.parse(driver.app.current_theme.foreground or "")
        assert contrast(plain, Color.from_rich_color(selected)) >= 6.0


def segments(driver: Driver) -> list[Segment]:
    """What the terminal shows."""
    return [each for strip in driver.app.screen._compositor.render_strips() for each in strip]


def styles(driver: Driver) -> list[Style]:
    return [each.style for each in segments(driver) if each.style is not None]


def colors(driver: Driver, text: str) -> list[Color]:
    """The colours of a text where it is shown."""
    shown = [each.style for each in segments(driver) if text in each.text]
    return [Color.from_rich_color(style.color) for style in shown if style is not None]


# Accessible mode


async def test_no_frame_is_drawn_anywhere() -> None:
    async with driving(settings=Settings(accessible=True)) as driver:
        await driver.ask()
        for keys in (["f4"], ["f4"], ["f6"], ["f1"], ["escape", "f5"]):
            await driver.pilot.press(*keys)
            assert not FRAMES.search(driver.screen_text()), keys


async def test_the_tree_is_told_in_words_line_by_line() -> None:
    async with driving(settings=Settings(accessible=True)) as driver:
        await driver.ask()
        # the chat alone: nothing beside it
        assert "the draft wrote" in driver.screen_text()
        await driver.pilot.press("left")
        assert "accepted and 1 of the target's own" in driver.screen_text()
        await driver.pilot.press("end", "f4")
        await driver.until(lambda: "root " in driver.screen_text())
        text = driver.screen_text()
        assert re.search(r"depth 1, accepted: \".*\", draft 0\.\d\d, target 0\.\d\d", text)
        assert re.search(r"depth \d, not reached: ", text)
        assert re.search(r"depth \d, target's own: ", text)
        assert "accepted guesses: 0 in " in text
        await driver.pilot.press("left")
        await driver.until(lambda: "accepted by depth: 1: 8" in driver.screen_text())
        assert re.search(r"depth \d, rejected: ", driver.screen_text())


async def test_nothing_moves_while_it_decodes_but_the_text() -> None:
    async with driving(replay(), Settings(accessible=True)) as driver:
        await driver.pilot.press("f4")
        await driver.type("Why is the sky blue?", "enter")
        seen = set()
        while driver.session.busy:
            seen.add(driver.tree.step)
            await driver.pilot.pause(0.01)
        assert len(seen) <= 1
        await driver.finish()
        await driver.until(lambda: driver.tree.step is not None)


async def test_a_person_may_turn_it_on_and_off() -> None:
    async with driving(size=(130, 44)) as driver:
        await driver.ask()
        assert FRAMES.search(driver.screen_text())
        await driver.type("/set accessible on", "enter")
        await driver.until(lambda: not FRAMES.search(driver.screen_text()))
        assert driver.app.chat.has_class("-narrow")
        await driver.type("/set accessible off", "enter")
        await driver.until(lambda: driver.app.chat.has_class("-wide"))
        await driver.until(lambda: FRAMES.search(driver.screen_text()) is not None)


async def test_a_paused_step_is_drawn_in_accessible_mode_too() -> None:
    async with driving(settings=Settings(accessible=True)) as driver:
        await driver.pause_at(2)
        await driver.pilot.press("f4")
        await driver.until(lambda: "Step 2" in driver.screen_text())
        await driver.pilot.press("f2")
        await driver.finish()


def test_drawn_lines_are_written_as_ascii_and_nothing_else_is_touched() -> None:
    style = Style(bold=True)
    (drawn,) = PlainFrames().apply([Segment("╭─┬─╮│┃ é ✔ █▁ 日 ▸▾▼", style)], Color(0, 0, 0))
    assert drawn.text == "+-+-+|| é ✔ ## 日 >vv"
    assert drawn.style == style


@pytest.mark.parametrize("verdict", list(NodeVerdict))
def test_each_verdict_is_a_word(verdict: NodeVerdict) -> None:
    told = row_in_words(TreeRow((), verdict, '"a"', 0.5, 0.25, depth=3))
    assert verdict.words in told
    assert '"a"' in told


def test_what_was_looked_up_is_said() -> None:
    told = row_in_words(TreeRow((), NodeVerdict.ACCEPTED, '"a"', None, 0.25, 1, looked_up=True))
    assert told == 'depth 1, accepted: "a", looked up, target 0.25'


def test_both_apps_are_of_one_kind() -> None:
    from app.app import SequoiaApp
    from app.screens.replay import ReplayApp

    assert issubclass(SequoiaApp, BaseApp)
    assert issubclass(ReplayApp, BaseApp)


async def test_another_theme_colours_the_whole_transcript_at_once() -> None:
    async with driving() as driver:
        await driver.ask()
        await driver.type("/set theme redwood", "enter")
        await driver.until(lambda: driver.app.theme == "redwood")
        notice = driver.app.theme_variables["notice"]
        await driver.until(lambda: Color.parse(notice) in colors(driver, "160 tokens"))
        await driver.type("/set theme midnight", "enter")
        user = str(driver.app.available_themes["midnight"].variables["user"])
        await driver.until(lambda: Color.parse(user) in colors(driver, "You"))
