"""Carries out slash commands on the chat screen; what they are is `slash`."""

from typing import TYPE_CHECKING

from ..describe import describe
from ..launch import tree_choice
from ..messages import ChooseTree, Clear, SetSystem
from ..slash import (
    Bye,
    ClearChat,
    CopyAsked,
    Export,
    Help,
    RaceAsked,
    Sessions,
    Set,
    Show,
    SlashError,
    parse_command,
)
from .copying import copy_asked
from .exporting import begin_export
from .race import start_race

if TYPE_CHECKING:
    from .chat import ChatScreen


def run_command(chat: "ChatScreen", text: str) -> None:
    """Do what a slash command says.

    Raises:
        SequoiaError: it cannot be understood or done now; nothing was changed.
    """
    command = parse_command(text, chat.settings)
    starts_over = isinstance(command, ClearChat) or (
        isinstance(command, Set) and command.name == "system"
    )
    if chat.busy and starts_over:
        raise SlashError("still answering: press Esc first, your text stays here")
    match command:
        case Set():
            _set(chat, command)
        case Show():
            chat.note(describe(chat.settings, chat.pair, chat.chosen))
        case ClearChat():
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
        case Bye():
            chat.app.exit()
        case Help():
            chat.action_help()


def _set(chat: "ChatScreen", command: Set) -> None:
    settings = command.settings
    if command.name == "theme":
        chat.app.use_theme(settings.theme)
    elif command.name in ("mode", "growmap", "lookup"):
        chat.decoder.submit(ChooseTree(tree_choice(settings)))
    elif command.name == "system":
        chat.decoder.submit(SetSystem(settings.system))
        chat.forget()
    chat.change_settings(settings)
    value = getattr(settings, command.name)
    if value is None:
        value = "the chat template's own default" if command.name == "system" else "random"
    chat.note(f"{command.name} is now {value}")
