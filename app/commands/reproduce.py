"""`sequoia reproduce`: the published release's scripts as commands. Owns their list."""

import typer

from sequoia_core.config import Mode

from .accept import accept_by_decoding, accept_statically
from .command_group import CommandGroup
from .paper import paper
from .robustness import robustness
from .search import tree_search
from .testbed import SUMMARIES, decoding_by

reproduce_app = typer.Typer(
    cls=CommandGroup,
    help="What the published Sequoia release does, with its flags.",
    no_args_is_help=True,
)


@reproduce_app.callback()
def reproduce() -> None:
    """What the published Sequoia release does, with its flags."""


_TESTBEDS = {
    "testbed": Mode.SEQUOIA,
    "testbed-greedy": Mode.GREEDY,
    "test-specinfer": Mode.SPECINFER,
    "test-greedys": Mode.TOPK,
}
for _name, _rule in _TESTBEDS.items():
    reproduce_app.command(_name, help=SUMMARIES[_rule])(decoding_by(_rule))
reproduce_app.command("robustness")(robustness)
reproduce_app.command("paper")(paper)
reproduce_app.command("test-accept")(accept_by_decoding)
reproduce_app.command("fast-test")(accept_statically)
reproduce_app.command("tree-search")(tree_search)
