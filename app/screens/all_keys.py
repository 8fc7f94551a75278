"""The bindings of all screens of the chat in one place, to be remapped and told of.

Who adds a screen with bindings adds it here; a test walks the screens.
"""

from textual.binding import BindingType

from ..widgets.acceptance_view import AcceptanceView
from ..widgets.prompt import Prompt
from ..widgets.tree_view import TreeView
from .chat.screen import ChatScreen
from .choosing import ChoiceScreen, KeyScreen
from .help import HelpScreen
from .race import RaceScreen
from .search import SearchScreen
from .sessions import SessionsScreen
from .settings import SettingsScreen

OWNERS = (
    ChatScreen, HelpScreen, RaceScreen, SearchScreen, SessionsScreen, SettingsScreen,
    ChoiceScreen, KeyScreen, TreeView, AcceptanceView,
)  # fmt: skip
"""Classes whose `BINDINGS` have ids."""


def all_bindings() -> list[BindingType]:
    """Every binding, in the order of the help."""
    return [*Prompt.SENDING, *(each for owner in OWNERS for each in owner.BINDINGS)]
