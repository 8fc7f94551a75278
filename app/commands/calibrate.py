"""`sequoia calibrate`: measure the pair on this machine now rather than between answers."""

from typing import Any

import typer

from .. import launch
from ..options import with_settings
from ..progress import progress_line


@with_settings
def calibrate(ctx: typer.Context, flags: dict[str, Any]) -> None:  # noqa: ARG001 read by the decorator
    """Measure forward times and acceptance of the pair, and keep the figures."""
    from ..settings import load_settings

    settings = load_settings(flags)
    with progress_line() as progress:
        from sequoia_core.measure import calibrate as measure

        temperature = settings.chat().sampling().temperature
        tuner = measure(launch.load_chosen(settings, progress), temperature, progress)
    typer.echo(tuner.summary(temperature))
