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
from sequoia_core.errors import ParameterError, SequoiaError, counted
from sequoia_core.recording.trace_file import Asked, recorded
from sequoia_core.text.detokenizer import well_formed
from sequoia_core.tree.choice import ADAPTIVE

from ..config import model_choice
from ..config.interrupts import INTERRUPTS
from ..config.paths import output_file
from ..config.settings import Settings
from ..state.answer import Answer
from ..state.figures import figures, request_figures, tree_size
from ..state.sanitize import visible
from .console import progress_line
from .options import ALL_SETTINGS, flag, with_settings


def figures_json(answer: Answer) -> str:
    assert answer.finished is not None
    totals, chosen = answer.finished.totals, answer.trees[-1].tree
    plain_ms = _plain_ms(totals)
    figures = {
        "mode": chosen.mode,
        "text": answer.verbatim,
        "token_ids": list(answer.token_ids),
        "finish_reason": answer.finished.reason,
        "tokens": totals.tokens,
        "steps": totals.steps,
        "baseline_steps": totals.baseline_steps,
        "tokens_per_step": totals.tokens_per_step,
        "seconds": totals.seconds,
        "tokens_per_second": totals.tokens_per_second,
        "ar_ms": plain_ms,
        "speedup": None if plain_ms is None else totals.speedup,
        **request_figures(totals),
        "growmap": _shape(chosen),
        "growmaps": [{"step": each.since, **_shape(each.tree)} for each in answer.trees],
        "looked_up": _looked_up(answer),
    }
    return json.dumps(figures, ensure_ascii=False, allow_nan=False)


def figures_line(answer: Answer) -> str:
    """Its figures for a person."""
    assert answer.finished is not None
    totals, chosen, tree = answer.finished.totals, answer.trees[-1].tree, "plain decoding"
    if chosen.depth:
        tree = f"{'adaptive ' if chosen.growmap == ADAPTIVE else ''}tree, {tree_size(chosen)}"
    if len(answer.trees) > 1:
        tree += f", the last of {len(answer.trees)}"
    parts = figures(totals, None if _plain_ms(totals) is None else totals.speedup)
    parts += [f"{counted(totals.tokens, 'token')} in {totals.seconds:.2f} s", tree]
    if looked_up := _looked_up(answer):
        parts.append(f"{counted(looked_up, 'token')} looked up")
    return " · ".join(parts)


def _shape(tree: events.TreeChosen) -> dict[str, Any]:
    return {"nodes": tree.nodes, "depth": tree.depth, "adaptive": tree.growmap == ADAPTIVE}


def _plain_ms(totals: events.Totals) -> float | None:
    """Of a token without speculation; None if that was not measured."""
    plain = totals.plain_seconds_per_token
    return 1e3 * plain if plain > 0 else None


def _looked_up(answer: Answer) -> int:
    """Emitted tokens that prompt lookup proposed."""
    kept = (
        step.nodes[at] for step in answer.steps for at in step.path[1 : len(step.token_ids) + 1]
    )
    return sum(node.origin is events.Origin.LOOKUP for node in kept)


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
        chat = model_choice.build_chat(
            settings, progress, insight=settings.insight and file is not None
        )
    say(chat.description.remark)
    answer = Answer(text)
    try:
        reply = chat.reply(text, params, lambda: False)
        if file is not None:
            asked = Asked(text, uuid4().hex, None, time.time(), params.temperature)
            reply = recorded(file, chat.description, asked, reply)
        for event in reply:
            INTERRUPTS.check()
            if isinstance(event, events.Notice):
                say(event.message)
            if isinstance(event, events.TextDelta) and not as_json:
                _write(sys.stdout, event.text)
            answer.add(event)
    finally:
        written = answer.verbatim
        if not as_json and written and not written.endswith("\n"):
            _write(sys.stdout, "\n")
    if answer.failure is not None:
        raise SequoiaError(answer.failure)
    if as_json:
        _write(sys.stdout, figures_json(answer) + "\n")
    else:
        say(figures_line(answer))


def _write(stream: TextIO, text: str) -> None:
    if stream is sys.stderr or stream.isatty():
        text = visible(text)
    stream.write(text)
    stream.flush()
