"""A benchmark's findings as text for the terminal, as JSON values and as a Markdown document."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from operator import attrgetter
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from sequoia_core.bench.findings import BenchFindings, ranked_trees, ratio, speeds, summarize
from sequoia_core.bench.runs import Run, SpeedComparison
from sequoia_core.bench.systems import INSTALL
from sequoia_core.figures import charts
from sequoia_core.files import encode
from sequoia_core.measure.spread import Spread

PACKAGES = (
    "sequoia-chat", "torch", "transformers", "llama-cpp-python", "xllamacpp", "openvino-genai",
    "numpy",
)  # fmt: skip
BY_SYSTEM, BY_SIZE = "Tokens per second by system", "Tokens per second by tree size"
INTERRUPTED = "This run was interrupted: it holds the prompts that all systems had decoded."
BAR_WIDTH = 40
_EIGHTHS = " ▏▎▍▌▋▊▉"


@dataclass(frozen=True, slots=True)
class BenchSetting:
    """Where and how a benchmark was run, a line each."""

    machine: str
    command: str
    prompts: str


def versions() -> dict[str, str]:
    """Of Python and of every installed package that a speed depends on."""
    found = {"Python": platform.python_version()}
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def as_values(findings: BenchFindings, setting: BenchSetting) -> dict[str, object]:
    """For JSON: every run, and the statistics."""

    def values(comparison: SpeedComparison) -> dict[str, object]:
        return {
            "params": encode(comparison.params),
            "rows": encode(summarize(comparison)),
            "runs": encode(comparison.runs),
        }

    made = {"prefill": findings.prefill, "busy": findings.busy, "avx2": findings.avx2}
    return {
        "setting": encode(setting),
        "versions": versions(),
        "pair": encode(findings.pair),
        "threads": findings.threads,
        "comparisons": [
            values(each) | {"tree_sizes": encode(each.sizes)} for each in findings.comparisons
        ],
        "conditions": {name: values(each) if each else None for name, each in made.items()},
        "interrupted": findings.interrupted,
        "chat_memory": findings.chat_memory,
        "absent": dict(findings.absent),
        "memory": dict(findings.memory),
        "weights": findings.weights,
    }


def for_terminal(findings: BenchFindings) -> str:
    lines = [f"{_pair(findings)}, {findings.threads} threads", findings.tuned]
    lines += [INTERRUPTED] if findings.interrupted else []
    for title, body in _sections(findings):
        lines += ["", f"{title}:", "", *body]
    for comparison in findings.comparisons:
        drawn = speeds(comparison)
        if len(comparison.sizes) > 1:
            drawn |= {f"{size} nodes": speed for size, speed in comparison.sizes.items()}
        lines += ["", f"Tokens/s, {comparison.label}:", "", bars(drawn)]
    return "\n".join(lines)


def bars(shown: Mapping[str, Spread]) -> str:
    """Median tokens/s as bars of characters, for a terminal."""
    longest = max(speed.middle for speed in shown.values())
    width = max(map(len, shown))
    lines = []
    for name, speed in shown.items():
        eighths = round(speed.middle / longest * BAR_WIDTH * 8)
        bar = ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).strip()
        lines.append(f"{name:<{width}}  {bar:<{BAR_WIDTH}}  {speed.middle:.1f}")
    return "\n".join(lines)


def write_document(findings: BenchFindings, setting: BenchSetting, file: Path) -> None:
    """Write a Markdown file, and its pictures into `img` next to it if they can be drawn.

    Raises OSError if a file cannot be written.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    if charts.can_draw():
        folder = file.parent / "img"
        folder.mkdir(exist_ok=True)
        systems = list(findings.comparisons[0].runs)
        found = {each.label: [*speeds(each).values()] for each in findings.comparisons}
        axis = "tokens/s, median with lowest and highest"
        pictures = _pictures(findings, file.stem)
        charts.draw_bars(folder / pictures[BY_SYSTEM], systems, found, axis)
        if BY_SIZE in pictures:
            sizes = {each.label: each.sizes for each in findings.comparisons}
            charts.draw_sizes(folder / pictures[BY_SIZE], sizes)
    file.write_text(document(findings, setting, file.stem), encoding="utf-8")


def _pictures(findings: BenchFindings, stem: str) -> dict[str, str]:
    """File names by title, after the document's own."""
    if not charts.can_draw():
        return {}
    pictures = {BY_SYSTEM: f"{stem}-systems.svg"}
    if _has_sizes(findings):
        pictures[BY_SIZE] = f"{stem}-tree-sizes.svg"
    return pictures


def _has_sizes(findings: BenchFindings) -> bool:
    return len(findings.comparisons[0].sizes) > 1


def document(findings: BenchFindings, setting: BenchSetting, stem: str) -> str:
    """As Markdown, with the pictures that `write_document` draws for a file of this stem."""
    source = Path(__file__).with_name("document.md").read_text(encoding="utf-8")
    jinja = Environment(trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    text = jinja.from_string(source).render(
        findings=findings,
        setting=setting,
        pair=_pair(findings),
        versions=versions(),
        today=date.today(),
        interrupted=INTERRUPTED,
        pictures=_pictures(findings, stem),
        systems="; ".join(findings.comparisons[0].runs),
        sections=_sections(findings),
    )
    return text.rstrip() + "\n"


def _sections(findings: BenchFindings) -> Iterator[tuple[str, list[str]]]:
    """Heading and lines of every part that was measured, and why others were not."""
    for comparison in findings.comparisons:
        yield f"Temperature {comparison.params.temperature:g}", _systems(comparison)
    if _has_sizes(findings):
        yield "Speed by the size of a fixed tree", _sizes(findings)
    if ranked := ranked_trees(findings.comparisons):
        yield "Which tree", _ranking(findings, ranked)
    if findings.prefill:
        length = findings.prefill_tokens
        reading = _speed_table(findings.prefill, lambda run: length / run.first_seconds)
        yield f"Reading a prompt of {length:,} tokens", reading
    if findings.busy:
        yield "With a process that keeps one core busy", _speed_table(findings.busy)
    if findings.avx2:
        yield "With AVX2 only", _speed_table(findings.avx2)
    if findings.memory or findings.chat_memory:
        yield "Memory", _memory(findings)
    if findings.divergences:
        yield "Where texts differ", [f"- {line}" for line in findings.divergences]
    absent = dict(findings.absent)
    if not charts.can_draw():
        absent["pictures"] = f"matplotlib is not installed; install it with: {INSTALL}"
    if absent:
        yield "Not measured", [f"- {name}: {why}" for name, why in absent.items()]


def _ranking(findings: BenchFindings, ranked: Sequence[tuple[str, float]]) -> list[str]:
    """This engine's trees over plain decoding, fastest first."""
    heads = [head for each in findings.comparisons for head in (each.label, "tokens per pass")]
    by_name = [{row.name: row for row in summarize(each)} for each in findings.comparisons]
    rows = []
    for name, mean in ranked:
        found = [summaries[name] for summaries in by_name]
        cells = [(each.ratio.text(2, "x"), f"{each.tokens_per_step:.2f}") for each in found]
        rows.append([name, *(cell for both in cells for cell in both), f"{mean:.2f}x"])
    note = "Speed over plain decoding on the same prompt; mean: the geometric one of the medians."
    return [*_table(["tree", *heads, "mean"], rows), "", note]


def _speed_table(
    comparison: SpeedComparison, speed: Callable[[Run], float] = attrgetter("tokens_per_second")
) -> list[str]:
    baseline = next(iter(comparison.runs.values()))
    rows = [
        (name, Spread.of([*map(speed, runs)]).text(1), ratio(runs, baseline, speed).text(2, "x"))
        for name, runs in comparison.runs.items()
    ]
    return _table(["system", "tokens/s", "ratio"], rows)


def _memory(findings: BenchFindings) -> list[str]:
    held = dict(findings.memory)
    if findings.chat_memory is not None:
        held["the chat with its screen, after an answer"] = findings.chat_memory
    note = (
        "Peak memory of a process of its own, interpreter and libraries included. Both models' "
        f"weights in bfloat16 are {findings.weights / 1e6:.0f} MB."
    )
    rows = [(name, f"{size / 1e6:.0f} MB") for name, size in held.items()]
    return [note, "", *_table(["system", "memory"], rows)]


def _sizes(findings: BenchFindings) -> list[str]:
    """A line per size, a column per way of sampling; one node is plain decoding."""
    heads = [f"tokens/s, {each.label}" for each in findings.comparisons]
    found = [each.sizes for each in findings.comparisons]
    rows = [
        [f"{size}", *(each[size].text(1) if size in each else "" for each in found)]
        for size in found[0]
    ]
    return _table(["nodes", *heads], rows)


def _systems(comparison: SpeedComparison) -> list[str]:
    prompts = len(next(iter(comparison.runs.values())))
    heads = (
        "system", "tokens/s", "ratio", "tokens per pass", "first ms", "tree", "draft ms",
        "target ms", "rest ms", "rest", "same text",
    )  # fmt: skip
    rows = []
    for row in summarize(comparison):
        times = ["", "", "", ""]
        if (parts := row.parts) is not None:
            rest = parts.bookkeeping_ms
            times = [f"{each:.2f}" for each in (parts.draft_ms, parts.verify_ms, rest)]
            times.append(f"{rest / parts.total_ms:.1%}")
        rows.append([
            row.name, row.tokens_per_second.text(1), row.ratio.text(2, "x"),
            f"{row.tokens_per_step:.2f}", f"{row.first_ms:.0f}", row.tree, *times,
            f"{row.same_text} of {prompts}",
        ])  # fmt: skip
    tokens = comparison.params.max_new_tokens
    note = f"{prompts} prompts, {tokens} new tokens; median (lowest to highest)"
    return [note, "", *_table(heads, rows)]


def _pair(findings: BenchFindings) -> str:
    pair = findings.pair
    return f"{pair.target} <- {pair.draft or 'no draft'}, {pair.device} {pair.dtype}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a Markdown table."""
    head, *body = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return [head, "|---" * len(heads) + "|", *body]
