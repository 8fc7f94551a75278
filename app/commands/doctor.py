"""`sequoia doctor`: what it found, and what is wrong with it."""

import typer

from .doctor_checks import Verdict, examine

_MARKS = {
    Verdict.OK: ("✔", "green"),
    Verdict.WARN: ("!", "yellow"),
    Verdict.BROKEN: ("✘", "bold red"),
}


def doctor() -> None:
    """Say what machine, software, models, files and terminal there are.

    Ends with 1 if something is broken.
    """
    from rich.console import Console
    from rich.text import Text

    from ..config.load import load_settings
    from ..state.sanitize import visible

    console = Console(highlight=False)
    broken = 0
    for finding in examine(lambda: load_settings({})):
        glyph, style = _MARKS[finding.verdict]
        subject = (f"{finding.subject:<16} ", "bold")
        line = Text.assemble((f"{glyph} ", style), subject, visible(finding.detail))
        console.print(line, soft_wrap=True)
        broken += finding.verdict is Verdict.BROKEN
    if broken:
        raise typer.Exit(1)
