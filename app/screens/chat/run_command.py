"""Carries out slash commands on the chat screen; what they are is `slash`."""

from typing import TYPE_CHECKING

from ...config.settings import SETTINGS, shown
from ...engine.messages import Clear
from ...present.settings_summary import describe
from ...state.slash_commands import (
    Bye,
    ClearChat,
    CopyAsked,
    Export,
    Help,
    RaceAsked,
    Sessions,
    Set,
    Show,
    ShowSettings,
    parse_command,
)
from ..race import start_race
from .apply_settings import open_settings, refuse_while_busy, use_setting
from .copy import copy_asked
from .export import begin_export

if TYPE_CHECKING:
    from .screen import ChatScreen


def run_command(chat: "ChatScreen", text: str) -> None:
    """Do what a slash command says.

    Raises:
        SequoiaError: it cannot be understood or done now; nothing was changed.
    """
    command = parse_command(text, chat.settings)
    match command:
        case Set():
            _set(chat, command)
        case Show():
            chat.note(describe(chat.settings, chat.pair, chat.chosen))
        case ClearChat():
            refuse_while_busy(chat)
            chat.decoder.submit(Clear())
            chat.forget()
        case RaceAsked(prompt):
            start_race(chat, prompt)
        case Export(file):
            begin_export(chat, file)
        case Sessions(act, words):
            chat.keeping.act(act, words)
        case CopyAsked():
            copy_asked(chat, command)
        case ShowSettings():
            open_settings(chat)
        case Bye():
            chat.app.exit()
        case Help():
            chat.action_help()


def _set(chat: "ChatScreen", command: Set) -> None:
    use_setting(chat, command.name, command.settings)
    setting = SETTINGS[command.name]
    value = shown(getattr(command.settings, command.name)) or setting.unset
    chat.note(f"{command.name} is now {value}")
