"""Themes from TOML files: one file per theme, packaged ones and a person's own."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
from textual.color import Color, ColorParseError
from textual.css.errors import StylesheetError
from textual.css.stylesheet import Stylesheet
from textual.css.tokenizer import TokenError
from textual.theme import Theme

from sequoia_core.errors import SequoiaError
from sequoia_core.files import decode, parse_toml, read_text

DEFAULT_THEME = "sequoia"
TERMINAL_THEME = "terminal"  # uses the terminal's own sixteen colours
_MOST_BYTES = 1_000_000
_LONGEST_NAME = 60
_STYLE = "style"  # part of the names of variables that are text styles
APP_COLORS = (
    "accepted", "rejected", "unreached", "bonus", "root",
    "draft", "verify", "bookkeeping", "speedup", "user", "notice",
    "rank-1", "rank-2", "rank-3",
)  # fmt: skip
_THEME_COLORS = (
    "primary", "secondary", "accent", "foreground", "background", "surface", "panel",
    "warning", "error", "success",
)  # fmt: skip


class _ThemeFile(msgspec.Struct, forbid_unknown_fields=True):
    name: str
    dark: bool = True
    ansi: bool = False  # its colours are the terminal's own
    colors: dict[str, str] = {}  # Textual's names, `_THEME_COLORS`
    variables: dict[str, str] = {}  # `APP_COLORS`, and any of Textual's theme variables


class ThemeError(SequoiaError):
    """A theme file cannot be used."""


@dataclass(slots=True)
class Themes:
    """Usable themes, and one line for each file that was skipped."""

    themes: list[Theme] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


class ThemeFolders:
    """Folders of themes, read again when a file in them changes.

    A theme in a later folder replaces one of the same name.
    """

    def __init__(self, folders: Iterable[Path]) -> None:
        self._folders = tuple(folders)
        self._seen: dict[Path, tuple[int, int]] = {}

    def changes(self) -> Themes:
        """The themes whose files are new or changed since the last call; at first all.

        A file that is broken now is listed among the problems only: its old theme may stay.
        """
        before, self._seen = self._seen, self._stamps()
        found = Themes()
        for path, stamp in self._seen.items():
            if before.get(path) != stamp:
                try:
                    found.themes.append(load_theme(path))
                except ThemeError as error:
                    found.problems.append(str(error))
        return found

    def _stamps(self) -> dict[Path, tuple[int, int]]:
        stamps = {}
        for folder in self._folders:
            for path in sorted(folder.glob("*.toml")):
                try:
                    stat = path.stat()
                except OSError:  # deleted, or a broken link: reading reports it
                    stamps[path] = (0, 0)
                else:
                    stamps[path] = (stat.st_mtime_ns, stat.st_size)
        return stamps


def packaged_folder() -> Path:
    """The themes of this package, installed or in a checkout."""
    installed = Path(__file__).parents[1] / "themes"
    return installed if installed.is_dir() else Path(__file__).parents[2] / "themes"


def least_contrast(theme: Theme) -> float:
    """The contrast ratio that a theme promises for text: 7 if its name has the word."""
    return 7.0 if "contrast" in theme.name else 4.5


def app_color_defaults(theme: Theme) -> dict[str, str]:
    """The app's own colours for a theme that does not name them, from those it has."""
    success = theme.success or "#4EBF71"
    warning = theme.warning or "#ffa62b"
    foreground = theme.foreground or ("#e0e0e0" if theme.dark else "#202020")
    muted = foreground + "99" if len(foreground) == 7 else foreground
    accent = theme.accent or warning
    return {
        "accepted": success, "rejected": theme.error or "#ba3c5b", "unreached": muted,
        "bonus": accent, "root": foreground, "draft": accent, "verify": theme.primary,
        "bookkeeping": muted, "speedup": success, "user": theme.secondary or theme.primary,
        "notice": warning, "rank-1": success, "rank-2": theme.primary, "rank-3": warning,
    }  # fmt: skip


def load_theme(path: Path) -> Theme:
    """Read one theme file.

    Raises ThemeError if it cannot be read, is no TOML, or has an unknown entry or a bad colour.
    """
    try:
        return _read(parse_toml(read_text(path, _MOST_BYTES)))
    except OSError as error:
        problem = error.strerror
    except UnicodeDecodeError:
        problem = "not UTF-8 text"
    except (ValueError, ThemeError) as error:
        problem = str(error)
    raise ThemeError(f"theme {path}: {problem}; skipped")


def _read(table: dict[str, Any]) -> Theme:
    file: _ThemeFile = decode(_ThemeFile, table)
    if unknown := sorted(file.colors.keys() - set(_THEME_COLORS)):
        raise ThemeError(f"unknown colour {unknown[0]!r} (known: {', '.join(_THEME_COLORS)})")
    if "primary" not in file.colors:
        raise ThemeError("colour 'primary' is missing")
    own = {key: value for key, value in file.variables.items() if key in APP_COLORS}
    for key, value in (file.colors | own).items():
        if not _is_color(value):
            raise ThemeError(f'{key} = {value!r} is not a colour, such as "#3fa34d"')
    name = file.name
    if not name.strip() or not name.isprintable() or len(name) > _LONGEST_NAME:
        raise ThemeError(f"'name' must be one printable line of at most {_LONGEST_NAME} characters")
    theme = Theme(name, dark=file.dark, ansi=file.ansi, variables=file.variables, **file.colors)  # type: ignore[arg-type]
    _check_variables(theme)
    return theme


def _check_variables(theme: Theme) -> None:
    """Check that a style sheet with each variable parses: one that does not ends the app."""
    # for colours where they are wanted it would take milliseconds for nothing
    pairs = theme.variables.items()
    odd = [(key, value) for key, value in pairs if _STYLE in key or not _is_color(value)]
    if not odd:
        return
    known = app_color_defaults(theme)
    known |= replace(theme, variables={}).to_color_system().generate()
    for key, value in odd:
        if key not in known:
            continue  # unused
        kind = "text-style" if _STYLE in key else "color"
        sheet = Stylesheet(variables=known | {key: value})
        sheet.add_source(f"Screen {{ {kind}: ${key}; }}")
        try:
            sheet.parse()
        except (StylesheetError, TokenError, ColorParseError, ValueError):
            raise ThemeError(f"{key} = {value!r:.60} is no {kind}") from None


def _is_color(value: str) -> bool:
    try:
        Color.parse(value)
    except ColorParseError:
        return False
    return True
