"""`sequoia reproduce`: the published release's scripts as commands. Owns their list."""

import typer

from .accept import accept_by_decoding, accept_statically
from .search import tree_search

reproduce_app = typer.Typer(
    help="What the published Sequoia release does, with its flags.", no_args_is_help=True
)


@reproduce_app.callback()
def reproduce() -> None:
    """What the published Sequoia release does, with its flags."""


reproduce_app.command("test-accept")(accept_by_decoding)
reproduce_app.command("fast-test")(accept_statically)
reproduce_app.command("tree-search")(tree_search)
