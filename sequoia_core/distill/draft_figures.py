"""Acceptance and speed of a finished draft, measured with the code that decodes with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path

from sequoia_core.config import SamplingParams
from sequoia_core.decode.step import Sampler
from sequoia_core.distill.corpus import Corpus
from sequoia_core.errors import ParameterError
from sequoia_core.measure.acceptance import AcceptanceCount
from sequoia_core.measure.forward_timings import ForwardTimer
from sequoia_core.model.device import device_name
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.loading.pair import Pair
from sequoia_core.model.weight_shapes import DRAFT_VOCAB_IDS
from sequoia_core.speculate.draft import DraftModel

WIDTH = 8
"""Child ranks that are counted."""

TEMPERATURE = 0.6
POSITIONS = 1500
"""After so many no further conversation is judged."""

ROWS = (1, 8)
CONTEXT = 256
ROUNDS = 9
TIMING_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class DraftFigures:
    """Figures of a draft on held-out conversations.

    Attributes:
        greedy: acceptance by child rank at temperature 0.
        stochastic: the same at `TEMPERATURE`, drawn without replacement.
        positions: answer tokens that both were counted over.
        draft_ms: milliseconds of a forward of each of `ROWS`.
        target_ms: the target's.
        parameters: of the draft's own tensors, without what it borrows.
        machine: that the times hold for.
    """

    greedy: tuple[float, ...]
    stochastic: tuple[float, ...]
    positions: int
    draft_ms: tuple[float, ...]
    target_ms: tuple[float, ...]
    parameters: int
    machine: str


def measure_draft(pair: Pair, folder: Path, text: Corpus, seed: int) -> DraftFigures:
    """Measure the draft of a pair, whose files lie in `folder`, on held-out text.

    Raises:
        ParameterError: there is no answer in the text.
    """
    assert pair.draft is not None
    greedy, positions = accepted(pair, text, SamplingParams(0.0, seed=seed))
    stochastic, _ = accepted(pair, text, SamplingParams(TEMPERATURE, seed=seed))
    context = min(CONTEXT, pair.target.context_window - max(ROWS))
    timer = ForwardTimer(pair.target, pair.draft, (context,))
    for _ in timer.run((ROWS, ROWS), ROUNDS, TIMING_SECONDS):
        pass
    target_ms, draft_ms = (surface.at(context).milliseconds for surface in timer.surfaces)
    weights = open_directory(folder).weights
    return DraftFigures(
        greedy=greedy,
        stochastic=stochastic,
        positions=positions,
        draft_ms=draft_ms,
        target_ms=target_ms,
        parameters=sum(prod(weights.shape(name)) for name in weights if name != DRAFT_VOCAB_IDS),
        machine=device_name(pair.target.device),
    )


def accepted(pair: Pair, text: Corpus, params: SamplingParams) -> tuple[tuple[float, ...], int]:
    """Acceptance by child rank over the first answers of a text, and the number of positions.

    Raises:
        ParameterError: there is no answer in the text.
    """
    assert pair.draft is not None
    count = AcceptanceCount(WIDTH)
    draft = DraftModel(pair.draft, pair.draft_vocab_ids)
    sampler = Sampler.of(params, pair.target.device)
    for ids, prompt in first_answers(text):
        if count.positions < POSITIONS:
            count.count(pair.target, draft, (ids, prompt), sampler)
    if not count.positions:
        raise ParameterError("no answer was held out; generate more text")
    return count.rates, count.positions


def first_answers(text: Corpus) -> Iterable[tuple[Sequence[int], int]]:
    """Of each conversation the ids up to the end of its first answer, and where that begins."""
    for index in range(text.conversations):
        span = text.span(index)
        answers = text.answers[span].tolist()
        if True in answers[1:]:
            begin = answers.index(True, 1)
            end = answers.index(False, begin) if False in answers[begin:] else len(answers)
            yield text.tokens[span][:end].tolist(), begin
