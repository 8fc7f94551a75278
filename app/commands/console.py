"""What commands show on a terminal: a progress line and tables."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from sequoia_core.events import Progress

INTERRUPTED = 130
"""Exit code after Ctrl+C."""


@contextmanager
def progress_line(quiet: bool = False) -> Iterator[Progress]:
    """Yields a function that draws progress on standard error until the block ends.

    It draws nothing if standard error is not a terminal.
    """
    if quiet or not sys.stderr.isatty():
        yield lambda _message, _fraction: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, SpinnerColumn, TaskProgressColumn, TextColumn
    from rich.progress import Progress as ProgressBar

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TaskProgressColumn(),
    )
    with ProgressBar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Starting", total=None)

        def report(message: str, fraction: float | None) -> None:
            total = None if fraction is None else 1.0
            bar.update(task, description=message, completed=fraction or 0.0, total=total)

        yield report


def print_table(
    headings: Sequence[str], rows: Sequence[Sequence[str]], *, right: bool = False
) -> None:
    """Print rows of text below their headings, aligned to the left or right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        table.add_column(heading, justify="right" if right else "left")
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)
