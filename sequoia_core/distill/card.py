"""The model card of a distilled draft: `README.md` in its directory."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sequoia_core.distill.agreement import DraftAgreement
from sequoia_core.distill.draft_figures import ROWS, TEMPERATURE, DraftFigures
from sequoia_core.distill.options import Options
from sequoia_core.errors import counted

UNKNOWN_LICENCE = "not stated in the target's files; see its own page"


@dataclass(frozen=True, slots=True)
class Provenance:
    """How a draft was made.

    Attributes:
        licence: of the target, whose weights the draft's come from.
        layers: of the target, one for each of the draft's; an independent draft began with them.
        conversations: learnt from, and held out.
        tokens: of all text, and of the answers in it.
        loss: on held-out text.
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


def model_card(made: Provenance, figures: DraftFigures, agreement: DraftAgreement) -> str:
    """The card as Markdown."""
    cost = _cost(figures, made.options.bits)
    return "\n".join((_head(made), _making(made), _acceptance(figures, agreement), cost))


def _head(made: Provenance) -> str:
    reads = (
        f"It reads the target's hidden states after layers {_listed(made.feature_layers)}."
        if made.feature_layers
        else "It reads tokens only."
    )
    source = made.options.target
    named = "" if source is None else f"--target {source} "
    began = "at random" if made.feature_layers else f"as the target's {_listed(made.layers)}"
    if made.options.begin_with is not None:
        began = f"as those of the draft {made.options.begin_with}"
    kind = "conditioned" if made.feature_layers else "independent"
    layers = counted(len(made.layers), "layer")
    return (
        f"# A draft for {made.target}\n\n"
        f"Use it with `sequoia {named}--draft THIS_DIRECTORY`; it is of no use without its target."
        f"\n\nKind: {kind}. {reads} It has {layers}, which began {began}, "
        f"the target's own embedding, and an output head of {made.head_rows:,} rows, the "
        "most frequent tokens of the target's answers.\n\n"
        f"Licence: its weights are derived from the target's, whose licence is: {made.licence}\n"
    )


def _making(made: Provenance) -> str:
    options = made.options
    learnt, held_out = made.conversations
    total, answers = made.tokens
    origin = "The target wrote all answers, and the questions"
    origin += f" but for the prompts of {options.data}." if options.data else " as well."
    rows = [
        ("command", f"`{made.command}`"),
        ("conversations", f"{learnt:,} learnt from, {held_out:,} held out"),
        ("tokens", f"{total:,}, of which {answers:,} in answers"),
        ("steps", f"{made.steps:,}"),
        ("loss", f"{options.loss}, {made.loss:.3f} on held-out text"),
        ("seed", f"{options.seed}"),
    ]
    return f"## How it was made\n\n{origin}\n\n{_table(('', ''), rows)}"


def _acceptance(figures: DraftFigures, agreement: DraftAgreement) -> str:
    ranks = [f"{rank}" for rank in range(1, len(figures.greedy) + 1)]
    by_rank = [
        ("temperature 0", *map(_share, figures.greedy)),
        (f"temperature {TEMPERATURE}", *map(_share, figures.stochastic)),
    ]
    depths = range(1, len(agreement.rates) + 1)
    by_depth = [
        (f"{depth}", *map(_share, rates), _share(overlap))
        for depth, rates, overlap in zip(depths, agreement.rates, agreement.overlap, strict=True)
    ]
    note = (
        "Depth 1 holds for every depth: an independent draft sees the same in a tree as in a text."
        if len(by_depth) == 1
        else "Below depth 1 the draft reads its own outputs where the target has not read yet."
    )
    return (
        "## What it is worth\n\n"
        f"Acceptance by child rank, over {figures.positions:,} answer tokens of held-out "
        f"conversations, teacher-forced:\n\n{_table(('', *ranks), by_rank)}\n"
        f"As trained, by depth in a tree, over {agreement.positions:,} such tokens: agreement with "
        "the target's first choice by child rank, and overlap of both distributions at "
        f"temperature 1:\n\n{_table(('depth', *ranks, 'overlap'), by_depth)}\n{note} The best tree "
        f"of 8 nodes is predicted to yield {agreement.tokens_per_step:.2f} tokens per step at "
        "temperature 0.\n"
    )


def _cost(figures: DraftFigures, bits: int) -> str:
    rows = [
        ("draft", *(f"{ms:.2f} ms" for ms in figures.draft_ms)),
        ("target", *(f"{ms:.2f} ms" for ms in figures.target_ms)),
    ]
    heads = ("a pass of", *(counted(count, "row") for count in ROWS))
    return (
        "## What it costs\n\n"
        f"{figures.parameters:,} parameters of its own in {bits} bits. On {figures.machine}:\n\n"
        f"{_table(heads, rows)}"
    )


def stated_licence(source: str | None, settings: Mapping[str, object]) -> str:
    """The licence that the files of a target state: its README or its `config.json`."""
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
