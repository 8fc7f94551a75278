"""What leaves the chat: `/copy` and `/export`."""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TextIO

from sequoia_core.errors import SequoiaError, counted
from sequoia_core.events import Step
from sequoia_core.files import text_written_whole
from sequoia_core.recording.trace_file import Entry, write_event, write_header

from ...config.output_files import output_file
from ...present.copyable import CopyError, copy_answer, copy_code
from ...present.export import ExportedChat, answer_events, as_json, as_markdown, asked
from ...state.chat_session import ChatError, ChatSession
from ...state.history import Exchange
from ...state.slash_commands import CopyRequest

ENDINGS = (".md", ".json", ".jsonl", ".svg")
"""Markdown, JSON, a trace to replay, a picture of the screen."""
ReadSteps = Callable[[str], Iterable[Step]]
Note = Callable[..., None]
"""`TranscriptPages.note`."""


def requested_copy(
    request: CopyRequest, session: ChatSession, selected: str | None
) -> tuple[str, str]:
    """The text that `/copy` copies, and in words what it is.

    Raises:
        CopyError: there is no such text.
    """
    if request.what == "selection":
        if not selected:
            raise CopyError("nothing is selected: drag over the chat, then /copy selection")
        return selected, ""
    answers = [text for each in session.history.branch if (text := each.answer.text)]
    if request.what == "code":
        return copy_code(answers, request.number)
    return copy_answer(answers, request.number or 1)


def export_file(given: str, session: ChatSession) -> Path:
    """Check that the chat can be exported into a file; its ending says in which format.

    Raises:
        SequoiaError: it cannot.
    """
    path = Path(given)
    if not given:
        raise ChatError("a file is missing: /export FILE.md|.json|.jsonl|.svg")
    if path.suffix not in ENDINGS:
        *some, last = ENDINGS
        raise ChatError(f"the name must end in {', '.join(some)} or {last}")
    file = output_file(path, private=True)
    assert file is not None
    if file.exists():
        raise ChatError(f"{given} is there already; give another name, or remove it first")
    if file.suffix != ".svg" and not session.history.exchanges:
        raise ChatError("nothing to export yet: send a message first")
    if file.suffix == ".jsonl" and session.pair is None:
        raise ChatError("the models are still loading, and a trace names them; try again then")
    return file


async def export_chat(path: Path, session: ChatSession, read_steps: ReadSteps, note: Note) -> None:
    """Write all branches of the chat into a file, whole or not at all, and say so.

    Args:
        path: of the file, as `export_file` returns it.
        session: the chat.
        read_steps: reads the steps that the chat does not hold any more; may block.
        note: says how it went.
    """
    chat = ExportedChat(session.pair, session.history, time.time())
    try:
        with text_written_whole(path, private=True) as file:
            if path.suffix == ".jsonl":
                remark = await _write_trace(chat, read_steps, file)
            else:
                text = as_json(chat) if path.suffix == ".json" else as_markdown(chat)
                await asyncio.to_thread(file.write, text)
                remark = ""
    except OSError as error:
        note(f"no export: {path}: {error.strerror}", error=True)
    except SequoiaError as error:  # steps in the record that another version wrote
        note(f"no export: {path}: {error}", error=True)
    else:
        note(f"exported: {path}{remark}")


async def _write_trace(chat: ExportedChat, read_steps: ReadSteps, file: TextIO) -> str:
    """Write one exchange at a time, so that keys are answered; returns a remark on what it has."""
    assert chat.pair is not None
    write_header(file, chat.pair)
    steps, missing = 0, 0
    for exchange in list(chat.history.exchanges.values()):
        known = await _steps(exchange, read_steps)
        answer = exchange.answer
        count = answer.statistics[-1].totals.steps if answer.statistics else 0
        steps, missing = steps + len(known), missing + (len(known) < count)
        entries = [asked(exchange), *answer_events(answer, known)]
        await asyncio.to_thread(_write_entries, file, entries)
    gone = f"; of {missing} answers the trees are no longer known" if missing else ""
    answers = counted(len(chat.history.exchanges), "answer")
    return f" ({answers}, {steps} steps{gone})"


async def _steps(exchange: Exchange, read_steps: ReadSteps) -> Sequence[Step]:
    """All steps of an answer: the chat holds those of the last ones, the record the others."""
    answer = exchange.answer
    if not answer.done or not answer.statistics:
        return tuple(answer.steps)
    if len(answer.steps) == answer.statistics[-1].totals.steps:
        return tuple(answer.steps)
    return await asyncio.to_thread(lambda: tuple(read_steps(exchange.id)))


def _write_entries(file: TextIO, entries: Iterable[Entry]) -> None:
    for entry in entries:
        write_event(file, entry)
