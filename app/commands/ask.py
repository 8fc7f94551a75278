"""`sequoia ask`: one answer on standard output, its figures on standard error."""

import json
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TextIO
from uuid import uuid4

import typer

from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.events import (
    Event,
    Failed,
    Finished,
    FinishReason,
    Notice,
    Origin,
    Step,
    TextDelta,
    Totals,
    TreeChosen,
)
from sequoia_core.recording.replay_engine import recorded
from sequoia_core.recording.trace_file import Asked
from sequoia_core.text.detokenizer import well_formed
from sequoia_core.tree.choice import ADAPTIVE

from ..config import resolve
from ..config.output_files import output_file
from ..engine import build
from .console import progress_line
from .options import with_settings


@dataclass(slots=True)
class AnswerSummary:
    """The text and figures of an answer, from its events."""

    mode: str
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    trees: list[dict[str, Any]] = field(default_factory=list)
    looked_up: int = 0
    steps: int = 0
    reason: FinishReason | None = None
    totals: Totals = field(default_factory=Totals)

    def take(self, event: Event) -> None:
        """Add one event.

        Raises:
            SequoiaError: the answer failed.
        """
        match event:
            case TreeChosen(mode=mode, nodes=nodes, depth=depth):
                self.mode = mode
                adaptive = event.growmap == ADAPTIVE
                shape = {"nodes": nodes, "depth": depth, "adaptive": adaptive}
                self.trees.append({"step": self.steps + 1, **shape})
            case TextDelta(text=text):
                self.text += text
            case Step(token_ids=token_ids):
                self.steps += 1
                self.token_ids += token_ids
                kept = event.path[1 : len(token_ids) + 1]
                self.looked_up += sum(event.nodes[at].origin is Origin.LOOKUP for at in kept)
            case Finished(reason=reason, totals=totals):
                self.reason, self.totals = reason, totals
            case Failed(message=message):
                raise SequoiaError(message)

    @property
    def tree(self) -> dict[str, Any]:
        """The shape it ended with."""
        last = self.trees[-1] if self.trees else {"nodes": 1, "depth": 0, "adaptive": False}
        return {name: last[name] for name in ("nodes", "depth", "adaptive")}

    @property
    def plain_ms(self) -> float | None:
        """Of a token without speculation; None if that was not measured."""
        return 1e3 * self.totals.plain_seconds / self.totals.tokens if self._measured else None

    @property
    def _measured(self) -> bool:
        return self.totals.tokens > 0 and self.totals.plain_seconds > 0

    def as_json(self) -> str:
        """One object on one line."""
        figures: dict[str, Any] = {
            "mode": self.mode,
            "text": self.text,
            "token_ids": self.token_ids,
            "finish_reason": self.reason,
            "tokens": self.totals.tokens,
            "steps": self.totals.steps,
            "baseline_steps": self.totals.baseline_steps,
            "tokens_per_step": self.totals.tokens_per_step,
            "seconds": self.totals.seconds,
            "tokens_per_second": self.totals.tokens_per_second,
            "ar_ms": self.plain_ms,
            "speedup": self.totals.speedup if self._measured else None,
            "growmap": self.tree,
            "growmaps": self.trees,
            "looked_up": self.looked_up,
        }
        return json.dumps(figures, ensure_ascii=False, allow_nan=False)

    def figures(self) -> str:
        """One line of text."""
        totals = self.totals
        nodes, depth = self.tree["nodes"], self.tree["depth"]
        tree = f"tree {nodes} nodes, depth {depth}" if depth else "plain decoding"
        if self.tree["adaptive"]:
            tree = f"adaptive {tree} at most"
        if len(self.trees) > 1:
            tree += f", the last of {len(self.trees)}"
        if self.looked_up:
            tree += f" · {self.looked_up} tokens looked up"
        plain = ""
        if self.plain_ms is not None:
            plain = f"{totals.speedup:.2f}x plain ({self.plain_ms:.1f} ms/token) · "
        return (
            f"{totals.tokens} tokens in {totals.seconds:.2f} s · "
            f"{totals.tokens_per_second:.1f} tokens/s · {totals.tokens_per_step:.2f} tokens/step · "
            f"{plain}{tree}"
        )


def read_prompt(words: Iterable[str], stdin: TextIO) -> str:
    """The words, followed by the text from the pipe.

    Raises:
        ParameterError: there is no text, or the pipe holds something else.
    """
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


@with_settings
def ask(
    ctx: typer.Context,  # noqa: ARG001 read by the decorator
    flags: dict[str, Any],
    prompt: Annotated[
        list[str] | None,
        typer.Argument(help="The question; a pipe adds to it.", show_default=False),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object instead of the text.")
    ] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Nothing on standard error but errors.")
    ] = False,
    trace: Annotated[
        Path | None,
        typer.Option("--trace", metavar="FILE", help="Record it there, for `sequoia replay`."),
    ] = None,
) -> None:
    """Answer one question on standard output."""
    from ..config.load import load_settings

    settings = load_settings(flags)
    params = settings.sampling()
    text = read_prompt(prompt or [], sys.stdin)
    say = _say if not quiet else lambda _line: None
    say(resolve.chosen_models(settings).remark)
    file = output_file(trace, private=True)
    with progress_line(quiet) as progress:
        chat = build.build_chat(settings, progress, insight=settings.insight and file is not None)
    say(chat.description.remark)
    answer = AnswerSummary(settings.mode)
    try:
        events = chat.reply(text, params, lambda: False)
        if file is not None:
            asked = Asked(text, uuid4().hex, None, time.time(), params.temperature)
            events = recorded(file, chat.description, asked, events)
        for event in events:
            if isinstance(event, Notice):
                say(event.message)
            if isinstance(event, TextDelta) and not as_json:
                _stream(event.text)
            answer.take(event)
    finally:
        if not as_json and answer.text and not answer.text.endswith("\n"):
            _stream("\n")
    if as_json:
        _stream(answer.as_json() + "\n")
    else:
        say(answer.figures())


def _stream(text: str) -> None:
    if sys.stdout.isatty():
        from ..state.sanitize import visible

        text = visible(text)
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(line: str) -> None:
    if line:
        from ..state.sanitize import visible

        sys.stderr.write(visible(line) + "\n")
