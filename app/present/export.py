"""A chat as a file: Markdown to read, JSON for programs, a trace to replay."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from markdown_it import MarkdownIt

from sequoia_core.errors import counted
from sequoia_core.events import (
    Event,
    Failed,
    PairDescription,
    Piece,
    PrefillProgress,
    Step,
    TextDelta,
    TreeChosen,
)
from sequoia_core.files import encode
from sequoia_core.recording.trace_file import Asked

from ..state.answer import Answer
from ..state.history import Exchange, History
from ..state.sanitize import visible

JSON_FORMAT = "sequoia-chat"
JSON_VERSION = 1
_QUOTED = 60


@dataclass(frozen=True, slots=True)
class ExportedChat:
    """What is exported.

    Attributes:
        pair: the models, or None before they are loaded.
        history: every exchange.
        when: of the export, seconds since the epoch.
    """

    pair: PairDescription | None
    history: History
    when: float

    @property
    def name(self) -> str:
        """The name of the model."""
        return self.pair.target if self.pair else "Answer"


def asked(exchange: Exchange) -> Asked:
    """The prompt of an exchange as a trace records it."""
    return Asked(exchange.prompt, exchange.id, exchange.parent, exchange.started)


def answer_events(answer: Answer, steps: Sequence[Step]) -> Iterator[Event]:
    """The events that an answer was made from, without notices.

    Args:
        answer: its own steps may have been dropped.
        steps: all its steps; of missing ones there is the text without the tree.
    """
    changes: dict[int, list[Event]] = {}
    for each in answer.trees:
        changes.setdefault(each.since, []).append(each.tree)
    texts = _texts(answer)
    by_index = {step.index: step for step in steps}
    last = max([0, *by_index, *texts])
    yield from changes.pop(1, [])
    if answer.prefill is not None and not isinstance(answer.prefill, PrefillProgress):
        yield answer.prefill
    for index in range(1, last + 1):
        yield from changes.pop(index, [])
        # Text held back to the end comes with the last step.
        if index in texts:
            yield texts[index]
        if index in by_index:
            yield by_index[index]
    if answer.failure is not None:
        yield Failed(answer.failure)
    elif answer.finished is not None:
        yield answer.finished


def _texts(answer: Answer) -> dict[int, TextDelta]:
    """The text by step, as the model wrote it where that can be assigned to the tokens."""
    pieces: dict[int, list[Piece]] = {}
    verbatim, at = answer.verbatim, 0
    aligned = sum(len(span.text) for span in answer.spans) == len(verbatim)
    for span in answer.spans:
        text = verbatim[at : at + len(span.text)] if aligned else span.text
        at += len(span.text)
        pieces.setdefault(span.step, []).append(Piece(text, span.rank))
    return {
        step: TextDelta(step, "".join(piece.text for piece in each), tuple(each))
        for step, each in pieces.items()
    }


# JSON


def as_json(chat: ExportedChat) -> str:
    """One object: every exchange with its text and figures, and the branch on show."""
    document: dict[str, Any] = {
        "format": JSON_FORMAT,
        "version": JSON_VERSION,
        "exported": _instant(chat.when),
        "pair": encode(chat.pair) if chat.pair else None,
        "branch": [each.id for each in chat.history.branch],
        "exchanges": [_exchange(each) for each in chat.history.exchanges.values()],
    }
    return json.dumps(document, ensure_ascii=True, indent=2, allow_nan=False) + "\n"


def _exchange(exchange: Exchange) -> dict[str, Any]:
    answer = exchange.answer
    return {
        "id": exchange.id,
        "parent": exchange.parent,
        "started": _instant(exchange.started),
        "prompt": exchange.prompt,
        "answer": answer.verbatim,
        "finish_reason": answer.finished.reason.value if answer.finished else None,
        "error": answer.failure,
        "figures": _figures(answer),
    }


def _figures(answer: Answer) -> dict[str, Any] | None:
    if not answer.statistics:
        return None
    last = answer.statistics[-1]
    totals = last.totals
    return {
        "tokens": totals.tokens,
        "steps": totals.steps,
        "baseline_steps": totals.baseline_steps,
        "seconds": totals.seconds,
        "tokens_per_second": totals.tokens_per_second,
        "tokens_per_step": totals.tokens_per_step,
        "speedup": last.speedup,
        "accepted_by_depth": [rate.value for rate in last.by_depth],
        "accepted_by_rank": [rate.value for rate in last.by_rank],
        "trees": [
            {"since": each.since, "mode": each.tree.mode, "growmap": each.tree.growmap,
             "nodes": each.tree.nodes, "depth": each.tree.depth}
            for each in answer.trees
        ],
    }  # fmt: skip


def _instant(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


# Markdown


def as_markdown(chat: ExportedChat) -> str:
    """The branch on show with its figures, then the other branches."""
    branch = chat.history.branch
    shown = {each.id for each in branch}
    others = [each for each in chat.history.exchanges.values() if each.id not in shown]
    parts = [f"# Chat with {_inline(chat.name)}", _about(chat, len(branch), len(others))]
    for exchange in branch:
        parts += _section(chat, exchange, "##")
    if any(each.answer.statistics for each in branch):
        parts += ["## Figures", _table(branch)]
    if others:
        parts.append("## Other branches")
        for exchange in others:
            before = chat.history.before(exchange)
            after = f"After {_quoted(before[-1].prompt)}:" if before else "At the beginning:"
            parts += [after, *_section(chat, exchange, "###")]
    return "\n\n".join(parts) + "\n"


def _about(chat: ExportedChat, shown: int, others: int) -> str:
    when = time.strftime("%Y-%m-%d %H:%M", time.localtime(chat.when))
    parts = [f"Exported {when}", counted(shown, "answer")]
    if others:
        parts[-1] += f", {others} more on other branches"
    if chat.pair:
        draft = f"draft {chat.pair.draft}" if chat.pair.draft else "no draft"
        parts += [draft, f"{chat.pair.device} {chat.pair.dtype}"]
    return f"*{_inline(' · '.join(parts))}*"


def _section(chat: ExportedChat, exchange: Exchange, heading: str) -> list[str]:
    siblings = chat.history.siblings(exchange)
    place = f" ({siblings.index(exchange) + 1} of {len(siblings)})" if len(siblings) > 1 else ""
    prompt = "\n".join(f"> {line}".rstrip() for line in visible(exchange.prompt).split("\n"))
    answer = exchange.answer
    parts = [f"{heading} You{place}", prompt, f"{heading} {_inline(chat.name)}"]
    parts.append(_closed(answer.text.strip()) or "*(no text)*")
    if answer.failure is not None:
        parts.append(f"*failed: {_inline(answer.failure)}*")
    if not answer.done:
        parts.append("*(still being written when this was exported)*")
    if footer := answer.footer():
        parts.append(f"*{footer}*")
    return parts


def _closed(text: str) -> str:
    """The text with an open code block closed, or it would contain what follows."""
    *_, last = MarkdownIt("commonmark").parse(text + "\n\nend")
    return f"{text}\n{last.markup}" if last.type == "fence" else text


def _table(branch: Sequence[Exchange]) -> str:
    rows = [
        ("answer", "tokens", "steps", "seconds", "tokens/s", "tokens/step", "x plain", "tree"),
        ("--:", "--:", "--:", "--:", "--:", "--:", "--:", ":--"),
    ]
    for number, exchange in enumerate(branch, start=1):
        answer = exchange.answer
        if not answer.statistics:
            continue
        last = answer.statistics[-1]
        totals = last.totals
        rows.append((
            str(number), str(totals.tokens), str(totals.steps), f"{totals.seconds:.2f}",
            f"{totals.tokens_per_second:.1f}", f"{totals.tokens_per_step:.2f}",
            f"{last.speedup:.2f}" if last.speedup is not None else "–",
            ", ".join(dict.fromkeys(_tree(each.tree) for each in answer.trees)) or "–",
        ))  # fmt: skip
    meaning = (
        "x plain: the time that the tokens would have taken in plain steps, over the time they "
        "took; about one step in thirty is decoded plainly to know it, and is left out of "
        "tokens/step."
    )
    return "\n".join("| " + " | ".join(row) + " |" for row in rows) + f"\n\n*{meaning}*"


def _tree(tree: TreeChosen) -> str:
    if tree.nodes <= 1:
        return "plain"
    return _inline(f"{tree.growmap} {tree.nodes}x{tree.depth}")


def _quoted(text: str) -> str:
    line = " ".join(visible(text).split())
    line = line if len(line) <= _QUOTED else line[: _QUOTED - 1] + "…"
    return f"“{_inline(line)}”"


def _inline(text: str) -> str:
    """Text as one line without Markdown."""
    line = " ".join(visible(text).split())
    return "".join("\\" + char if char in "\\`*_[]<>|#" else char for char in line)
