"""Measures a pair on this machine: times of its forwards, and decoding with a few trees.

It runs in short slices and can be left after any of them; what is done is not done again.
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
from sequoia_core.measure.step_cost_model import MachineTimes, Overhead, drafted_rows
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
"""After which no further round of timing begins."""
DECODING_SECONDS = 12.0
"""After which no further answer is decoded at a temperature."""
ANSWER_TOKENS = 96
SHAPE_TOKENS = 48
"""Decoded with each of `SHAPES`."""
TEMPERATURE = 0.6
"""Unless another temperature is chosen."""
WIDE = GrowMap((-1, *[0] * 8, *[1] * 4, 2, 2, 3, 9, 9, 9, 10, 13, 16, 16), "calibration")
"""Wide at the root, where most is decided, and deep enough to count deeper rates."""
SHAPES = (ROOT, GrowMap.k_ary([8]), GrowMap.chain(4))
"""With `WIDE` they separate the overhead of a level from that of a node."""


@dataclass(frozen=True, slots=True)
class _Task:
    """An answer to decode."""

    temperature: float
    tree: GrowMap
    prompt: int


class CalibrationRun:
    """Everything a calibration needs, measured in slices.

    Args:
        pair: the models; measuring uses caches of its own. Without a draft only the target is
            timed, for the cost of prompt lookup.
        temperature: to sample at, in addition to greedy decoding.
    """

    def __init__(self, pair: Pair, temperature: float = TEMPERATURE) -> None:
        self.temperature = temperature
        self._pair = pair
        self._surfaces: tuple[TimeSurface, TimeSurface] | None = None
        self._timer: ForwardTimer | None = None
        self._steps: dict[_Task, list[Step]] = {}

    def run(self) -> Iterator[tuple[str, float]]:
        """Measure what is not known yet; yields what is being done and the part done."""
        if self._surfaces is None:
            yield from (("Timing forwards", 0.4 * share) for share in self._time())
        tasks = self._tasks()
        for at, task in enumerate(tasks):
            if task not in self._steps and not self._enough(task):
                steps = []
                for step in self._decode(task):
                    steps.append(step)
                    yield "Decoding with several trees", 0.4 + 0.6 * at / len(tasks)
                self._steps[task] = steps

    def calibration(self) -> Calibration:
        """What was measured; `run` must have ended.

        Raises:
            ParameterError: no tree fitted into the models' context windows.
        """
        assert self._surfaces is not None
        target, draft = self._surfaces
        if self._pair.draft is None:
            overheads = (self._overhead(each) for each in (0.0, self.temperature))
            return Calibration.without_draft(MachineTimes(target, draft, *overheads))
        records: dict[Band, AcceptanceRecord] = {}
        for task, steps in self._steps.items():
            band = Band.of(task.temperature)
            for step in steps:
                if len(step.nodes) > 1:
                    records[band] = records.get(band, AcceptanceRecord()).plus(step, memory=FOREVER)
        if not records:
            raise ParameterError("the context windows leave no room for trees to be measured")
        times = MachineTimes(
            target, draft.scaled(self._draft_ratio(draft)), self._overhead(0.0),
            self._overhead(self.temperature),
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

    def _tasks(self) -> list[_Task]:
        trees = [*((tree, 1) for tree in SHAPES), (WIDE, len(PROMPTS))]
        return [
            _Task(temperature, tree, prompt)
            for temperature in (0.0, self.temperature)
            for tree, prompts in (trees if self._pair.draft else trees[:1])
            for prompt in range(prompts)
        ]

    def _enough(self, task: _Task) -> bool:
        """Whether a slow pair has decoded long enough at the temperature."""
        spent = math.fsum(
            step.timings.total_ms
            for done, steps in self._steps.items()
            if done.temperature == task.temperature
            for step in steps
        )
        return task.prompt > 0 and spent > 1e3 * DECODING_SECONDS

    def _decode(self, task: _Task) -> Iterator[Step]:
        tokens = ANSWER_TOKENS if task.tree is WIDE else SHAPE_TOKENS
        params = SamplingParams(task.temperature, seed=task.prompt, max_new_tokens=tokens)
        return decode_steps(self._pair, task.tree, PROMPTS[task.prompt], params)

    def _overhead(self, temperature: float) -> Overhead:
        taken: dict[tuple[int, int], list[float]] = {}
        for task, steps in self._steps.items():
            for step in steps if task.temperature == temperature else ():
                taken.setdefault(_shape(step), []).append(step.timings.bookkeeping_ms)
        medians = {shape: median(each) for shape, each in taken.items()}
        plain_ms = medians.pop((1, 0))
        if not medians:
            return Overhead(plain_ms, 0.0, 0.0, plain_ms)
        return Overhead.fitted(plain_ms, medians)

    def _draft_ratio(self, draft: TimeSurface) -> float:
        """Drafting between verifications over drafting alone, where weights stay in the caches."""
        return median(
            step.timings.draft_ms
            / math.fsum(map(draft.at(step.context_length), drafted_rows(step)))
            for steps in self._steps.values()
            for step in steps
            if len(step.nodes) > 1
        )


def _shape(step: Step) -> tuple[int, int]:
    return len(step.nodes), max(node.depth for node in step.nodes)


def decode_steps(pair: Pair, tree: GrowMap, prompt: str, params: SamplingParams) -> Iterator[Step]:
    """Answer a prompt with a tree, or plainly if it has one node, and yield the steps."""
    engine = Engine.of(pair, BundledAdvisor.default({}))
    engine.clock = NoBaseline()
    engine.tree_choice = TreeChoice(Mode.SEQUOIA if tree.size > 1 else Mode.AR, tree)
    ids = ChatTemplate(pair.tokenizer, None).whole([], prompt)
    for event in engine.generate(ids, params):
        if isinstance(event, Step):
            yield event
