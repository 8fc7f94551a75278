"""`sequoia ask`: one answer on standard output, its figures on standard error."""

import json
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, TextIO
from uuid import uuid4

import typer

from sequoia_core import events
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.recording.trace_file import Asked, recorded
from sequoia_core.text.detokenizer import well_formed
from sequoia_core.tree.choice import ADAPTIVE

from ..config import model_choice
from ..config.output_files import output_file
from ..config.settings import Settings
from ..engine import build
from .console import progress_line
from .options import ALL_SETTINGS, flag, with_settings


class AnswerSummary:
    """The text and figures of an answer, from its events."""

    def __init__(self, mode: str) -> None:
        self.mode, self.text = mode, ""
        self._token_ids: list[int] = []
        self._trees: list[dict[str, Any]] = []
        self._looked_up = self._steps = 0
        self._reason: events.FinishReason | None = None
        self._totals = events.Totals()

    def take(self, event: events.Event) -> None:
        """Add one event; raises SequoiaError if the answer failed."""
        match event:
            case events.TreeChosen(mode=mode, nodes=nodes, depth=depth):
                self.mode, adaptive = mode, event.growmap == ADAPTIVE
                shape = {"nodes": nodes, "depth": depth, "adaptive": adaptive}
                self._trees.append({"step": self._steps + 1, **shape})
            case events.TextDelta(text=text):
                self.text += text
            case events.Step(token_ids=token_ids):
                self._steps += 1
                self._token_ids += token_ids
                kept = (event.nodes[at] for at in event.path[1 : len(token_ids) + 1])
                self._looked_up += sum(node.origin is events.Origin.LOOKUP for node in kept)
            case events.Finished(reason=reason, totals=totals):
                self._reason, self._totals = reason, totals
            case events.Failed(message=message):
                raise SequoiaError(message)

    @property
    def _tree(self) -> dict[str, Any]:
        """The shape it ended with."""
        last = self._trees[-1] if self._trees else {"nodes": 1, "depth": 0, "adaptive": False}
        return {name: value for name, value in last.items() if name != "step"}

    @property
    def _plain_ms(self) -> float | None:
        """Of a token without speculation; None if that was not measured."""
        totals = self._totals
        measured = totals.tokens > 0 and totals.plain_seconds > 0
        return 1e3 * totals.plain_seconds / totals.tokens if measured else None

    def as_json(self) -> str:
        totals = self._totals
        figures = {
            "mode": self.mode,
            "text": self.text,
            "token_ids": self._token_ids,
            "finish_reason": self._reason,
            "tokens": totals.tokens,
            "steps": totals.steps,
            "baseline_steps": totals.baseline_steps,
            "tokens_per_step": totals.tokens_per_step,
            "seconds": totals.seconds,
            "tokens_per_second": totals.tokens_per_second,
            "ar_ms": self._plain_ms,
            "speedup": None if self._plain_ms is None else totals.speedup,
            "growmap": self._tree,
            "growmaps": self._trees,
            "looked_up": self._looked_up,
        }
        return json.dumps(figures, ensure_ascii=False, allow_nan=False)

    def figures(self) -> str:
        """One line of text."""
        totals, shape, tree = self._totals, self._tree, "plain decoding"
        if shape["depth"]:
            tree = f"tree {shape['nodes']} nodes, depth {shape['depth']}"
        if shape["adaptive"]:
            tree = f"adaptive {tree} at most"
        if len(self._trees) > 1:
            tree += f", the last of {len(self._trees)}"
        parts = [
            f"{totals.tokens} tokens in {totals.seconds:.2f} s",
            f"{totals.tokens_per_second:.1f} tokens/s",
            f"{totals.tokens_per_step:.2f} tokens/step",
        ]
        if self._plain_ms is not None:
            parts.append(f"{totals.speedup:.2f}x plain ({self._plain_ms:.1f} ms/token)")
        parts.append(tree)
        if self._looked_up:
            parts.append(f"{self._looked_up} tokens looked up")
        return " · ".join(parts)


def read_prompt(words: Iterable[str], stdin: TextIO) -> str:
    """The words, followed by the text from the pipe; raises ParameterError if there is no text."""
    parts = [" ".join(words)]
    if well_formed(parts[0]) != parts[0]:
        raise ParameterError("the prompt has a byte that is not UTF-8")
    if not stdin.isatty():
        try:
            parts.append(stdin.buffer.read().decode("utf-8-sig"))
        except UnicodeDecodeError:
            raise ParameterError("what is piped in is not UTF-8 text") from None
    prompt = "\n\n".join(part.strip() for part in parts if part.strip())
    if not prompt:
        raise ParameterError("the prompt is empty; give it as an argument or pipe it in")
    return prompt


@with_settings(*ALL_SETTINGS)
def ask(
    settings: Settings,
    prompt: Annotated[
        list[str] | None,
        typer.Argument(help="The question; a pipe adds to it.", show_default=False),
    ] = None,
    as_json: Annotated[bool, flag("--json", "Print one JSON object instead of the text.")] = False,
    quiet: Annotated[bool, flag("--quiet -q", "Nothing on standard error but errors.")] = False,
    trace: Annotated[
        Path | None, flag("--trace", "Record it there, for `sequoia replay`.", metavar="FILE")
    ] = None,
) -> None:
    """Answer one question on standard output."""

    def say(line: str) -> None:
        if line and not quiet:
            _write(sys.stderr, line + "\n")

    params = settings.sampling()
    text = read_prompt(prompt or [], sys.stdin)
    say(model_choice.chosen_models(settings).remark)
    file = output_file(trace, private=True)
    with progress_line(quiet) as progress:
        chat = build.build_chat(settings, progress, insight=settings.insight and file is not None)
    say(chat.description.remark)
    answer = AnswerSummary(settings.mode)
    try:
        reply = chat.reply(text, params, lambda: False)
        if file is not None:
            asked = Asked(text, uuid4().hex, None, time.time(), params.temperature)
            reply = recorded(file, chat.description, asked, reply)
        for event in reply:
            if isinstance(event, events.Notice):
                say(event.message)
            if isinstance(event, events.TextDelta) and not as_json:
                _write(sys.stdout, event.text)
            answer.take(event)
    finally:
        if not as_json and answer.text and not answer.text.endswith("\n"):
            _write(sys.stdout, "\n")
    if as_json:
        _write(sys.stdout, answer.as_json() + "\n")
    else:
        say(answer.figures())


def _write(stream: TextIO, text: str) -> None:
    if stream is sys.stderr or stream.isatty():
        from ..state.sanitize import visible

        text = visible(text)
    stream.write(text)
    stream.flush()
