"""Every packaged theme is whole and readable; a broken file is named and skipped."""

import json
import os
import tomllib
from itertools import combinations
from pathlib import Path

import pytest
from pygments.token import STANDARD_TYPES
from textual.color import Color

from app.config.themes import (
    APP_COLORS,
    DEFAULT_THEME,
    TERMINAL_THEME,
    ThemeError,
    ThemeFolders,
    app_color_defaults,
    least_contrast,
    load_theme,
    packaged_folder,
)
from app.widgets.transcript_styles import CODE_STYLES, ReadableCode, readable
from tests.app.color_vision import (
    DEUTERANOPIA,
    PLAIN,
    PROTANOPIA,
    Matrix,
    contrast,
    difference,
)

PACKAGED = sorted(packaged_folder().glob("*.toml"))
MIXED = [path for path in PACKAGED if path.stem != TERMINAL_THEME]
"""All but the one whose colours are the terminal's own."""
WRITTEN = ("foreground", "primary", "secondary", "accent", "warning", "error", "success")
COLOR_BLIND_SAFE = ("okabe-ito", "tol-light")
VERDICTS = ("accepted", "rejected", "unreached", "bonus")
TINTS = ("rank-1", "rank-2", "rank-3", "bonus")
TIMES = ("draft", "verify", "bookkeeping")


def test_packaged_themes_load_and_the_default_is_among_them() -> None:
    found = ThemeFolders([packaged_folder()]).changes()
    assert found.problems == []
    assert len(found.themes) == len(PACKAGED) >= 5
    assert DEFAULT_THEME in {theme.name for theme in found.themes}


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_a_packaged_theme_names_every_colour_of_the_app(path: Path) -> None:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    assert set(table["variables"]) >= set(APP_COLORS)
    assert table.get("ansi") or set(table["variables"]) == set(APP_COLORS)
    assert table["name"] == path.stem


@pytest.mark.parametrize("path", MIXED, ids=lambda path: path.stem)
def test_what_is_written_can_be_read_on_its_background(path: Path) -> None:
    theme = load_theme(path)
    least = 7.0 if "contrast" in theme.name else 4.5
    colors = {name: Color.parse(theme.variables[name]) for name in APP_COLORS}
    colors |= {name: Color.parse(getattr(theme, name) or "") for name in WRITTEN}
    for ground in ("background", "surface", "panel"):
        behind = Color.parse(getattr(theme, ground))
        for name, color in colors.items():
            assert contrast(color, behind) >= least, (name, ground)


@pytest.mark.parametrize("path", MIXED, ids=lambda path: path.stem)
def test_what_lies_on_its_own_shade_can_be_read(path: Path) -> None:
    theme = load_theme(path)
    background = Color.parse(theme.background or "")
    for name in ("accepted", "bonus"):
        color = Color.parse(theme.variables[name])
        for share in (0.12, 0.25):  # of the tree's rows, and of the text of a step
            assert contrast(color, background.blend(color, share)) >= 4.5, (name, share)


@pytest.mark.parametrize("path", MIXED, ids=lambda path: path.stem)
def test_all_of_a_code_block_can_be_read(path: Path) -> None:
    theme = load_theme(path)
    ground, ink = Color.parse(theme.surface or ""), Color.parse(theme.foreground or "")
    least = 7.0 if "contrast" in theme.name else 4.5
    code = ReadableCode(CODE_STYLES[theme.dark], ground, ink, least_contrast(theme))
    colors = {code.get_style_for_token(kind).color for kind in STANDARD_TYPES}
    assert len(colors) >= 6
    for color in colors:
        assert color is not None
        assert color.triplet is not None
        assert contrast(Color(*color.triplet), ground) >= least - 0.01, color


def test_a_colour_that_can_be_read_stays_what_it_is() -> None:
    black, white, grey = (Color.parse(name) for name in ("#000000", "#ffffff", "#555555"))
    assert readable(grey, black, white, 2.0) == grey
    assert contrast(readable(grey, black, white, 7.0), black) >= 7.0
    assert readable(grey, black, Color.parse("#666666"), 7.0) == Color.parse("#666666")


@pytest.mark.parametrize("path", MIXED, ids=lambda path: path.stem)
def test_a_highlighted_row_and_its_remark_can_be_read(path: Path) -> None:
    theme = load_theme(path)
    row = Color.parse(theme.surface or "").blend(Color.parse(theme.primary), 0.15)
    for color in (theme.foreground or "", theme.variables["notice"], theme.variables["bonus"]):
        assert contrast(Color.parse(color), row) >= 4.5, color


@pytest.mark.parametrize("vision", [PLAIN, PROTANOPIA, DEUTERANOPIA])
@pytest.mark.parametrize("path", MIXED, ids=lambda path: path.stem)
def test_verdicts_tints_and_times_are_told_apart(path: Path, vision: Matrix) -> None:
    theme = load_theme(path)
    least = 15.0 if theme.name in COLOR_BLIND_SAFE else 10.0
    for together in (VERDICTS, TINTS, TIMES):
        for first, second in combinations(together, 2):
            apart = difference(
                Color.parse(theme.variables[first]), Color.parse(theme.variables[second]), vision
            )
            assert apart >= least, (first, second, apart)


def test_a_simulated_dichromat_cannot_tell_what_others_can() -> None:
    """The simulation itself: red and green of one lightness are far apart for most, not for all."""
    red, green = Color.parse("#c06000"), Color.parse("#708000")
    assert difference(red, green, PLAIN) > 3 * difference(red, green, DEUTERANOPIA)
    blue, yellow = Color.parse("#3060ff"), Color.parse("#c0b000")
    assert difference(blue, yellow, DEUTERANOPIA) > 60
    assert contrast(Color.parse("#000000"), Color.parse("#ffffff")) == pytest.approx(21)


def test_there_is_a_theme_for_everybody() -> None:
    themes = [load_theme(path) for path in PACKAGED]
    assert len(themes) >= 8
    assert {theme.dark for theme in themes if "contrast" in theme.name} == {True, False}
    safe = [theme for theme in themes if theme.name in COLOR_BLIND_SAFE]
    assert {theme.dark for theme in safe} == {True, False}
    assert [theme.name for theme in themes if theme.ansi] == [TERMINAL_THEME]


def test_the_terminals_own_theme_mixes_nothing() -> None:
    """A colour that is not one of the sixteen would be guessed at by the terminal."""
    theme = load_theme(packaged_folder() / "terminal.toml")
    colors = [value for name, value in theme.variables.items() if name != "input-cursor-text-style"]
    colors += [getattr(theme, name) for name in (*WRITTEN, "background", "surface", "panel")]
    assert all(Color.parse(color).ansi is not None for color in colors)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("name = ", "Invalid value"),
        ("dark = true", "`name`"),
        ('name = "a"\ndark = "yes"', "$.dark"),
        ('name = "a"', "'primary' is missing"),
        ('name = "a"\n[colors]\nprimary = "greenish"', "primary = 'greenish'"),
        ('name = "a"\n[colors]\nprimary = "red"\ninfrared = "red"', "infrared"),
        ('name = "a"\n[colors]\nprimary = 3', "$.colors"),
        ('name = "a"\ncolors = "red"', "$.colors"),
        ('name = "a"\nfont = "mono"', "font"),
        ('name = "a"\n[colors]\nprimary = "red"\n[variables]\naccepted = "?"', "accepted"),
    ],
)
def test_a_broken_theme_is_named_and_skipped(content: str, complaint: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(content, encoding="utf-8")
    with pytest.raises(ThemeError) as caught:
        load_theme(path)
    assert complaint in str(caught.value)
    found = ThemeFolders([tmp_path, packaged_folder()]).changes()
    assert len(found.themes) == len(PACKAGED)
    assert [str(path) in problem for problem in found.problems] == [True]


def test_files_that_are_no_text_or_folders_are_skipped_too(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "folder.toml").mkdir()
    assert len(ThemeFolders([tmp_path, tmp_path / "missing"]).changes().problems) == 2


def test_a_person_may_replace_a_packaged_theme_and_name_few_colours(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('name = "sequoia"\n[colors]\nprimary = "#ff0000"\n')
    themes = {
        theme.name: theme for theme in ThemeFolders([packaged_folder(), tmp_path]).changes().themes
    }
    assert themes["sequoia"].primary == "#ff0000"
    assert set(app_color_defaults(themes["sequoia"])) == set(APP_COLORS)


def test_only_changed_files_are_read_again(tmp_path: Path) -> None:
    path, other = tmp_path / "a.toml", tmp_path / "b.toml"
    path.write_text('name = "a"\n[colors]\nprimary = "red"\n')
    other.write_text('name = "b"\n[colors]\nprimary = "red"\n')
    folders = ThemeFolders([tmp_path, tmp_path / "missing"])
    assert len(folders.changes().themes) == 2
    assert not folders.changes().themes
    path.write_text('name = "a"\n[colors]\nprimary = "#0000ff"\n')
    changes = folders.changes()
    assert [(theme.name, theme.primary) for theme in changes.themes] == [("a", "#0000ff")]
    assert not folders.changes().themes
    other.write_text("name = ")
    changes = folders.changes()
    assert (changes.themes, len(changes.problems)) == ([], 1)
    other.unlink()
    changes = folders.changes()
    assert not changes.themes
    assert not changes.problems


def test_a_file_of_the_same_length_is_seen_to_change(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\n[colors]\nprimary = "red"\n')
    folders = ThemeFolders([tmp_path])
    folders.changes()
    path.write_text('name = "a"\n[colors]\nprimary = "tan"\n')
    os.utime(path, ns=(1, 1))
    changes = folders.changes()
    assert changes.themes[0].primary == "tan"


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("primary-lighten-1", "}}}"), ("block-cursor-foreground", "notacolor"), ("border", "7"),
        ("scrollbar", "$nope"), ("text-muted", "\x1b[31m"), ("foreground", ""),
        ("footer-background", "rgb(1,2"), ("link-style", "bold blinky"), ("link-style", "red"),
        ("input-selection-background", "$primary 50000%"),
    ],
)  # fmt: skip
def test_a_variable_that_makes_no_rule_is_named(tmp_path: Path, variable: str, value: str) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(
        f'name = "odd"\n[colors]\nprimary = "red"\n[variables]\n{variable} = {json.dumps(value)}\n'
    )
    with pytest.raises(ThemeError, match=f"{variable} = "):
        load_theme(path)


@pytest.mark.parametrize(
    ("variable", "value"),
    [("text-muted", "auto 50%"), ("border", "red 40%"), ("link-style", "bold not underline"),
     ("mine", "}}}")],
)  # fmt: skip
def test_a_variable_may_be_whatever_makes_a_rule(tmp_path: Path, variable: str, value: str) -> None:
    path = tmp_path / "fine.toml"
    path.write_text(
        f'name = "fine"\n[colors]\nprimary = "red"\n[variables]\n{variable} = "{value}"\n'
    )
    assert load_theme(path).variables[variable] == value


@pytest.mark.parametrize("name", ["a\\nb", "\\u202e", "\\u001b[31m", "x" * 61])
def test_the_name_of_a_theme_is_one_printable_line(tmp_path: Path, name: str) -> None:
    path = tmp_path / "odd.toml"
    path.write_text(f'name = "{name}"\n[colors]\nprimary = "red"\n')
    with pytest.raises(ThemeError, match="one printable line"):
        load_theme(path)
