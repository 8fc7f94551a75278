"""`sequoia reproduce`: the published release's scripts as commands. Owns their list."""

import typer

reproduce_app = typer.Typer(
    help="What the published Sequoia release does, with its flags.", no_args_is_help=True
)


@reproduce_app.callback()
def reproduce() -> None:
    """What the published Sequoia release does, with its flags."""
