"""Pictures of a screen as text: what stands in each cell, and how it looks in each of some themes.

Owns the form they are stored in, what is said of two that differ, and drawing one. Knows no app.

The form is a line of size and themes, then three blocks: the rows as they read, a letter for each
cell, and for each letter how such a cell looks in every theme. So the text is stored once for all
themes, nothing that is seen is left out, and another colour is another line.

`python -m tests.app.pictures FOLDER [FILE...]` draws stored pictures, all by default, as SVGs.
"""

import io
import string
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

from rich.cells import cell_len
from rich.color import Color
from rich.console import Console
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from app.ui.base_app import with_local_fonts

STORED = Path(__file__).parent / "screens" / "__snapshots__"
_LETTERS = "." + string.ascii_letters + string.digits + "!#$%&*+,-/:;<=>?@^_~'\"()[]{}\\`"
_BETWEEN = " | "
_SHOWN_ROWS = 6
"""Rows that a difference of looks names; the others are counted."""

Looks = tuple[str, ...]
"""How a cell looks in each theme, such as "bold #7fb685 on #10160f"."""


@dataclass(frozen=True, slots=True)
class View:
    """A screen in one theme.

    Attributes:
        rows: as they read, without the blanks at their ends.
        looks: of each cell of each row.
    """

    rows: tuple[str, ...]
    looks: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Picture:
    """A screen in several themes.

    Attributes:
        themes: their names.
        rows: as in `View`.
        looks: of each cell of each row.
    """

    themes: tuple[str, ...]
    rows: tuple[str, ...]
    looks: tuple[tuple[Looks, ...], ...]

    @property
    def width(self) -> int:
        """Cells of a row."""
        return len(self.looks[0])


def view(rows: Iterable[Iterable[Segment]]) -> View:
    """What a terminal would show of these."""
    texts, looks = [], []
    for row in rows:
        segments = list(row)
        texts.append("".join(segment.text for segment in segments).rstrip())
        looks.append(tuple(each for segment in segments for each in _cells(segment)))
    return View(tuple(texts), tuple(looks))


def picture(views: dict[str, View]) -> Picture:
    """The same screen in several themes, by their names.

    Raises:
        AssertionError: a theme changes what is written.
    """
    themes, first = tuple(views), next(iter(views.values()))
    for theme, each in views.items():
        changed = list(_changed_rows(first.rows, each.rows))
        assert not changed, "\n".join([f"{theme} changes the text:", *changed])
    grids = zip(*(each.looks for each in views.values()), strict=True)
    looks = tuple(tuple(zip(*rows, strict=True)) for rows in grids)
    return Picture(themes, first.rows, looks)


def _cells(segment: Segment) -> Iterator[str]:
    blank, written = _looks(segment.style or Style.null())
    for character in segment.text:
        yield from [blank if character == " " else written] * cell_len(character)


@cache
def _looks(style: Style) -> tuple[str, str]:
    """Of a blank, whose own colour is seen only if something is drawn in it, and of a letter."""
    ground = Style(bgcolor=style.bgcolor or Color.default())
    seen = Style(
        color=style.color or Color.default(),
        bgcolor=style.bgcolor or Color.default(),
        bold=style.bold or None,
        dim=style.dim or None,
        italic=style.italic or None,
        underline=style.underline or None,
        reverse=style.reverse or None,
        strike=style.strike or None,
    )
    drawn = style.reverse or style.underline or style.strike
    return str(seen if drawn else ground), str(seen)


# The stored form


def written(shown: Picture) -> str:
    """The picture in its stored form."""
    counts = Counter(each for row in shown.looks for each in row)
    common = counts.most_common(1)[0][0]
    kinds = [common, *(each for each in counts if each != common)]
    letters = dict(zip(kinds, _LETTERS, strict=False))
    assert len(letters) == len(kinds), f"{len(kinds)} looks, and letters for {len(_LETTERS)}"
    size = f"{shown.width}x{len(shown.rows)}"
    lines = [f"{size}: {', '.join(shown.themes)}", "", *shown.rows, ""]
    lines += ["".join(letters[each] for each in row).rstrip(".") for row in shown.looks]
    lines += ["", *(f"{letter} {_BETWEEN.join(each)}" for each, letter in letters.items())]
    return "\n".join(lines) + "\n"


def read(text: str) -> Picture:
    """A picture from its stored form."""
    head, *lines = text.split("\n")
    size, _, themes = head.partition(": ")
    width, height = map(int, size.split("x"))
    grid, legend = lines[height + 2 : 2 * height + 2], lines[2 * height + 3 : -1]
    kinds = {line[0]: tuple(line[2:].split(_BETWEEN)) for line in legend}
    looks = tuple(tuple(kinds[letter] for letter in row.ljust(width, ".")) for row in grid)
    return Picture(tuple(themes.split(", ")), tuple(lines[1 : height + 1]), looks)


# How two differ


def differences(before: Picture, after: Picture) -> Iterator[str]:
    """What a person would see of it, line by line."""
    if (before.width, len(before.rows)) != (after.width, len(after.rows)):
        yield "another size"
    yield from _changed_rows(before.rows, after.rows)
    for theme in sorted({*before.themes} ^ {*after.themes}):
        yield f"{theme}: {'no longer pictured' if theme in before.themes else 'new'}"
    for theme in after.themes:
        if theme in before.themes:
            yield from (f"{theme}: {line}" for line in _changed_looks(before, after, theme))


def _changed_rows(before: Sequence[str], after: Sequence[str]) -> Iterator[str]:
    for at, (old, new) in enumerate(zip(before, after, strict=False), 1):
        if old != new:
            yield from (f"row {at}", f"  - {old}", f"  + {new}")


def _changed_looks(before: Picture, after: Picture, theme: str) -> Iterator[str]:
    old_at, new_at = before.themes.index(theme), after.themes.index(theme)
    found: dict[tuple[str, str], dict[int, list[int]]] = {}
    for row, (olds, news) in enumerate(zip(before.looks, after.looks, strict=False)):
        for cell, (old, new) in enumerate(zip(olds, news, strict=False)):
            change = old[old_at], new[new_at]
            if change[0] != change[1]:
                found.setdefault(change, {}).setdefault(row, []).append(cell)
    for (was, now), rows in found.items():
        yield f"{was} is now {now}"
        for row, cells in list(rows.items())[:_SHOWN_ROWS]:
            said = _cut(after.rows[row], cells[0], cells[-1] + 1).strip()
            yield f"  row {row + 1}, cells {cells[0] + 1} to {cells[-1] + 1}: {said}"
        if len(rows) > _SHOWN_ROWS:
            yield f"  and {len(rows) - _SHOWN_ROWS} more rows"


def _cut(row: str, begin: int, end: int) -> str:
    """What stands in these cells."""
    at, kept = 0, []
    for character in row:
        if begin <= at < end:
            kept.append(character)
        at += cell_len(character)
    return "".join(kept)


# Drawing


def drawn(shown: Picture, theme: str) -> str:
    """The picture in one of its themes, as SVG."""
    at = shown.themes.index(theme)
    console = Console(
        file=io.StringIO(), width=shown.width, record=True, force_terminal=True,
        color_system="truecolor", legacy_windows=False,
    )  # fmt: skip
    for row, looks in zip(shown.rows, shown.looks, strict=True):
        text, cell = Text(no_wrap=True, end="\n"), 0
        for look, cells in groupby(each[at] for each in looks):
            end = cell + len(list(cells))
            part = _cut(row, cell, end)
            text.append(part + " " * (end - cell - cell_len(part)), look)
            cell = end
        console.print(text)
    return with_local_fonts(console.export_svg(title=theme))


def main() -> None:
    """Draw stored pictures."""
    if not sys.argv[1:]:
        sys.exit("usage: python -m tests.app.pictures FOLDER [FILE...]")
    folder, *files = map(Path, sys.argv[1:])
    for path in files or sorted(STORED.glob("*/*.txt")):
        shown = read(path.read_text(encoding="utf-8"))
        for theme in shown.themes:
            name = f"{path.parent.name}-{path.stem}-{theme}.svg"
            folder.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(drawn(shown, theme), encoding="utf-8")


if __name__ == "__main__":
    main()
