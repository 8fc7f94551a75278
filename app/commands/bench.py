"""`sequoia bench`: ways to decode, compared on the same prompts."""

import json
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sequoia_core.bench import COUNT, TEMPERATURES, TOKENS, TREE_SIZES, BenchPlan
from sequoia_core.errors import ParameterError
from sequoia_core.events import Progress

from ..config import resolve
from ..config.output_files import output_file
from ..engine import build
from . import machine
from .console import INTERRUPTED, progress_line
from .options import MODEL_OPTIONS, with_settings
from .terminal import TerminalError

if TYPE_CHECKING:
    from sequoia_core.bench.findings import BenchFindings

SCREEN_ROUNDS = 7
SIZES = ",".join(map(str, TREE_SIZES))
COMPARED = {*MODEL_OPTIONS, "temperature"}
"""Shared options that a comparison uses; the others it sets itself."""


@with_settings
def bench(
    ctx: typer.Context,  # noqa: ARG001 read by the decorator
    flags: dict[str, Any],
    prompts: Annotated[
        str | None,
        typer.Option(help="JSON lines (turns, prompt or text) or plain lines; else built-in ones."),
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="How many prompts.")] = COUNT,
    tokens: Annotated[int, typer.Option(min=16, help="New tokens per prompt.")] = TOKENS,
    temperature: Annotated[
        list[float] | None,
        typer.Option(help="0 is greedy; may be repeated. Default: 0 and 0.6.", metavar="NUMBER"),
    ] = None,
    tree_sizes: Annotated[
        str, typer.Option(help="Nodes of fixed trees to sweep over; '' for none.", metavar="LIST")
    ] = SIZES,
    peers: Annotated[
        bool, typer.Option("--peers/--no-peers", help="Also time other projects' decoders.")
    ] = True,
    peer_draft: Annotated[
        str | None,
        typer.Option(help="Independent draft for them; default: the pair's.", metavar="MODEL"),
    ] = None,
    memory: Annotated[
        bool, typer.Option("--memory/--no-memory", help="Also measure memory.")
    ] = True,
    conditions: Annotated[
        bool,
        typer.Option(
            "--conditions/--no-conditions",
            help="Also measure AVX2 alone, a busy machine and a long prompt.",
        ),
    ] = True,
    screen: Annotated[
        bool, typer.Option("--screen", help="Instead, time the chat with and without its screen.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json-file", help="Write every run's figures there.")
    ] = None,
    markdown: Annotated[
        Path | None, typer.Option("--markdown", help="Write a document with pictures there.")
    ] = None,
) -> None:
    """Time this engine's ways to decode and other projects' decoders side by side."""
    if screen:
        _refuse(
            {"peer_draft": peer_draft, "json_file": json_file, "markdown": markdown}, "--screen"
        )
        drawn = {**flags, "max_new_tokens": tokens}
        if temperature:
            drawn["temperature"] = temperature[-1]
        typer.echo(_screen(prompts, count, drawn))
        return
    idle = {name: value for name, value in flags.items() if name not in COMPARED}
    _refuse(idle, "the comparison")
    json_file, markdown = output_file(json_file), output_file(markdown)
    given = flags.pop("temperature", None)
    plan = BenchPlan(
        peer_draft=peer_draft,
        prompts=prompts,
        count=count,
        tokens=tokens,
        temperatures=tuple(temperature or (TEMPERATURES if given is None else (given,))),
        peers=peers,
        memory=memory,
        conditions=conditions,
        tree_sizes=_sizes(tree_sizes),
    )
    _compare(plan, flags, json_file, markdown)


def _compare(
    plan: BenchPlan, flags: Mapping[str, Any], json_file: Path | None, markdown: Path | None
) -> None:
    from dataclasses import replace

    from ..config.load import load_settings

    settings = load_settings(flags)
    models = resolve.chosen_models(settings)
    plan = replace(
        plan,
        target=models.target,
        draft=models.draft,
        weights=settings.weights,
        dtype=settings.dtype,
        offload=settings.offload,
    )
    with progress_line() as progress, _interruptible():
        pair = build.load_chosen(settings, progress)
        from sequoia_core.bench import report, session

        findings = session.measure(pair, plan, progress)
        findings = _with_chat_memory(findings, plan, flags, progress)
    typer.echo(report.for_terminal(findings))
    command = shlex.join(["sequoia", *sys.argv[1:]])
    setting = report.BenchSetting(_machine(), command, _prompts(plan))
    if json_file is not None:
        values = report.as_values(findings, setting)
        json_file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if markdown is not None:
        report.write_document(findings, setting, markdown)


def _with_chat_memory(
    findings: "BenchFindings", plan: BenchPlan, flags: Mapping[str, Any], progress: Progress
) -> "BenchFindings":
    """Measure the whole chat too if memory is wanted; a failure is a line of the report."""
    from dataclasses import replace

    from .chat_memory import measure_chat_memory

    if not plan.memory or findings.interrupted:
        return findings
    progress("Measuring memory: the whole chat", None)
    try:
        return replace(findings, chat_memory=measure_chat_memory(flags))
    except TerminalError as error:
        return replace(findings, absent={**findings.absent, "the whole chat, memory": str(error)})


@contextmanager
def _interruptible() -> Iterator[None]:
    """Treat SIGTERM as Ctrl+C: what was measured is written."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    except KeyboardInterrupt:
        typer.echo(
            "sequoia: stopped before all systems had decoded a prompt; nothing is kept", err=True
        )
        raise typer.Exit(INTERRUPTED) from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _refuse(options: Mapping[str, object], what: str) -> None:
    """Refuse options that would silently do nothing."""
    for name, value in options.items():
        if value is not None:
            raise ParameterError(
                f"--{name.replace('_', '-')} does nothing for {what}; leave it out"
            )


def _sizes(given: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(size) for size in given.split(",") if size.strip()}))
    except ValueError:
        raise ParameterError(
            f"--tree-sizes: {given!r} is no list of numbers, as {SIZES} is"
        ) from None


def _machine() -> str:
    memory = machine.model_memory()
    flags = ", ".join(machine.fast_cpu_flags()) or "no vector extensions known"
    return (
        f"{machine.processor()}, {machine.usable_cores()} cores ({flags}), "
        f"{machine.size_text(memory.total)} of {memory.place}"
    )


def _prompts(plan: BenchPlan) -> str:
    source = "built-in prompts" if plan.prompts is None else f"prompts of {Path(plan.prompts).name}"
    return f"the first {plan.count} {source}"


def _screen(prompts: str | None, count: int, flags: Mapping[str, Any]) -> str:
    with progress_line() as progress:
        from sequoia_core.data.prompts import prompt_texts

        from .screen_bench import measure_screen

        return measure_screen(prompt_texts(prompts, count), flags, SCREEN_ROUNDS, progress)
