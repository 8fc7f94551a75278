"""A progress line on standard error while something loads. Silent where nobody would see it."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from sequoia_core.events import Progress


@contextmanager
def progress_line(quiet: bool = False) -> Iterator[Progress]:
    """Yields a function to report to; the line is gone when the block ends."""
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
