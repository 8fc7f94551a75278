"""`sequoia bench`: ways to decode, compared on the same prompts."""

import json
import shlex
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from sequoia_core.bench import COUNT, TEMPERATURES, TOKENS, TREE_SIZES, BenchPlan
from sequoia_core.errors import ParameterError
from sequoia_core.events import Progress
from sequoia_core.model.loading.memory_plan import size_text

from ..config import model_choice
from ..config.interrupts import INTERRUPTS
from ..config.paths import output_file
from ..config.settings import Settings
from .console import progress_line, stop
from .doctor import model_memory, processor
from .options import ALL_SETTINGS, MODEL_OPTIONS, option, with_settings
from .terminal import TerminalError, measure_chat_memory

if TYPE_CHECKING:
    from sequoia_core.bench.findings import BenchFindings

SIZES = ",".join(map(str, TREE_SIZES))
_COMPARED = {*MODEL_OPTIONS, "temperature"}
"""Shared options that a comparison uses; the others it sets itself."""
OPTIONS = {
    "prompts": option(str, "JSON (turns, prompt or text) or plain lines; else built-in ones."),
    "count": option(int, "How many prompts.", default=COUNT, min=1),
    "tokens": option(int, "New tokens per prompt.", default=TOKENS, min=16),
    "temperature": option(
        list[float], "0 is greedy; may be repeated. Default: 0 and 0.6.", "NUMBER"
    ),
    "tree_sizes": option(
        str, "Nodes of fixed trees to sweep over; '' for none.", "LIST", default=SIZES
    ),
    "peers": option(bool, "Also time other projects' decoders.", default=True),
    "peer_draft": option(str, "Independent draft for them; default: the pair's.", "MODEL"),
    "memory": option(bool, "Also measure memory.", default=True),
    "conditions": option(
        bool, "Also measure AVX2 alone, a busy machine and a long prompt.", default=True
    ),
    "json_file": option(Path, "Write every run's figures there."),
    "markdown": option(Path, "Write a document with pictures there."),
}


@with_settings(*ALL_SETTINGS, **OPTIONS)
def bench(
    settings: Settings,
    flags: dict[str, Any],
    temperature: list[float] | None,
    tree_sizes: str,
    json_file: Path | None,
    markdown: Path | None,
    **given: Any,
) -> None:
    """Time this engine's ways to decode and other projects' decoders side by side."""
    if idle := [name.replace("_", "-") for name in flags if name not in _COMPARED]:
        raise ParameterError(f"--{idle[0]} does nothing for the comparison; leave it out")
    before = flags.pop("temperature", None)  # given before the command
    temperature = temperature or (None if before is None else [before])
    models = model_choice.chosen_models(settings)
    plan = BenchPlan(
        target=models.target,
        draft=models.draft,
        weights=settings.weights,
        dtype=settings.dtype,
        offload=settings.offload,
        graphs=settings.graphs,
        tensor_parallel=settings.tensor_parallel,
        quantize=settings.quantize,
        context_window=settings.context_window,
        temperatures=tuple(temperature or TEMPERATURES),
        tree_sizes=_sizes(tree_sizes),
        **given,
    )
    _compare(plan, settings, flags, output_file(json_file), output_file(markdown))


def _compare(
    plan: BenchPlan,
    settings: Settings,
    flags: Mapping[str, Any],
    json_file: Path | None,
    markdown: Path | None,
) -> None:
    with progress_line() as progress, _interruptible():
        pair = model_choice.load_chosen(settings, progress)
        from sequoia_core.bench import report, session

        findings = session.measure(pair, plan, progress)
        _measure_chat(findings, plan, flags, progress)
    INTERRUPTS.forget()  # it ended the measuring, and what there is gets written
    typer.echo(report.for_terminal(findings))
    source = "built-in prompts" if plan.prompts is None else f"prompts of {Path(plan.prompts).name}"
    memory = model_memory()
    setting = report.BenchSetting(
        f"{processor()}, {size_text(memory.total)} of {memory.place}",
        shlex.join(["sequoia", *sys.argv[1:]]),
        f"the first {plan.count} {source}",
    )
    if json_file is not None:
        values = report.as_values(findings, setting)
        json_file.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
    if markdown is not None:
        report.write_document(findings, setting, markdown)


def _measure_chat(
    findings: "BenchFindings", plan: BenchPlan, flags: Mapping[str, Any], progress: Progress
) -> None:
    """Add the memory of the whole chat, if memory is wanted; a failure is a line of the report."""
    if not plan.memory or findings.interrupted:
        return
    progress("Measuring memory: the whole chat", None)
    try:
        findings.chat_memory = measure_chat_memory(flags)
    except KeyboardInterrupt:
        findings.interrupted = True
    except TerminalError as error:
        findings.absent["the whole chat, memory"] = str(error)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Treat SIGTERM as Ctrl+C: what was measured is written."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    except KeyboardInterrupt:
        stop("stopped before all systems had decoded a prompt; nothing is kept")
    finally:
        signal.signal(signal.SIGTERM, before)


def _sizes(given: str) -> tuple[int, ...]:
    try:
        return tuple(sorted({int(size) for size in given.split(",") if size.strip()}))
    except ValueError:
        raise ParameterError(
            f"--tree-sizes: {given!r} is no list of numbers, as {SIZES} is"
        ) from None
