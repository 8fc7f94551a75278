"""What commands show on a terminal: a progress line, tables, and the end by Ctrl+C."""

import sys
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal, NoReturn

import typer

from sequoia_core.events import Progress

if TYPE_CHECKING:
    from rich.text import Text

INTERRUPTED = 130


def stop(message: str) -> NoReturn:
    """End the command after Ctrl+C."""
    typer.echo(f"sequoia: {message}", err=True)
    raise typer.Exit(INTERRUPTED)


@contextmanager
def progress_line(quiet: bool = False) -> Iterator[Progress]:
    """Yields a function that draws progress on standard error if that is a terminal."""
    if quiet or not sys.stderr.isatty():
        yield lambda _message, _fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as ProgressBar

    text = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), text, BarColumn(), TaskProgressColumn())
    with ProgressBar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Starting", total=None)

        def report(message: str, fraction: float | None) -> None:
            total = None if fraction is None else 1.0
            bar.update(task, description=message, completed=fraction or 0.0, total=total)

        yield report


def print_table(
    headings: Sequence[str],
    rows: Iterable[Sequence["str | Text"]],
    *,
    right: Container[str] = (),
    gap: int = 2,
    width: int = 0,
) -> None:
    """Print rows below their headings, in at least `width` columns of the terminal.

    What is too long for its column goes on in the next line: names must not be cut off.

    `right` has the headings of what is aligned to the right.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for heading in headings:
        side: Literal["left", "right"] = "right" if heading in right else "left"
        table.add_column(heading, justify=side, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    console = Console(highlight=False)
    console.width = max(console.width, width)
    console.print(table)
