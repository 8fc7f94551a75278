"""The acceptance-rate vector of a pair over a set of prompts, with intervals.

It is measured by decoding, with a star of children at every step, or statically, by one pass over
texts. Both estimate the same vector if both judge the same text.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from sequoia_core.config import DRAFT_TOP_P, Mode, SamplingParams
from sequoia_core.data.passages import PROMPT_TOKENS, TOTAL_TOKENS, Passage
from sequoia_core.decode.baseline_timer import NoBaseline
from sequoia_core.decode.engine import Engine
from sequoia_core.errors import ParameterError
from sequoia_core.events import Step
from sequoia_core.measure.acceptance import AcceptanceCount
from sequoia_core.measure.draft_nucleus import DraftNucleus
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import MOST_NODES, TreeChoice
from sequoia_core.tree.growmap import GrowMap

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair

ANSWER_TOKENS = TOTAL_TOKENS - PROMPT_TOKENS
JUDGING = 1 << 32
"""Added to a seed."""
RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)
"""Of a rate over resamplings of the prompts: its 95 % interval."""


@dataclass(frozen=True, slots=True)
class AcceptancePlan:
    """How a vector is measured.

    Attributes:
        width: children at every position, `W`.
        params: temperature 0 takes the draft's most probable tokens in order; above it they are
            drawn without replacement. The seed of prompt i is `params.seed + i`.
        draft_top_p: nucleus mass that children are drawn from, 1 and more for all of it, as in the
            release; see `DraftNucleus`.
        tokens: new ones decoded after each prompt.
        static: by one pass over each text instead of decoding.

    Raises:
        ParameterError: a value is out of range.
    """

    width: int = 16
    params: SamplingParams = SamplingParams(seed=17)  # noqa: RUF009  # immutable
    draft_top_p: float = DRAFT_TOP_P
    tokens: int = ANSWER_TOKENS
    static: bool = False

    def __post_init__(self) -> None:
        if not 1 <= self.width < MOST_NODES:
            raise ParameterError(f"width is {self.width}; give 1 to {MOST_NODES - 1}")
        if not self.draft_top_p > 0.0:
            raise ParameterError(
                f"draft top-p is {self.draft_top_p}; give a number above 0 (1 and more keep all)"
            )
        if self.tokens < 1:
            raise ParameterError(f"tokens is {self.tokens}; give at least 1")

    @property
    def nucleus(self) -> DraftNucleus:
        """Makes the samplers."""
        return DraftNucleus(min(self.draft_top_p, 1.0))

    def params_of(self, prompt: int) -> SamplingParams:
        """Sampling of one prompt, each with a seed of its own."""
        seed = None if self.params.seed is None else self.params.seed + prompt
        return replace(self.params, seed=seed, max_new_tokens=self.tokens)

    def cache_tokens(self, passages: Sequence[Passage]) -> int:
        """Tokens that a cache must hold for the longest text, and the tree if there is one."""
        if not self.static:
            return self.width + self.tokens + max(each.prompt for each in passages)
        return max(
            len(each.token_ids) + (self.tokens if len(each.token_ids) <= each.prompt else 0)
            for each in passages
        )


@dataclass(frozen=True, slots=True)
class AcceptanceVector:
    """What was measured.

    Attributes:
        rates: a_1 to a_W.
        rejected: probability that no child is accepted.
        intervals: 95 % bootstrap interval over prompts of each rate; () for a single prompt.
        positions: at which children were judged.
        prompts: that have positions.
    """

    rates: tuple[float, ...]
    rejected: float
    intervals: tuple[tuple[float, float], ...]
    positions: int
    prompts: int

    @classmethod
    def of(cls, counts: Sequence[AcceptanceCount], seed: int = 17) -> AcceptanceVector:
        """From the counts of each prompt, without those of no position.

        Raises:
            ParameterError: no position was judged.
        """
        counts = [each for each in counts if each.positions]
        if not counts:
            raise ParameterError("nothing was judged: every text ends with its prompt")
        accepted = np.array([each.accepted for each in counts])  # [prompts, W]
        positions = np.array([each.positions for each in counts])
        rates = accepted.sum(0) / positions.sum()
        intervals: tuple[tuple[float, float], ...] = ()
        if len(counts) > 1:
            drawn = np.random.default_rng(seed).integers(len(counts), size=(RESAMPLES, len(counts)))
            resampled = accepted[drawn].sum(1) / positions[drawn].sum(1)[:, None]
            low, high = np.percentile(resampled, PERCENTILES, axis=0)
            intervals = tuple(zip(low.tolist(), high.tolist(), strict=True))
        rejected = max(0.0, 1.0 - float(rates.sum()))
        return cls(tuple(rates.tolist()), rejected, intervals, int(positions.sum()), len(counts))


def count_acceptance(
    pair: Pair, passages: Sequence[Passage], plan: AcceptancePlan
) -> Iterator[AcceptanceCount]:
    """One count per passage.

    By decoding, a star of `width` children is drafted after every step. Statically, every position
    after the prompt is judged by one pass of each model; where nothing follows the prompt, as with
    a question, the target first writes an answer plainly.

    Raises:
        ParameterError: the pair has no draft, or its context window is too small.
        GrowMapError: the draft has fewer tokens than the star has children.
    """
    draft = _checked_draft(pair, plan, plan.cache_tokens(passages))
    engine = Engine.of(pair, BundledAdvisor.default({}))
    if plan.static:
        engine.tree_choice = TreeChoice(Mode.AR)
    else:
        engine.clock = NoBaseline()
        star = GrowMap.k_ary([plan.width], name=f"star-{plan.width}")
        engine.tree_choice = TreeChoice(Mode.SEQUOIA, star)
        engine.make_sampler = plan.nucleus.sampler
    for at, passage in enumerate(passages):
        count, params = AcceptanceCount(plan.width), plan.params_of(at)
        if plan.static:
            ids = _text(engine, passage, params)
            sampler = plan.nucleus.sampler(_judging(params), pair.target.device, Mode.SEQUOIA)
            count.count(pair.target, draft, (ids, passage.prompt), sampler)
        else:
            for event in engine.generate(passage.token_ids[: passage.prompt], params):
                if isinstance(event, Step):
                    count.add(_accepted(event, plan.width), 1)
        yield count


def _text(engine: Engine, passage: Passage, params: SamplingParams) -> Sequence[int]:
    if len(passage.token_ids) > passage.prompt:
        return passage.token_ids
    for _ in engine.generate(passage.token_ids, params):
        pass
    return engine.token_ids


def _accepted(step: Step, width: int) -> list[float]:
    found = [0.0] * width
    if len(step.path) > 1:
        found[step.nodes[step.path[1]].rank - 1] = 1.0
    return found


def _judging(params: SamplingParams) -> SamplingParams:
    """Other random numbers than those that the text was written with."""
    return params if params.seed is None else replace(params, seed=params.seed + JUDGING)


def _checked_draft(pair: Pair, plan: AcceptancePlan, tokens: int) -> DraftModel:
    if pair.draft is None:
        raise ParameterError("acceptance is of a pair, and the target has no draft; name one")
    draft = DraftModel(pair.draft, pair.draft_vocab_ids)
    if plan.width > draft.columns:
        raise ParameterError(
            f"width is {plan.width}, but the draft knows only {draft.columns} tokens"
        )
    window = min(pair.target.context_window, pair.draft.context_window)
    if tokens > window:
        raise ParameterError(
            f"the longest text with all that is decoded needs {tokens} tokens, but the context "
            f"window has {window}; take shorter texts"
        )
    return draft
