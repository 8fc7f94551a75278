"""How good a draft is on held-out text, in training and finished, and its model card."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from jinja2 import StrictUndefined, Template

from sequoia_core.config import SamplingParams
from sequoia_core.decode.step import Sampler
from sequoia_core.distill.corpus import Corpus
from sequoia_core.distill.student import Student
from sequoia_core.distill.train_loop import TrainBatch, mixed_precision
from sequoia_core.errors import counted
from sequoia_core.files import expanded
from sequoia_core.measure.acceptance import Acceptance, Text, acceptance_by_rank, answer_logits
from sequoia_core.measure.timings import ForwardTimer
from sequoia_core.model.device import device_name
from sequoia_core.model.loading.pair import Pair
from sequoia_core.model.tensor_names import DRAFT_VOCAB_IDS
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.tree.search import expected_tokens_table

if TYPE_CHECKING:
    from sequoia_core.distill.pipeline import Trainer

WIDTH = 8  # child ranks that are counted
NODES = 8  # nodes of the tree whose tokens per step are predicted, root included
TEMPERATURES = {"greedy": 0.0, "stochastic": 0.6}
"""At which acceptance is counted, by the names of the rates in `config.json`."""
ROWS = (1, 8)
CONTEXT = 256
ROUNDS = 9
TIMING_SECONDS = 20.0
CARD = Path(__file__).with_name("card.md")
UNKNOWN_LICENCE = "not stated in the target's files; see its own page"


@dataclass(frozen=True, slots=True)
class DraftAgreement:
    """Positional acceptance at temperature 0, and overlap at temperature 1; teacher-forced."""

    rates: tuple[tuple[float, ...], ...]  # [depth][rank], the child is the target's argmax
    overlap: tuple[float, ...]  # by depth, mean of sum min(p, q): of one drawn child
    positions: int  # at the first depth

    @property
    def tokens_per_step(self) -> float:
        """Predicted at temperature 0 for the best tree of 8 nodes."""
        table = expected_tokens_table(self.rates[0], NODES, NODES - 1, WIDTH, self.rates[1:])
        return float(table.values[NODES, NODES - 1])


@torch.inference_mode()
def measure_agreement(
    student: Student, batches: Iterable[TrainBatch], depths: int
) -> DraftAgreement:
    """Evaluate a student so many depths down a tree; an independent one is the same at all."""
    ranks = torch.zeros(depths, WIDTH, dtype=torch.int64)
    positions = torch.zeros(depths, 1, dtype=torch.int64)
    overlap = torch.zeros(depths, dtype=torch.float64)
    for batch in batches:
        with mixed_precision(batch.tokens.device):
            counts = [len(batch.tokens)] * depths
            for depth, state in enumerate(student.unrolled(batch.tokens, batch.features, counts)):
                learnt, columns, probs = batch.learnt_at(depth, state)
                logits = student.head(learnt).float()
                top = logits.topk(WIDTH, -1).indices  # [n, WIDTH]
                ranks[depth] += ((top == columns[:, :1]) & (probs[:, :1] > 0)).sum(0).cpu()
                positions[depth] += len(top)
                q = torch.softmax(logits, -1).gather(-1, columns)
                overlap[depth] += torch.minimum(q, probs).sum().cpu()
    rates = (ranks / positions.clamp(min=1)).tolist()
    overlaps = (overlap / positions[:, 0].clamp(min=1)).tolist()
    return DraftAgreement(tuple(map(tuple, rates)), tuple(overlaps), int(positions[0]))


@dataclass(frozen=True, slots=True)
class DraftFigures:
    rates: Mapping[str, tuple[float, ...]]  # acceptance by child rank, for each of `TEMPERATURES`
    positions: int  # answer tokens that it was counted over
    draft_ms: tuple[float, ...]  # of a forward of each of `ROWS`
    target_ms: tuple[float, ...]
    parameters: int  # of the draft's own tensors, without what it borrows
    machine: str  # that the times hold for


def measure_draft(pair: Pair, student: Student, text: Corpus, seed: int) -> DraftFigures:
    """Measure the draft of a pair, which was the student, on held-out text."""
    rates, positions = accepted(pair, text, seed)
    context = min(CONTEXT, pair.target.context_window - max(ROWS))
    timer = ForwardTimer(pair.target, pair.draft, (context,))
    for _ in timer.run((ROWS, ROWS), ROUNDS, TIMING_SECONDS):
        pass
    target_ms, draft_ms = (surface.at(context).milliseconds for surface in timer.surfaces)
    tensors = student.tensors().items()
    parameters = sum(each.numel() for name, each in tensors if name != DRAFT_VOCAB_IDS)
    machine = device_name(pair.target.device)
    return DraftFigures(rates, positions, draft_ms, target_ms, parameters, machine)


def accepted(pair: Pair, text: Corpus, seed: int) -> tuple[dict[str, tuple[float, ...]], int]:
    """Acceptance by child rank over all answers of a text, and how many tokens they have."""
    assert pair.draft is not None
    draft = DraftModel(pair.draft, pair.draft_vocab_ids)
    samplers = {
        kind: Sampler.of(SamplingParams(temperature, seed=seed), pair.target.device)
        for kind, temperature in TEMPERATURES.items()
    }
    found: dict[str, list[Acceptance]] = {kind: [] for kind in TEMPERATURES}
    for answer in answers(text):
        logits = answer_logits(pair.target, draft, answer)
        for kind, sampler in samplers.items():
            found[kind].append(acceptance_by_rank(logits, draft, sampler, WIDTH))
    judged = {kind: np.concatenate(each) for kind, each in found.items()}
    rates = {kind: tuple(each.mean(0).tolist()) for kind, each in judged.items()}
    return rates, len(judged["greedy"])


def answers(text: Corpus) -> Iterator[Text]:
    """Of each answer the ids of its conversation up to its end, and where it begins."""
    for ids, marks in text:
        bounds = np.flatnonzero(np.diff(marks, prepend=False, append=False)).tolist()
        for begin, end in zip(bounds[::2], bounds[1::2], strict=True):
            if end > 1:  # the first token has no probability
                yield ids[:end].tolist(), max(begin, 1)


def model_card(
    trainer: Trainer, command: str, figures: DraftFigures, agreement: DraftAgreement
) -> str:
    """The model card as Markdown; the command repeats the run."""
    options, target = trainer.options, trainer.target
    card = Template(CARD.read_text("utf-8"), keep_trailing_newline=True, undefined=StrictUndefined)
    text: str = card.render(
        trainer=trainer,
        options=options,
        target=target,
        layers=counted(len(target.layers), "layer"),
        licence=stated_licence(options.target, target.checkpoint.settings),
        command=command,
        figures=figures,
        agreement=agreement,
        temperatures=TEMPERATURES,
        ranks=range(1, WIDTH + 1),
        rows=ROWS,
    )
    return text


def stated_licence(source: str | None, settings: Mapping[str, object]) -> str:
    """The licence that the files of a target state: its README or its `config.json`."""
    if source is None:
        return "Apache-2.0 (SmolLM2-135M-Instruct by Hugging Face)"
    readme = expanded(source) / "README.md"
    try:
        found = re.search(r"^license:\s*(\S+)\s*$", readme.read_text("utf-8"), re.MULTILINE)
    except (OSError, UnicodeDecodeError):
        found = None
    stated = found[1] if found else settings.get("license")
    return stated if isinstance(stated, str) else UNKNOWN_LICENCE
