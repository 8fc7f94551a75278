"""Settings that are changed while the chat is open: engine, look and keys follow at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from ...config.resolve import tree_choice
from ...config.settings import SETTINGS, Group, Settings
from ...engine.messages import ChooseTree, Request, SetSystem
from ...state.chat_session import ChatSession
from ...ui.base_app import BaseApp
from .branches import Branches


class SettingsChanger:
    """Changes the settings of a session.

    Args:
        session: the chat.
        app: has theme, accessible mode and keys.
        branches: begins a new chat for another system prompt.
        submit: sends a request to the engine.
        changed: called after a change.
    """

    def __init__(
        self,
        session: ChatSession,
        app: BaseApp,
        branches: Branches,
        submit: Callable[[Request], None],
        changed: Callable[[], None],
    ) -> None:
        self._session, self._app, self._branches = session, app, branches
        self._submit, self._changed = submit, changed
        self.key_problems = self._use_keys(session.settings.keys)

    @property
    def settings(self) -> Settings:
        """The settings in use."""
        return self._session.settings

    def check(self, name: str) -> None:
        """Check that a setting can be changed now.

        Raises:
            ChatError: it would disturb the running answer.
        """
        if SETTINGS[name].restarts:
            self._session.check_idle()

    def change(self, name: str, settings: Settings) -> None:
        """Use settings of which one was changed.

        Raises:
            SequoiaError: it cannot be changed now, or names something that is not there.
        """
        self.check(name)
        session = self._session
        if name == "theme":
            self._app.use_theme(settings.theme)
        elif name == "accessible":
            self._app.use_accessible(settings.accessible)
        elif SETTINGS[name].group is Group.TREE:
            self._submit(ChooseTree(tree_choice(settings)))
            session.tree = None  # the known one is of the settings before
        elif name == "system" and settings.system != session.settings.system:
            self._branches.clear(SetSystem(settings.system, session.settings.system))
        session.settings = settings
        self._changed()

    def try_keys(self, wanted: Mapping[str, tuple[str, ...]]) -> Sequence[str]:
        """Use these keys by action; if there are new problems, return them and change nothing."""
        problems = self._use_keys(wanted)
        if set(problems) - set(self.key_problems):
            self._use_keys(self.settings.keys)
            return problems
        self._session.settings = replace(self.settings, keys=dict(wanted))
        return ()

    def _use_keys(self, wanted: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        own = {name: keys for name, keys in wanted.items() if not name.startswith("replay.")}
        problems = self._app.use_keys(own)
        self._changed()
        return problems
