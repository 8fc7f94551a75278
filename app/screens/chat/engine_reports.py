"""What becomes of the decode thread's reports on the chat screen; drawing comes later, at once."""

from dataclasses import replace
from typing import TYPE_CHECKING

from sequoia_core.events import Event, Failed, Finished, Notice, TreeChosen

from ...engine.decode_thread import out_of_sync_line
from ...engine.messages import (
    Answering,
    LoadFailed,
    Loading,
    OutOfSync,
    RaceEnded,
    Racing,
    Ready,
    Refused,
    Report,
    SystemRefused,
    Tuning,
)
from ..race import take_report

if TYPE_CHECKING:
    from .screen import ChatScreen


def take(chat: "ChatScreen", report: Report) -> None:
    """Take in the next report."""
    match report:
        case Loading(message, fraction):
            share = "" if fraction is None else f" {fraction:.0%}"
            chat.prompt.hint(f"{message}{share}", passing=True)
        case LoadFailed(message):
            chat.app.fail(message)
        case Ready(description):
            chat.pair = description
            chat.dashboard.header.pair = description
            chat.branching.pages.name_answers(chat.answerer)
            chat.keeping.describe()
            chat.prompt.hint("")
            if description.remark:
                chat.note(description.remark)
            chat.app.rests.rest()
        case Answering(event):
            chat.keeping.event(event)
            _take_event(chat, event)
            if chat.answer is not None:
                chat.answer.add(event)
            if isinstance(event, Finished | Failed):
                chat.app.rests.rest()
        case Racing() | RaceEnded():
            take_report(chat, report)
        case Tuning(event):
            _take_event(chat, event)
        case Refused(message):
            chat.note(message, error=True)
        case SystemRefused(message, refused, system_prompt):
            if chat.settings.system == refused:  # else another one was asked for since
                chat.change_settings(replace(chat.settings, system=system_prompt))
            chat.note(f"the system prompt is not used: {message}", error=True)
        case OutOfSync(message, request) if not chat.decoder.superseded(request):
            chat.branching.engine_out_of_sync()
            if not chat.busy:  # else the question behind it fails by the same reason
                told = f"{out_of_sync_line(message)}; the next question tries again"
                chat.note(told, error=True)


def _take_event(chat: "ChatScreen", event: Event) -> None:
    match event:
        case TreeChosen():
            chat.chosen = event
        case Notice(_, message):
            chat.note(message)
        case Failed(message):
            chat.note(message, error=True)
