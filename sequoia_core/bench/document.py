"""What a benchmark found, in words: for the terminal, for machines, and as a document.

Owns wording and order. No figure of the document is typed by hand: whatever it says was measured
by the run that writes it.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sequoia_core.bench import plot, report
from sequoia_core.bench.goals import memory_lines, scores
from sequoia_core.bench.lineup import INSTALL
from sequoia_core.bench.report import Row
from sequoia_core.bench.runner import Comparison
from sequoia_core.bench.session import Findings

PACKAGES = (
    "sequoia-chat", "torch", "transformers", "llama-cpp-python", "openvino-genai", "numpy",
)  # fmt: skip
SYSTEMS_PICTURE = "benchmark-systems.svg"
SIZES_PICTURE = "benchmark-tree-sizes.svg"
LEGEND = """\
Systems take turns prompt by prompt in alternating order, after a warm-up. tokens/s: decoding only,
from the end of the first step, which reads the prompt ("first ms"), to the last token; no system
stops early. Median (lowest to highest) over prompts. ratio: over the first system on the same
prompt. tree: nodes x depth. rest: a step's time outside of both models. same text: prompts whose
tokens equal the first system's; what is sampled differs by the draws."""


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
        "pair": asdict(findings.pair),
        "threads": findings.threads,
        "comparisons": [
            report.as_values(each, report.rows(each))
            | {
                "goals": [asdict(score) for score in scores(each)],
                "tree_sizes": {size: asdict(speed) for size, speed in sweep.items()},
            }
            for each, sweep in zip(findings.comparisons, findings.sweeps, strict=True)
        ],
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
    for comparison, sweep in zip(findings.comparisons, findings.sweeps, strict=True):
        rows = report.rows(comparison)
        sizes = [(f"{size} nodes", speed) for size, speed in sweep.items() if len(sweep) > 1]
        lines += ["", f"{_heading(comparison)}:", "", *_table(comparison, rows), ""]
        lines += [report.bars([(row.name, row.tokens_per_second) for row in rows] + sizes), ""]
        lines += [score.text() for score in scores(comparison)]
    return "\n".join([*lines, "", *_closing(findings)])


def write_document(findings: Findings, setting: Setting, file: Path) -> None:
    """Write a Markdown file, and its pictures into `img` beside it if they can be drawn.

    Raises:
        OSError: a file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if plot.can_draw():
        _draw(findings, file.parent / "img")
    file.write_text("\n".join(_document(findings, setting)) + "\n", encoding="utf-8")


def _draw(findings: Findings, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    labels = [f"T = {each.params.temperature:g}" for each in findings.comparisons]
    systems = [
        [(row.name, row.tokens_per_second) for row in report.rows(each)]
        for each in findings.comparisons
    ]
    plot.draw_systems(folder / SYSTEMS_PICTURE, dict(zip(labels, systems, strict=True)))
    plot.draw_sizes(folder / SIZES_PICTURE, dict(zip(labels, findings.sweeps, strict=True)))


def _document(findings: Findings, setting: Setting) -> Iterator[str]:
    pair = findings.pair
    packages = ", ".join(f"{name} {number}" for name, number in versions().items())
    yield from (
        "# Benchmarks", "",
        "Written by the command below; every figure is of that run.", "",
        "```", setting.command, "```", "",
        f"- {date.today().isoformat()}, {setting.machine}; {findings.threads} threads for every "
        "system",
        f"- {packages}",
        f"- {pair.target} <- {pair.draft or 'no draft'}, {pair.device} {pair.dtype}; "
        f"{setting.prompts}",
        f"- {findings.tuned}", "", LEGEND, "",
    )  # fmt: skip
    pictures = plot.can_draw()
    if pictures:
        yield from (f"![Tokens per second by system](img/{SYSTEMS_PICTURE})", "")
    for comparison in findings.comparisons:
        rows = report.rows(comparison)
        yield from (f"## {_heading(comparison)}", "", *_table(comparison, rows), "")
        yield from (f"- {score.text()}" for score in scores(comparison))
        yield ""
    yield from ("## Speed by the size of a fixed tree", "")
    if pictures:
        yield from (f"![Tokens per second by tree size](img/{SIZES_PICTURE})", "")
    yield from (*_sizes(findings), "", "## Memory, texts, absences", "", *_closing(findings))


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


def _closing(findings: Findings) -> Iterator[str]:
    if findings.memory:
        yield from (*memory_lines(findings.memory, findings.weights), "")
    yield from (f"- {line}" for line in findings.partings)
    yield from (f"- {name}: not measured: {why}" for name, why in findings.absent.items())
    if not plot.can_draw():
        yield f"- no pictures: matplotlib is not installed; install it with: {INSTALL}"
