"""What a benchmark found, in words: for the terminal, for machines, and as a document.

Owns wording and order. No figure of the document is typed by hand: whatever it says was measured
by the run that writes it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sequoia_core.bench import report
from sequoia_core.bench.conditions import prefill_speeds
from sequoia_core.bench.contenders import INSTALL
from sequoia_core.bench.findings import Findings
from sequoia_core.bench.goals import memory_lines, score_lines, scores
from sequoia_core.bench.report import Row
from sequoia_core.bench.runner import Comparison
from sequoia_core.figures import bench_picture
from sequoia_core.files import encode
from sequoia_core.measure.spread import Spread

PACKAGES = (
    "sequoia-chat", "torch", "transformers", "llama-cpp-python", "xllamacpp", "openvino-genai",
    "numpy",
)  # fmt: skip
SYSTEMS_PICTURE = "benchmark-systems.svg"
SIZES_PICTURE = "benchmark-tree-sizes.svg"
LEGEND = """\
Systems take turns prompt by prompt in alternating order, after a warm-up. This engine's systems
share a process; every other one has its own. tokens/s: decoding only, from the end of the first
step, which reads the prompt ("first ms"), to the last token; no system stops early. Median (lowest
to highest) over prompts. ratio: over the first system on the same prompt. tree: nodes x depth.
rest: a step's time outside of both models. same text: prompts whose tokens equal the first
system's; what is sampled differs by the draws.

- sequoia tree: the fixed shape that was predicted to be the fastest on this machine; packaged
  shape: the one that serves until the machine has been measured; adaptive: a new shape each step.
  look-up: continuations found in the conversation are added.
- PyTorch: plain decoding by PyTorch's forward instead of the native library.
- llama.cpp: through llama-cpp-python, compiled on this machine. llama.cpp server: a newer
  llama.cpp, through xllamacpp, as its wheel brings it; by the server's own clock. Both read the
  target's own file; Q4_0 is that file requantised by llama.cpp to its fastest format."""
INTERRUPTED = "This run was interrupted: it holds the prompts that all systems had decoded."


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and how a benchmark was run.

    Attributes:
        machine: processor, cores and memory, one line.
        command: what was typed.
        prompts: what was decoded, one line.
    """

    machine: str
    command: str
    prompts: str


def versions() -> dict[str, str]:
    """Of Python and of every package here that a speed depends on."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def as_values(findings: Findings, setting: Setting) -> dict[str, object]:
    """For JSON: every run, and what follows from them."""
    return {
        "setting": asdict(setting),
        "versions": versions(),
        "pair": encode(findings.pair),
        "threads": findings.threads,
        "comparisons": [
            report.as_values(each, report.rows(each))
            | {"tree_sizes": {size: asdict(speed) for size, speed in sweep.items()}}
            for each, sweep in zip(findings.comparisons, findings.sweeps, strict=True)
        ],
        "goals": [asdict(score) for score in scores(findings)],
        "conditions": {
            name: report.as_values(each, report.rows(each)) if each else None
            for name, each in (
                ("prefill", findings.conditions.prefill),
                ("busy", findings.conditions.busy),
                ("avx2", findings.conditions.avx2),
            )
        },
        "interrupted": findings.interrupted,
        "chat_memory": findings.chat_memory,
        "absent": dict(findings.absent),
        "memory": dict(findings.memory),
        "weights": findings.weights,
    }


def for_terminal(findings: Findings) -> str:
    """Tables, bars of characters and ratios."""
    pair = findings.pair
    lines = [
        f"{pair.target} <- {pair.draft or 'no draft'}, {pair.device} {pair.dtype}, "
        f"{findings.threads} threads",
        findings.tuned,
    ]
    lines += [INTERRUPTED] if findings.interrupted else []
    for comparison, sweep in zip(findings.comparisons, findings.sweeps, strict=True):
        rows = report.rows(comparison)
        sizes = [(f"{size} nodes", speed) for size, speed in sweep.items() if len(sweep) > 1]
        lines += ["", f"{_heading(comparison)}:", "", *_table(comparison, rows), ""]
        lines += [report.bars([(row.name, row.tokens_per_second) for row in rows] + sizes), ""]
    for title, body in _sections(findings):
        lines += [f"{title}:", "", *body, ""]
    return "\n".join([*lines, *score_lines(findings), "", *_absences(findings)])


def write_document(findings: Findings, setting: Setting, file: Path) -> None:
    """Write a Markdown file, and its pictures into `img` beside it if they can be drawn.

    Raises:
        OSError: a file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if bench_picture.can_draw():
        _draw(findings, file.parent / "img")
    file.write_text("\n".join(_document(findings, setting)) + "\n", encoding="utf-8")


def _draw(findings: Findings, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    labels = [f"T = {each.params.temperature:g}" for each in findings.comparisons]
    systems = [
        [(row.name, row.tokens_per_second) for row in report.rows(each)]
        for each in findings.comparisons
    ]
    bench_picture.draw_systems(folder / SYSTEMS_PICTURE, dict(zip(labels, systems, strict=True)))
    bench_picture.draw_sizes(
        folder / SIZES_PICTURE, dict(zip(labels, findings.sweeps, strict=True))
    )


def _document(findings: Findings, setting: Setting) -> Iterator[str]:
    yield from ("# Benchmarks", "", *_preface(findings, setting), "")
    yield from ("## Goals", "", *score_lines(findings), "")
    pictures = bench_picture.can_draw()
    if pictures:
        yield from (f"![Tokens per second by system](img/{SYSTEMS_PICTURE})", "")
    for comparison in findings.comparisons:
        rows = report.rows(comparison)
        yield from (f"## {_heading(comparison)}", "", *_table(comparison, rows), "")
    yield from ("## Speed by the size of a fixed tree", "")
    if pictures:
        yield from (f"![Tokens per second by tree size](img/{SIZES_PICTURE})", "")
    yield from (*_sizes(findings), "")
    for title, body in _sections(findings):
        yield from (f"## {title}", "", *body, "")
    if absences := list(_absences(findings)):
        yield from ("## Not measured", "", *absences)


def _preface(findings: Findings, setting: Setting) -> Iterator[str]:
    pair = findings.pair
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    yield from ("Written by the command below; every figure is of that run.", "")
    yield from ("```", setting.command, "```", "")
    if findings.interrupted:
        yield from (INTERRUPTED, "")
    yield (
        f"- {date.today().isoformat()}, {setting.machine}; {findings.threads} threads for every "
        "system"
    )
    yield f"- {packages}"
    yield (
        f"- {pair.target} <- {pair.draft or 'no draft'}, {pair.device} {pair.dtype}; PyTorch and "
        f"Hugging Face in {findings.peer_dtype or pair.dtype}; {setting.prompts}"
    )
    yield from (f"- {findings.tuned}", "", LEGEND)


def _sections(findings: Findings) -> Iterator[tuple[str, list[str]]]:
    """Heading and lines of every part that was measured, after the comparisons."""
    if ranked := report.ranked_trees(findings.comparisons):
        yield "Which tree", list(_ranking(findings, ranked))
    conditions = findings.conditions
    if conditions.prefill:
        speeds = prefill_speeds(conditions.prefill, conditions.prefill_tokens)
        spreads = {name: Spread.of(each) for name, each in speeds.items()}
        title = f"Reading a prompt of {conditions.prefill_tokens:,} tokens"
        yield title, list(_speed_table(spreads))
    if conditions.busy:
        yield "With a process that keeps one core busy", list(_speeds_of(conditions.busy))
    if conditions.avx2:
        yield "With AVX2 only", list(_speeds_of(conditions.avx2))
    if findings.memory:
        yield "Memory", list(memory_lines(findings.memory, findings.weights))
    if findings.partings:
        yield "Where texts part", [f"- {line}" for line in findings.partings]


def _ranking(findings: Findings, ranked: Sequence[tuple[str, float]]) -> Iterator[str]:
    """This engine's trees over plain decoding, fastest first."""
    labels = [f"T = {each.params.temperature:g}" for each in findings.comparisons]
    yield "| tree | " + " | ".join(f"{label} | tokens/step" for label in labels) + " | mean |"
    yield "|---" * (2 * len(labels) + 2) + "|"
    by_name = [{row.name: row for row in report.rows(each)} for each in findings.comparisons]
    for name, mean in ranked:
        cells = [
            f"{rows[name].ratio.text(2, 'x')} | {rows[name].tokens_per_step:.2f}"
            for rows in by_name
        ]
        yield f"| {name} | " + " | ".join(cells) + f" | {mean:.2f}x |"
    yield ""
    yield "Speed over plain decoding on the same prompt; mean: the geometric one of the medians."


def _speeds_of(comparison: Comparison) -> Iterator[str]:
    rows = report.rows(comparison)
    return _speed_table({row.name: row.tokens_per_second for row in rows})


def _speed_table(speeds: Mapping[str, Spread]) -> Iterator[str]:
    yield "| system | tokens/s |"
    yield "|---|---|"
    yield from (f"| {name} | {speed.text(1)} |" for name, speed in speeds.items())


def _sizes(findings: Findings) -> Iterator[str]:
    """A line per size, a column per way of sampling; one node is plain decoding."""
    heads = [f"tokens/s, T = {each.params.temperature:g}" for each in findings.comparisons]
    yield "| nodes | " + " | ".join(heads) + " |"
    yield "|---" * (len(heads) + 1) + "|"
    for size in findings.sweeps[0]:
        speeds = [sweep[size].text(1) if size in sweep else "" for sweep in findings.sweeps]
        yield f"| {size} | " + " | ".join(speeds) + " |"


def _heading(comparison: Comparison) -> str:
    return f"Temperature {comparison.params.temperature:g}"


def _table(comparison: Comparison, rows: Sequence[Row]) -> tuple[str, ...]:
    prompts = len(next(iter(comparison.runs.values())))
    return (
        f"{prompts} prompts, {comparison.params.max_new_tokens} new tokens; "
        "median (lowest to highest)", "", report.table(rows, prompts),
    )  # fmt: skip


def _absences(findings: Findings) -> Iterator[str]:
    yield from (f"- {name}: {why}" for name, why in findings.absent.items())
    if not bench_picture.can_draw():
        yield f"- pictures: matplotlib is not installed; install it with: {INSTALL}"
