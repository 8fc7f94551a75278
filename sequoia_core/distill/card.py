"""The model card of a distilled draft: `README.md` in its directory.

Owns the wording. Every figure comes in as a value; where the target's licence comes from is its own
files' affair. Knows nothing of how drafts are made.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sequoia_core.distill.agreement import Agreement
from sequoia_core.distill.measured import ROWS, TEMPERATURE, Measured
from sequoia_core.distill.options import Options

UNKNOWN_LICENCE = "not stated in the target's files; see its own page"


@dataclass(frozen=True, slots=True)
class Story:
    """How a draft came to be.

    Attributes:
        target: the target's name.
        licence: of the target, which the draft's weights come from.
        command: the command line.
        options: in full.
        layers: of the target, those an independent draft began with; as many as it has.
        feature_layers: those whose hidden states it reads.
        head_rows: of its output head.
        conversations: learnt from, and held out.
        tokens: of all text, and of the answers in it.
        steps: of the optimiser.
        loss: on the text that was held out.
    """

    target: str
    licence: str
    command: str
    options: Options
    layers: Sequence[int]
    feature_layers: Sequence[int]
    head_rows: int
    conversations: tuple[int, int]
    tokens: tuple[int, int]
    steps: int
    loss: float


def model_card(story: Story, measured: Measured, agreed: Agreement) -> str:
    """The card as Markdown.

    Args:
        story: how it was made.
        measured: what it is worth with the decoder's own code.
        agreed: agreement by depth, of the student as trained.
    """
    cost = _cost(measured, story.options.bits)
    return "\n".join((_head(story), _making(story), _worth(measured, agreed), cost))


def _head(story: Story) -> str:
    reads = (
        f"It reads the target's hidden states after layers {_listed(story.feature_layers)}."
        if story.feature_layers
        else "It reads tokens only."
    )
    source = story.options.target
    named = "" if source is None else f"--target {source} "
    began = "at random" if story.feature_layers else f"as the target's {_listed(story.layers)}"
    if story.options.begin_with is not None:
        began = f"as those of the draft {story.options.begin_with}"
    kind = "conditioned" if story.feature_layers else "independent"
    layers = f"{len(story.layers)} layer{'s' * (len(story.layers) > 1)}"
    return (
        f"# A draft for {story.target}\n\n"
        f"Use it with `sequoia {named}--draft THIS_DIRECTORY`; it is of no use without its target."
        f"\n\nKind: {kind}. {reads} It has {layers}, which began {began}, "
        f"the target's own embedding, and an output head of {story.head_rows:,} rows, the "
        "most frequent tokens of the target's answers.\n\n"
        f"Licence: its weights are derived from the target's, whose licence is: {story.licence}\n"
    )


def _making(story: Story) -> str:
    options = story.options
    learnt, held_out = story.conversations
    total, answers = story.tokens
    origin = "The target wrote all answers, and the questions"
    origin += f" but for the prompts of {options.data}." if options.data else " as well."
    rows = [
        ("command", f"`{story.command}`"),
        ("conversations", f"{learnt:,} learnt from, {held_out:,} held out"),
        ("tokens", f"{total:,}, of which {answers:,} in answers"),
        ("steps", f"{story.steps:,}"),
        ("loss", f"{options.loss}, {story.loss:.3f} on held-out text"),
        ("seed", f"{options.seed}"),
    ]
    return f"## How it was made\n\n{origin}\n\n{_table(('', ''), rows)}"


def _worth(measured: Measured, agreed: Agreement) -> str:
    ranks = [f"{rank}" for rank in range(1, len(measured.greedy) + 1)]
    by_rank = [
        ("temperature 0", *map(_share, measured.greedy)),
        (f"temperature {TEMPERATURE}", *map(_share, measured.stochastic)),
    ]
    depths = range(1, len(agreed.rates) + 1)
    by_depth = [
        (f"{depth}", *map(_share, rates), _share(overlap))
        for depth, rates, overlap in zip(depths, agreed.rates, agreed.overlap, strict=True)
    ]
    note = (
        "Depth 1 holds for every depth: an independent draft sees the same in a tree as in a text."
        if len(by_depth) == 1
        else "Below depth 1 the draft reads its own outputs where the target has not read yet."
    )
    return (
        "## What it is worth\n\n"
        f"Acceptance by child rank, over {measured.positions:,} answer tokens of held-out "
        f"conversations, teacher-forced:\n\n{_table(('', *ranks), by_rank)}\n"
        f"As trained, by depth in a tree, over {agreed.positions:,} such tokens: agreement with "
        "the target's first choice by child rank, and overlap of both distributions at "
        f"temperature 1:\n\n{_table(('depth', *ranks, 'overlap'), by_depth)}\n{note} The best tree "
        f"of 8 nodes is predicted to yield {agreed.tokens_per_step:.2f} tokens per step at "
        "temperature 0.\n"
    )


def _cost(measured: Measured, bits: int) -> str:
    rows = [
        ("draft", *(f"{ms:.2f} ms" for ms in measured.draft_ms)),
        ("target", *(f"{ms:.2f} ms" for ms in measured.target_ms)),
    ]
    heads = ("a pass of", *(f"{count} row{'s' * (count > 1)}" for count in ROWS))
    return (
        "## What it costs\n\n"
        f"{measured.parameters:,} parameters of its own in {bits} bits. On {measured.machine}:\n\n"
        f"{_table(heads, rows)}"
    )


def stated_licence(source: str | None, settings: Mapping[str, object]) -> str:
    """The licence that a target's files state.

    Args:
        source: what the target was called; None is the embedded one.
        settings: its `config.json`.
    """
    if source is None:
        return "Apache-2.0 (SmolLM2-135M-Instruct by Hugging Face)"
    readme = Path(source).expanduser() / "README.md"
    try:
        found = re.search(r"^license:\s*(\S+)\s*$", readme.read_text("utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        found = None
    if found:
        return found[1]
    stated = settings.get("license")
    return stated if isinstance(stated, str) else UNKNOWN_LICENCE


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _share(value: float) -> str:
    return f"{value:.3f}"


def _listed(layers: Sequence[int]) -> str:
    return ", ".join(map(str, layers))
