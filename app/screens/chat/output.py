"""What leaves the chat: `/copy` and `/export`."""

import asyncio
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import TextIO

from sequoia_core.errors import counted
from sequoia_core.events import Step
from sequoia_core.files import text_written_whole
from sequoia_core.recording.trace_file import Asked, Entry, write_event, write_header

from ...config.paths import output_file
from ...present.export import answer_events, as_json, as_markdown, copy_answer, copy_code
from ...state.chat_session import ChatError, ChatSession
from ...state.slash_commands import CopyRequest
from ...store.database import StoreError

ENDINGS = (".md", ".json", ".jsonl", ".svg")
"""Markdown, JSON, a trace to replay, a picture of the screen."""
ReadSteps = Callable[[str], Iterable[Step]]
"""Reads the steps of an exchange that the chat does not hold any more; may block."""


def requested_copy(
    request: CopyRequest, session: ChatSession, selected: str | None
) -> tuple[str, str]:
    """The text that `/copy` copies, and in words what it is; `ChatError` if there is none."""
    if request.what == "selection":
        if not selected:
            raise ChatError("nothing is selected: drag over the chat, then /copy selection")
        return selected, ""
    answers = [text for each in session.history.branch if (text := each.answer.text)]
    if request.what == "code":
        return copy_code(answers, request.number)
    return copy_answer(answers, request.number or 1)


def export_file(given: str, session: ChatSession) -> Path:
    """The file that a person named for an export; raises `SequoiaError` if it cannot be."""
    path = Path(given)
    if not given:
        raise ChatError("a file is missing: /export FILE.md|.json|.jsonl|.svg")
    if path.suffix not in ENDINGS:
        raise ChatError(f"the name must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    file = output_file(path, private=True)
    assert file is not None
    if file.exists():
        raise ChatError(f"{given} is there already; give another name, or remove it first")
    if file.suffix != ".svg" and not session.history.exchanges:
        raise ChatError("nothing to export yet: send a message first")
    if file.suffix == ".jsonl" and session.pair is None:
        raise ChatError("the models are still loading, and a trace names them; try again then")
    return file


async def export_chat(
    path: Path, session: ChatSession, read_steps: ReadSteps, note: Callable[..., None]
) -> None:
    """Write all branches of the chat into a file, whole or not at all, and note how it went."""
    remark = ""
    try:
        with text_written_whole(path, private=True) as file:
            if path.suffix == ".jsonl":
                remark = await _write_trace(session, read_steps, file)
            else:
                write = as_json if path.suffix == ".json" else as_markdown
                await asyncio.to_thread(file.write, write(session, time.time()))
    except OSError as error:
        note(f"no export: {path}: {error.strerror}", error=True)
    else:
        note(f"exported: {path}{remark}")


async def _write_trace(session: ChatSession, read_steps: ReadSteps, file: TextIO) -> str:
    """Write one exchange at a time, so that keys are answered; returns a remark on what it has."""
    assert session.pair is not None
    write_header(file, session.pair)
    exchanges = list(session.history.exchanges.values())
    steps, missing = 0, 0
    for exchange in exchanges:
        answer = exchange.answer
        count, known = answer.step_count, tuple(answer.steps)
        if answer.done and len(known) < count:  # the record has them
            known = await asyncio.to_thread(_all_steps, read_steps, exchange.id)
        steps, missing = steps + len(known), missing + (len(known) < count)
        asked = Asked(exchange.prompt, exchange.id, exchange.parent, exchange.started)
        entries = [asked, *answer_events(answer, known)]
        await asyncio.to_thread(_write_entries, file, entries)
    gone = f"; of {missing} answers the trees are no longer known" if missing else ""
    return f" ({counted(len(exchanges), 'answer')}, {steps} steps{gone})"


def _all_steps(read_steps: ReadSteps, exchange: str) -> tuple[Step, ...]:
    """None if one is damaged, or another version of the program wrote them."""
    with suppress(StoreError):
        return tuple(read_steps(exchange))
    return ()


def _write_entries(file: TextIO, entries: Iterable[Entry]) -> None:
    for entry in entries:
        write_event(file, entry)
