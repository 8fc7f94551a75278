"""Writes the chat into a file, for `/export`.

Owns which file is written how, and that it is there whole or not at all. What it says is
`export`'s; a picture is the screen's own.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from sequoia_core.errors import SequoiaError
from sequoia_core.events import Step
from sequoia_core.files import text_written_whole, write_whole
from sequoia_core.recording.trace_file import Entry, write_event, write_header

from ...config.output_files import output_file
from ...present.export import ExportedChat, answer_events, as_json, as_markdown, asked
from ...state.history import Exchange

if TYPE_CHECKING:
    from .screen import ChatScreen

ENDINGS = (".md", ".json", ".jsonl", ".svg")
"""To read, for programs, a trace to replay, a picture of the screen."""


class ExportError(SequoiaError):
    """The chat cannot be written there."""


def begin_export(chat: "ChatScreen", given: str) -> None:
    """Write the chat into a file; the chat says when it is there.

    Args:
        chat: the screen.
        given: name of the file; the ending says what it will be.

    Raises:
        SequoiaError: it cannot be written; nothing was.
    """
    path = _checked(given)
    export = ExportedChat(chat.pair, chat.branching.history, time.time())
    if path.suffix == ".svg":
        # Once more is drawn the command is no longer in the prompt.
        chat.call_after_refresh(lambda: _picture(chat, path))
        return
    if not export.history.exchanges:
        raise ExportError("nothing to export yet: send a message first")
    if path.suffix == ".jsonl" and export.pair is None:
        raise ExportError("the models are still loading, and a trace names them; try again then")
    chat.run_worker(_write(chat, export, path), group="export", exit_on_error=False)


def _checked(given: str) -> Path:
    path = Path(given)
    if path.suffix not in ENDINGS:
        *some, last = ENDINGS
        raise ExportError(f"the name must end in {', '.join(some)} or {last}")
    file = output_file(path, private=True)
    assert file is not None
    if file.exists():
        raise ExportError(f"{given} is there already; give another name, or remove it first")
    return file


async def _write(chat: "ChatScreen", export: ExportedChat, path: Path) -> None:
    try:
        with text_written_whole(path, private=True) as file:
            if path.suffix == ".jsonl":
                said = await _write_trace(chat, export, file)
            else:
                text = as_json(export) if path.suffix == ".json" else as_markdown(export)
                await asyncio.to_thread(file.write, text)
                said = ""
    except OSError as error:
        chat.note(f"no export: {path}: {error.strerror}", error=True)
    except SequoiaError as error:  # steps in the record that another version wrote
        chat.note(f"no export: {path}: {error}", error=True)
    else:
        chat.note(f"exported: {path}{said}")


async def _write_trace(chat: "ChatScreen", export: ExportedChat, file: TextIO) -> str:
    """Write prompts and events, an exchange at a time, so that the keyboard stays alive.

    Returns:
        what is missing, in words.
    """
    assert export.pair is not None
    write_header(file, export.pair)
    steps, missing = 0, 0
    for exchange in list(export.history.exchanges.values()):
        known = await _steps(chat, exchange)
        answer = exchange.answer
        count = answer.statistics[-1].totals.steps if answer.statistics else 0
        steps, missing = steps + len(known), missing + (len(known) < count)
        entries = [asked(exchange), *answer_events(answer, known)]
        await asyncio.to_thread(_write_entries, file, entries)
    gone = f"; of {missing} answers the trees are no longer known" if missing else ""
    answers = len(export.history.exchanges)
    return f" ({answers} answer{'s' if answers != 1 else ''}, {steps} steps{gone})"


async def _steps(chat: "ChatScreen", exchange: Exchange) -> Sequence[Step]:
    """All steps of an answer: the chat holds those of the last ones, the record the others."""
    answer, recorder = exchange.answer, chat.keeping.recorder
    if not answer.done or not answer.statistics:
        return tuple(answer.steps)
    if len(answer.steps) == answer.statistics[-1].totals.steps:
        return tuple(answer.steps)
    return await asyncio.to_thread(lambda: tuple(recorder.steps(exchange.id)))


def _write_entries(file: TextIO, entries: Iterable[Entry]) -> None:
    for entry in entries:
        write_event(file, entry)


def _picture(chat: "ChatScreen", path: Path) -> None:
    try:
        write_whole(path, chat.app.export_screenshot(title="sequoia"), private=True)
    except OSError as error:
        chat.note(f"no picture: {path}: {error.strerror}", error=True)
    else:
        chat.note(f"picture: {path}")
