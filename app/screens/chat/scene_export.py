"""`/record`: the chat as a recording with captions."""

import gzip
import io
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TextIO

from sequoia_core.events import Step
from sequoia_core.files import text_written_whole, written_whole
from sequoia_core.model.cpu import processor_name
from sequoia_core.recording.trace_file import LONGEST_CAPTION, Asked, Caption, Entry, SceneInfo

from ...present.captions import captions, summary
from ...state.chat_session import ChatError, ChatSession
from ...state.history import Exchange
from ...state.step_cursor import StepCursor
from .export import ReadSteps, answer_events, new_file, write_trace

ENDINGS = (".jsonl", ".jsonl.gz")
_LONGEST_TITLE = 60


def add_caption(text: str, session: ChatSession, cursor: StepCursor) -> str:
    """Keep a caption for the step on show; returns a note about it."""
    session.check_idle()
    step, exchange = cursor.step, session.exchange_of(cursor.answer)
    if not text:
        raise ChatError("a text is missing: /record caption TEXT")
    if step is None or exchange is None:
        raise ChatError("no step is on show: send a message first")
    if len(text) > LONGEST_CAPTION:
        raise ChatError(f"a caption has at most {LONGEST_CAPTION:,} characters")
    session.captions.setdefault(exchange.id, {})[step.index] = text
    return f"caption at step {step.index}: {text}"


def scene_file(given: str, session: ChatSession) -> Path:
    """The file to record into; raises `SequoiaError` if it cannot be written."""
    session.check_idle()
    name = given or f"sequoia-{time.strftime('%Y%m%d-%H%M%S')}{ENDINGS[-1]}"
    if not name.endswith(ENDINGS):
        raise ChatError(f"the name must end in {' or '.join(ENDINGS)}")
    if not session.history.branch or session.pair is None:
        raise ChatError("nothing to record yet: send a message first")
    if not any(exchange.answer.step_count for exchange in session.history.branch):
        raise ChatError("nothing to record: no answer here has steps")
    return new_file(name)


async def export_scene(path: Path, session: ChatSession, read_steps: ReadSteps) -> str:
    """Write the branch on show with its captions, whole or not at all; returns a note about it."""
    branch = session.history.branch
    title = " ".join(branch[0].prompt.split())
    if len(title) > _LONGEST_TITLE:
        title = title[: _LONGEST_TITLE - 1] + "…"
    scene = SceneInfo(title, processor_name(), branch[-1].started)
    try:
        with _trace_text(path) as file:
            entries = partial(scene_entries, session)
            remark = await write_trace(session, branch, entries, read_steps, file, scene)
    except OSError as error:
        raise ChatError(f"not recorded: {path}: {error.strerror}") from None
    return f"recorded: {path}{remark}; `sequoia replay {path}` plays it"


def scene_entries(
    session: ChatSession, exchange: Exchange, steps: Sequence[Step]
) -> Iterator[Entry]:
    """An exchange as in a trace, with captions."""
    yield Asked(exchange.prompt, exchange.id, exchange.parent, exchange.started)
    at_step: dict[int, list[Caption]] = captions(steps, session.captions.get(exchange.id, {}))
    for event in answer_events(exchange.answer, steps):
        yield event
        if isinstance(event, Step):
            yield from at_step.get(event.index, ())
    if steps:
        yield summary(steps)


@contextmanager
def _trace_text(path: Path) -> Iterator[TextIO]:
    """A file for a trace, compressed if its name says so."""
    if path.suffix != ".gz":
        with text_written_whole(path, private=True) as text:
            yield text
        return
    with written_whole(path, private=True) as stored, gzip.GzipFile("", "wb", 9, stored) as packed:
        text = io.TextIOWrapper(packed, "utf-8", "replace", newline="")
        try:
            yield text
        finally:
            text.detach()
