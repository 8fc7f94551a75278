"""Settings of the chat while it is open: the settings screen, keys and looks follow at once.

Owns what a changed setting does to the chat. What there is to set is `preferences`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ...config.resolve import tree_choice
from ...config.settings import SETTINGS, Group, Settings
from ...engine.messages import ChooseTree, SetSystem
from ...state.slash_commands import SlashError
from ..settings import Follower, SettingsScreen

if TYPE_CHECKING:
    from .screen import ChatScreen


ANSWERING = "still answering: press chat.stop first, your text stays here"
"""Ids of actions in it read as their keys."""


def open_settings(chat: "ChatScreen") -> None:
    """Show the settings over the chat."""
    app = chat.app

    def change(name: str, value: Any) -> None:
        use_setting(chat, name, replace(chat.settings, **{name: value}))

    def allowed(name: str) -> None:
        if SETTINGS[name].restarts:
            refuse_while_busy(chat)

    def preview(theme: str) -> None:
        app.theme = theme

    follower = Follower(
        settings=lambda: chat.settings,
        keys=lambda: app.keys,
        allowed=allowed,
        change=change,
        preview=preview,
        try_keys=lambda wanted: _try_keys(chat, wanted),
    )
    app.push_screen(SettingsScreen(app.preferences, follower, sorted(app.own_themes)))


def use_setting(chat: "ChatScreen", name: str, settings: Settings) -> None:
    """Let the chat follow settings of which one was changed.

    Raises:
        SequoiaError: it cannot be done now, or names something that is not there.
    """
    if SETTINGS[name].restarts:
        refuse_while_busy(chat)
    if name == "theme":
        chat.app.use_theme(settings.theme)
    elif name == "accessible":
        chat.app.use_accessible(settings.accessible)
    elif SETTINGS[name].group is Group.TREE:
        chat.decoder.submit(ChooseTree(tree_choice(settings)))
        chat.chosen = None  # it is of the settings before
        chat.drawing.changed()
    elif name == "system" and settings.system != chat.settings.system:
        chat.decoder.submit(SetSystem(settings.system, chat.settings.system))
        chat.forget()
    chat.change_settings(settings)


def refuse_while_busy(chat: "ChatScreen") -> None:
    """Refuse what cannot be done in the middle of an answer, such as starting the chat over.

    Raises:
        SlashError: an answer is under way.
    """
    if chat.busy:
        raise SlashError(chat.app.keys.shown(ANSWERING))


def follow_keys(chat: "ChatScreen") -> None:
    """Let what shows and reads keys itself know of the keys in use."""
    keys = chat.app.keys
    chat.prompt.use_keys(keys)
    chat.dashboard.keys.keys = keys
    chat.transcript.use_keys(keys)


def _try_keys(chat: "ChatScreen", wanted: Mapping[str, tuple[str, ...]]) -> Sequence[str]:
    """Use these keys; where a wish cannot be granted, what was before stays."""
    before = chat.settings.keys
    problems = chat.app.change_keys(wanted)
    if set(problems) - set(chat.app.key_problems):
        chat.app.change_keys(before)
        return problems
    chat.change_settings(replace(chat.settings, keys=dict(wanted)))
    return ()
