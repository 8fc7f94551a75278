"""Files of a chat in Markdown, in JSON, or as a trace to replay."""

import asyncio
import json
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, TextIO

from markdown_it import MarkdownIt

from sequoia_core import events
from sequoia_core.errors import counted
from sequoia_core.files import encode, text_written_whole
from sequoia_core.recording.trace_file import (
    Asked,
    Entry,
    SceneInfo,
    write_event,
    write_header,
)

from ...config.paths import output_file
from ...state.answer import GIVEN, Answer, Chosen
from ...state.chat_session import ChatError, ChatSession
from ...state.figures import request_figures, speed_words, tree_size
from ...state.history import Exchange
from ...state.sanitize import one_line, visible
from ...store.database import StoreError

ENDINGS = (".md", ".json", ".jsonl", ".svg")
"""Markdown, JSON, a trace to replay, a picture of the screen."""
_TOTALS = ("tokens", "steps", "baseline_steps", "seconds", "tokens_per_second", "tokens_per_step")
_TREE = ("mode", "growmap", "nodes", "depth")

ReadSteps = Callable[[str], Iterable[events.Step]]
"""Reads the steps of an exchange that the chat does not hold any more; may block."""


def export_file(given: str, session: ChatSession) -> Path:
    """The file that a person named for an export; raises `SequoiaError` if it cannot be."""
    path = Path(given)
    if not given:
        raise ChatError("name a file: /export FILE.md|.json|.jsonl|.svg, or /export tree")
    if path.suffix not in ENDINGS:
        raise ChatError(f"the name must end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
    file = new_file(given)
    if file.suffix != ".svg" and not session.history.exchanges:
        raise ChatError("nothing to export yet: send a message first")
    if file.suffix == ".jsonl" and session.pair is None:
        raise ChatError("the models are still loading, and a trace names them; try again then")
    return file


def new_file(given: str, otherwise: str = "give another name") -> Path:
    """A file that is not there yet; raises `SequoiaError` if it is, or cannot be written."""
    file = output_file(Path(given), private=True)
    assert file is not None
    if file.exists():
        raise ChatError(f"{given} is there already; {otherwise}, or remove it first")
    return file


async def export_chat(path: Path, session: ChatSession, read_steps: ReadSteps) -> str:
    """Write all branches of the chat into a file, whole or not at all; returns a line on it.

    Raises ChatError if it cannot be written.
    """
    remark = ""
    try:
        with text_written_whole(path, private=True) as file:
            if path.suffix == ".jsonl":
                exchanges = list(session.history.exchanges.values())
                remark = await write_trace(session, exchanges, _entries, read_steps, file)
            else:
                make = as_json if path.suffix == ".json" else as_markdown
                # a copy: another exchange may begin meanwhile
                chat = replace(session, history=session.history.copy())
                await asyncio.to_thread(lambda: file.write(make(chat, time.time())))
    except OSError as error:
        raise ChatError(f"no export: {path}: {error.strerror}") from None
    return f"exported: {path}{remark}"


async def write_trace(
    session: ChatSession,
    exchanges: Sequence[Exchange],
    entries: Callable[[Exchange, Sequence[events.Step]], Iterable[Entry]],
    read_steps: ReadSteps,
    file: TextIO,
    scene: SceneInfo | None = None,
) -> str:
    """Write one exchange at a time, so that keys are answered; returns a remark on what it has."""
    assert session.pair is not None
    write_header(file, session.pair, scene)
    steps, missing = 0, 0
    for exchange in exchanges:
        answer = exchange.answer
        count, known = answer.step_count, tuple(answer.steps)
        if answer.done and len(known) < count:  # the record has them
            known = await asyncio.to_thread(_all_steps, read_steps, exchange.id)
        steps, missing = steps + len(known), missing + (len(known) < count)
        await asyncio.to_thread(_write_entries, file, list(entries(exchange, known)))
    gone = f"; of {missing} answers the trees are no longer known" if missing else ""
    return f" ({counted(len(exchanges), 'answer')}, {steps} steps{gone})"


def _all_steps(read_steps: ReadSteps, exchange: str) -> tuple[events.Step, ...]:
    """None if one is damaged, or another version of the program wrote them."""
    with suppress(StoreError):
        return tuple(read_steps(exchange))
    return ()


def _write_entries(file: TextIO, entries: Iterable[Entry]) -> None:
    for entry in entries:
        write_event(file, entry)


# Traces


def _entries(exchange: Exchange, steps: Sequence[events.Step]) -> Iterator[Entry]:
    yield Asked(exchange.prompt, exchange.id, exchange.parent, exchange.started)
    yield from answer_events(exchange.answer, steps)


def answer_events(answer: Answer, steps: Sequence[events.Step]) -> Iterator[events.Event]:
    """The events that an answer was made from, without notices.

    The answer's own steps may have been dropped; of those that `steps` does not hold either there
    is the text without the tree.
    """
    changes: dict[int, list[events.Event]] = {}
    for each in answer.trees:
        changes.setdefault(each.since, []).append(each.tree)
    texts = _texts(answer)
    by_index = {step.index: step for step in steps}
    if answer.start is not None:
        yield answer.start
    yield from changes.pop(1, [])
    if answer.prefill is not None and not isinstance(answer.prefill, events.PrefillProgress):
        yield answer.prefill
    for index in range(max([0, *by_index, *texts]) + 1):  # text of no step is at 0
        yield from changes.pop(index, [])
        # Text held back to the end comes with the last step.
        if index in texts:
            yield texts[index]
        if index in by_index:
            yield by_index[index]
    if answer.failure is not None:
        yield events.Failed(answer.failure)
    elif answer.finished is not None:
        yield answer.finished


def _texts(answer: Answer) -> dict[int, events.TextDelta]:
    """The text by step, as the model wrote it where that can be assigned to the tokens."""
    pieces: dict[int, list[events.Piece]] = {}
    verbatim, at = answer.verbatim, 0
    aligned = sum(len(span.text) for span in answer.spans) == len(verbatim)
    for span in answer.spans:
        text = verbatim[at : at + len(span.text)] if aligned else span.text
        at += len(span.text)
        if span.rank == GIVEN:  # its start has it
            continue
        pieces.setdefault(span.step, []).append(events.Piece(text, span.rank))
    return {
        step: events.TextDelta(step, "".join(piece.text for piece in each), tuple(each))
        for step, each in pieces.items()
    }


# Documents


def as_json(chat: ChatSession, when: float) -> str:
    """One object: every exchange with its text and figures, and the branch on show.

    `when` is in seconds since the epoch.
    """
    document: dict[str, Any] = {
        "format": "sequoia-chat",
        "version": 1,
        "exported": _instant(when),
        "pair": encode(chat.pair) if chat.pair else None,
        "system": chat.settings.system,
        "branch": [each.id for each in chat.history.branch],
        "exchanges": [_exchange(each) for each in chat.history.exchanges.values()],
    }
    return json.dumps(document, ensure_ascii=True, indent=2, allow_nan=False) + "\n"


def _exchange(exchange: Exchange) -> dict[str, Any]:
    answer, figures = exchange.answer, None
    if answer.statistics:
        last = answer.statistics[-1]
        figures = {
            **{name: getattr(last.totals, name) for name in _TOTALS},
            **request_figures(last.totals),
            "speedup": last.speedup,
            "accepted_by_depth": [rate.value for rate in last.by_depth],
            "accepted_by_rank": [rate.value for rate in last.by_rank],
            "trees": [
                {"since": each.since, **{name: getattr(each.tree, name) for name in _TREE}}
                for each in answer.trees
            ],
        }
    return {
        "id": exchange.id,
        "parent": exchange.parent,
        "started": _instant(exchange.started),
        "prompt": exchange.prompt,
        "answer": answer.verbatim,
        "given": answer.given,
        "edited": answer.start is not None and answer.start.edited,
        "settings": answer.start.settings if answer.start else {},
        "finish_reason": answer.finished.reason.value if answer.finished else None,
        "error": answer.failure,
        "figures": figures,
    }


def _instant(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def as_markdown(chat: ChatSession, when: float) -> str:
    """The branch on show with its figures, then the other branches."""
    from jinja2 import Environment, StrictUndefined  # rarely needed

    branch = chat.history.branch
    shown = {each.id for each in branch}
    others = [each for each in chat.history.exchanges.values() if each.id not in shown]
    minute = time.strftime("%Y-%m-%d %H:%M", time.localtime(when))
    jinja = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    jinja.filters.update(counted=counted, inline=_inline, quoted=_quoted)
    jinja.filters.update(closed=_closed, trees=_trees, speed=speed_words)
    source = Path(__file__).with_name("exported.md.jinja").read_text(encoding="utf-8")
    template = jinja.from_string(source)
    return template.render(chat=chat, when=minute, branch=branch, others=others).rstrip() + "\n"


def _quoted(text: str) -> str:
    return "\n".join(f"> {line}".rstrip() for line in visible(text).split("\n"))


def _closed(text: str) -> str:
    """The text with an open code block closed, or it would contain what follows."""
    *_, last = MarkdownIt("commonmark").parse(text + "\n\nend")
    return f"{text}\n{last.markup}" if last.type == "fence" else text


def _trees(trees: Sequence[Chosen]) -> str:
    shapes = (each.tree for each in trees)
    names = (f"{it.growmap}: {tree_size(it)}" if it.nodes > 1 else "plain" for it in shapes)
    return "; ".join(dict.fromkeys(names))


def _inline(text: str, most: int | None = None) -> str:
    """Text as one line without Markdown, of at most so many characters."""
    line = one_line(text)
    line = line if most is None or len(line) <= most else line[: most - 1] + "…"
    return "".join("\\" + char if char in "\\`*_[]<>|#" else char for char in line)
