"""Every packaged theme is whole and readable; a broken file is named and skipped."""

import tomllib
from pathlib import Path

import pytest
from textual.color import Color

from app.theming import (
    APP_COLORS,
    DEFAULT_THEME,
    ThemeError,
    app_color_defaults,
    load_theme,
    load_themes,
    packaged_folder,
)

PACKAGED = sorted(packaged_folder().glob("*.toml"))


def test_packaged_themes_load_and_the_default_is_among_them() -> None:
    found = load_themes([packaged_folder()])
    assert found.problems == ()
    assert len(found.themes) == len(PACKAGED) >= 5
    assert DEFAULT_THEME in {theme.name for theme in found.themes}


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_a_packaged_theme_names_every_colour_of_the_app(path: Path) -> None:
    table = tomllib.loads(path.read_text(encoding="utf-8"))
    assert set(table["variables"]) == set(APP_COLORS)
    assert table["name"] == path.stem


@pytest.mark.parametrize("path", PACKAGED, ids=lambda path: path.stem)
def test_what_is_written_can_be_read_on_its_background(path: Path) -> None:
    theme = load_theme(path)
    assert theme.background is not None
    background = Color.parse(theme.background)
    least = 7.0 if theme.name == "high-contrast" else 4.5
    colors = {name: theme.variables[name] for name in APP_COLORS}
    colors["foreground"] = theme.foreground or ""
    for name, value in colors.items():
        wanted = 3.0 if name in ("unreached", "bookkeeping") and least < 7 else least
        assert contrast(Color.parse(value), background) >= wanted, name


def contrast(first: Color, second: Color) -> float:
    """WCAG 2 contrast ratio."""
    dark, light = sorted((luminance(first), luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def luminance(color: Color) -> float:
    parts = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4
             for part in color.normalized]  # fmt: skip
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("name = ", "Invalid value"),
        ("dark = true", "'name'"),
        ('name = "a"\ndark = "yes"', "'dark'"),
        ('name = "a"', "'primary' is missing"),
        ('name = "a"\n[colors]\nprimary = "greenish"', "primary = 'greenish'"),
        ('name = "a"\n[colors]\nprimary = "red"\ninfrared = "red"', "infrared"),
        ('name = "a"\n[colors]\nprimary = 3', "[colors]"),
        ('name = "a"\ncolors = "red"', "[colors]"),
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
    found = load_themes([tmp_path, packaged_folder()])
    assert len(found.themes) == len(PACKAGED)
    assert [str(path) in problem for problem in found.problems] == [True]


def test_files_that_are_no_text_or_folders_are_skipped_too(tmp_path: Path) -> None:
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "folder.toml").mkdir()
    assert len(load_themes([tmp_path, tmp_path / "missing"]).problems) == 2


def test_a_person_may_replace_a_packaged_theme_and_name_few_colours(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('name = "sequoia"\n[colors]\nprimary = "#ff0000"\n')
    themes = {theme.name: theme for theme in load_themes([packaged_folder(), tmp_path]).themes}
    assert themes["sequoia"].primary == "#ff0000"
    assert set(app_color_defaults(themes["sequoia"])) == set(APP_COLORS)
