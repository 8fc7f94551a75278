"""Measures a pair on this machine: times of its forwards, and real decoding with a few trees.

Owns the order of measuring, its prompts and trees. It runs in short slices and can be left after
any of them; what is done is not done again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.data.prompts import PROMPTS
from sequoia_core.decode.baseline_timer import NoBaseline
from sequoia_core.decode.engine import Engine
from sequoia_core.errors import ParameterError
from sequoia_core.events import Step
from sequoia_core.measure.acceptance_stats import FOREVER, AcceptanceRecord
from sequoia_core.measure.calibration import Band, Calibration
from sequoia_core.measure.forward_timings import ForwardTimer, TimeSurface
from sequoia_core.measure.step_cost_model import MachineTimes, RestCosts, drafted_rows
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.text.chat_template import ChatTemplate
from sequoia_core.tree.choice import ROOT, TreeChoice
from sequoia_core.tree.growmap import GrowMap

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair

CONTEXTS = (64, 512, 1024, 2048)
TARGET_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
DRAFT_ROWS = (1, 2, 4, 8, 16, 32)
ROUNDS = 5
TIMING_SECONDS = 9.0
"""After so long no further round of timing is begun."""
DECODING_SECONDS = 12.0
"""After so long no further answer is decoded at a temperature."""
ANSWER_TOKENS = 96
SHAPE_TOKENS = 48
"""Decoded with each tree that is there for its bookkeeping only."""
TEMPERATURE = 0.6
"""Sampled at unless another temperature is chosen."""
WIDE = GrowMap((-1, *[0] * 8, *[1] * 4, 2, 2, 3, 9, 9, 9, 10, 13, 16, 16), "survey")
"""Wide where most is decided, and deep enough to see whether rates hold below."""
SHAPES = (ROOT, GrowMap.k_ary([8]), GrowMap.chain(4))
"""Beside `WIDE`: together they tell what a level costs from what a node costs."""


@dataclass(frozen=True, slots=True)
class _Answer:
    """One answer to decode for its steps."""

    temperature: float
    tree: GrowMap
    prompt: int


class Survey:
    """Everything a calibration needs, measured bit by bit.

    Args:
        pair: the models; measuring uses caches of its own. Without a draft only the target's times
            are measured, which say what looking up costs.
        temperature: to sample at, beside greedy decoding.
    """

    def __init__(self, pair: Pair, temperature: float = TEMPERATURE) -> None:
        self.temperature = temperature
        self._pair = pair
        self._surfaces: tuple[TimeSurface, TimeSurface] | None = None
        self._timer: ForwardTimer | None = None
        self._steps: dict[_Answer, list[Step]] = {}

    def run(self) -> Iterator[tuple[str, float]]:
        """Measure what is not known yet; yields what is being done and which part is done."""
        if self._surfaces is None:
            yield from (("Timing forwards", 0.4 * share) for share in self._time())
        answers = self._answers()
        for at, answer in enumerate(answers):
            if answer not in self._steps and not self._enough(answer):
                steps = []
                for step in self._decode(answer):
                    steps.append(step)
                    yield "Decoding with several trees", 0.4 + 0.6 * at / len(answers)
                self._steps[answer] = steps

    def calibration(self) -> Calibration:
        """What was measured; `run` must have come to its end.

        Raises:
            ParameterError: a tree never fitted into the models' context windows.
        """
        assert self._surfaces is not None
        target, draft = self._surfaces
        if self._pair.draft is None:
            rests = (self._rest(each) for each in (0.0, self.temperature))
            return Calibration.without_draft(MachineTimes(target, draft, *rests))
        records: dict[Band, AcceptanceRecord] = {}
        for answer, steps in self._steps.items():
            band = Band.of(answer.temperature)
            for step in steps:
                if len(step.nodes) > 1:
                    records[band] = records.get(band, AcceptanceRecord()).plus(step, memory=FOREVER)
        if not records:
            raise ParameterError("the context windows leave no room for trees to be measured")
        times = MachineTimes(
            target, draft.scaled(self._draft_ratio(draft)), self._rest(0.0),
            self._rest(self.temperature),
        )  # fmt: skip
        return Calibration(times, records)

    def _time(self) -> Iterator[float]:
        target, draft = self._pair.target, self._pair.draft
        window = min(model.context_window for model in (target, draft) if model is not None)
        rows = tuple(
            tuple(n for n in sizes if n <= max(window // 2, 2))
            for sizes in (TARGET_ROWS, DRAFT_ROWS if draft else ())
        )
        most = rows[0][-1]
        contexts = [c for c in CONTEXTS if c + most <= window] or [window - most]
        if self._timer is None:
            self._timer = ForwardTimer(target, draft, contexts)
        yield from self._timer.run((rows[0], rows[1]), ROUNDS, TIMING_SECONDS)
        self._surfaces = self._timer.surfaces

    def _answers(self) -> list[_Answer]:
        trees = [*((tree, 1) for tree in SHAPES), (WIDE, len(PROMPTS))]
        return [
            _Answer(temperature, tree, prompt)
            for temperature in (0.0, self.temperature)
            for tree, prompts in (trees if self._pair.draft else trees[:1])
            for prompt in range(prompts)
        ]

    def _enough(self, answer: _Answer) -> bool:
        """Whether a slow pair has decoded long enough at the temperature."""
        spent = math.fsum(
            step.timings.total_ms
            for done, steps in self._steps.items()
            if done.temperature == answer.temperature
            for step in steps
        )
        return answer.prompt > 0 and spent > 1e3 * DECODING_SECONDS

    def _decode(self, answer: _Answer) -> Iterator[Step]:
        engine = Engine.of(self._pair, BundledAdvisor.default({}))
        engine.clock = NoBaseline()
        mode = Mode.SEQUOIA if answer.tree.size > 1 else Mode.AR
        engine.tree_choice = TreeChoice(mode, answer.tree)
        tokens = ANSWER_TOKENS if answer.tree is WIDE else SHAPE_TOKENS
        params = SamplingParams(answer.temperature, seed=answer.prompt, max_new_tokens=tokens)
        ids = ChatTemplate(self._pair.tokenizer, None).whole([], PROMPTS[answer.prompt])
        for event in engine.generate(ids, params):
            if isinstance(event, Step):
                yield event

    def _rest(self, temperature: float) -> RestCosts:
        taken: dict[tuple[int, int], list[float]] = {}
        for answer, steps in self._steps.items():
            for step in steps if answer.temperature == temperature else ():
                taken.setdefault(_shape(step), []).append(step.timings.bookkeeping_ms)
        medians = {shape: median(each) for shape, each in taken.items()}
        plain_ms = medians.pop((1, 0))
        if not medians:
            return RestCosts(plain_ms, 0.0, 0.0, plain_ms)
        return RestCosts.fitted(plain_ms, medians)

    def _draft_ratio(self, draft: TimeSurface) -> float:
        """Drafting between verifications over drafting alone: weights leave the caches."""
        return median(
            step.timings.draft_ms
            / math.fsum(map(draft.at(step.context_length), drafted_rows(step)))
            for steps in self._steps.values()
            for step in steps
            if len(step.nodes) > 1
        )


def _shape(step: Step) -> tuple[int, int]:
    return len(step.nodes), max(node.depth for node in step.nodes)
