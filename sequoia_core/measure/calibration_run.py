"""Measures a pair on this machine: times of its forwards, and decoding with a few trees."""

import math
from collections import defaultdict
from collections.abc import Iterator
from statistics import median

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.data.prompts import PROMPTS
from sequoia_core.decode.engine import Engine
from sequoia_core.errors import ContextFullError, ParameterError
from sequoia_core.events import Step
from sequoia_core.measure.calibration import FOREVER, AcceptanceRecord, Band, Calibration
from sequoia_core.measure.timings import ForwardTimer, MachineTimes, Overhead, drafted_rows
from sequoia_core.model.graphs import Rung, row_bucket
from sequoia_core.model.loading.pair import Pair
from sequoia_core.model.recorded import graphs_of
from sequoia_core.speculate.baseline_timer import NoBaseline
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.text.chat_template import ChatTemplate
from sequoia_core.tree.choice import ROOT, TreeChoice
from sequoia_core.tree.growmap import GrowMap

CONTEXTS = (64, 512, 1024, 2048)
TARGET_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 128)
DRAFT_ROWS = (1, 2, 4, 8, 16, 32)
GPU_TARGET_ROWS, GPU_DRAFT_ROWS = (192, 256, 384, 512, 768), (64, 128, 256)
"""On a GPU as well, as far as they pay and memory is planned for them."""
MOST_TOKENS = 16.0  # a forward that takes so many plain ones does not pay: the paper emits 11.7
SLOW_MS = 1000.0  # a GPU's forward that takes so long brings layers: few sizes tell its time
SLOW_ROWS = (1, 8, 32, 128, 384, 768)
ROUNDS = 5
TIMING_SECONDS = 9.0  # after which no further round of timing begins
DECODING_SECONDS = 12.0  # after which no further answer is decoded at a temperature
ANSWER_TOKENS = 96
SHAPE_TOKENS = 48  # decoded with each of `SHAPES`
TEMPERATURE = 0.6  # unless another temperature is chosen
WIDE = GrowMap((-1, *[0] * 8, *[1] * 4, 2, 2, 3, 9, 9, 9, 10, 13, 16, 16), "calibration")
"""Wide at the root, where most is decided, and deep enough to count deeper rates."""
SHAPES = (ROOT, GrowMap.k_ary([8]), GrowMap.chain(4))
"""With `WIDE` they separate the overhead of a level from that of a node."""

_NO_ROOM = "the context window leaves no room for trees to be measured; take a larger one"


class CalibrationRun:
    """Everything a calibration needs, at temperature 0 and at another, with caches of its own.

    It can be left after any slice; what is done is not done again. Of a pair without a draft only
    the target is timed, for the cost of prompt lookup.
    """

    def __init__(self, pair: Pair, temperature: float = TEMPERATURE) -> None:
        self.temperature = temperature
        self._pair = pair
        self._steps: dict[float, list[Step]] = {0.0: [], temperature: []}  # by temperature
        self._answers = 0  # whose steps these are
        window = min(model.context_window for model in (pair.target, pair.draft) if model)
        self._on_gpu = pair.target.device.type == "cuda"
        sizes = [TARGET_ROWS, DRAFT_ROWS]
        if self._on_gpu:
            large = tuple(n for n in GPU_TARGET_ROWS if n <= pair.most_nodes)
            sizes = [TARGET_ROWS + large, DRAFT_ROWS + GPU_DRAFT_ROWS]
        rows = [[n for n in each if n <= max(window // 2, 2)] for each in sizes]
        self._rows = rows[0], rows[1] if pair.draft else []
        most = rows[0][-1]
        self._contexts = [c for c in CONTEXTS if c + most <= window] or [window - most]
        self._probe = ForwardTimer(pair.target, None, self._contexts[:1])
        self._timer: ForwardTimer | None = None  # once it is known what to time
        self._timed = False

    def run(self) -> Iterator[tuple[str, float]]:
        """Measure what is not known yet; yields what is being done and the part done.

        Raises ParameterError if the context window does not hold an answer.
        """
        if not self._timed:
            if self._timer is None:
                yield from (("Timing forwards", 0.0) for _ in self._choose_rows())
                self._timer = ForwardTimer(self._pair.target, self._pair.draft, self._contexts)
            for share in self._timer.run(self._rows, ROUNDS, TIMING_SECONDS):
                yield "Timing forwards", 0.4 * share
            self._timed = True
        trees = [*((tree, 1) for tree in SHAPES), (WIDE, len(PROMPTS))]
        tasks = [
            (temperature, tree, prompt)
            for temperature in (0.0, self.temperature)
            for tree, prompts in (trees if self._pair.draft else trees[:1])
            for prompt in range(prompts)
        ]
        for temperature, tree, prompt in tasks[self._answers :]:
            spent = math.fsum(step.timings.total_ms for step in self._steps[temperature])
            steps = []
            if prompt == 0 or spent <= 1e3 * DECODING_SECONDS:
                tokens = ANSWER_TOKENS if tree is WIDE else SHAPE_TOKENS
                params = SamplingParams(temperature, seed=prompt, max_new_tokens=tokens)
                for step in decode_steps(self._pair, tree, PROMPTS[prompt], params):
                    steps.append(step)
                    yield "Decoding with several trees", 0.4 + 0.6 * self._answers / len(tasks)
            self._steps[temperature] += steps
            self._answers += 1

    def _choose_rows(self) -> Iterator[float]:
        """Leave out what is not worth timing on a GPU, by one forward of each larger size."""
        rows, drafted = self._rows
        probed = [n for n in rows if n == 1 or n >= TARGET_ROWS[-1]]
        if not self._on_gpu or len(probed) == 1:
            return
        yield from self._probe.run((probed, []), 1, 0.0)
        times = self._probe.surfaces[0].curves[0]
        if times(1) > SLOW_MS:
            rows, self._contexts = [n for n in rows if n in SLOW_ROWS], self._contexts[:1]
        most = MOST_TOKENS * times(1)
        self._rows = [n for n in rows if n < probed[1] or times(n) < most], drafted
        graphs = graphs_of(self._pair.target)
        if graphs is not None and graphs.rung > Rung.EAGER:
            # more than are kept would be recorded anew in each round, and that would be timed
            sizes = sum(len(set(map(row_bucket, each))) for each in self._rows)
            kept = max(graphs.most // sizes, 1)
            self._contexts = self._contexts[:: -(-len(self._contexts) // kept)]

    def calibration(self) -> Calibration:
        """What `run` measured; raises ParameterError if no tree fitted into the windows."""
        assert self._timer is not None
        target, draft = self._timer.surfaces
        records: defaultdict[Band, AcceptanceRecord] = defaultdict(AcceptanceRecord)
        ratios = []
        for temperature, steps in self._steps.items():
            band = Band.of(temperature)
            for step in (each for each in steps if len(each.nodes) > 1):
                records[band] = records[band].plus(step, memory=FOREVER)
                alone = math.fsum(map(draft.at(step.context_length), drafted_rows(step)))
                ratios.append(step.timings.draft_ms / alone)
        if self._pair.draft is not None and not records:
            raise ParameterError(_NO_ROOM)
        if ratios:  # alone, a draft's weights stay in the processor's caches
            draft = draft.scaled(median(ratios))
        overheads = self._overhead(0.0), self._overhead(self.temperature)
        times = MachineTimes(target, draft, *overheads)
        return Calibration(times, dict(records)) if records else Calibration.without_draft(times)

    def _overhead(self, temperature: float) -> Overhead:
        taken: defaultdict[tuple[int, int], list[float]] = defaultdict(list)
        for step in self._steps[temperature]:
            shape = len(step.nodes), max(node.depth for node in step.nodes)
            taken[shape].append(step.timings.bookkeeping_ms)
        medians = {shape: median(each) for shape, each in taken.items()}
        plain_ms = medians.pop((1, 0))
        if not medians:
            return Overhead(plain_ms, 0.0, 0.0, plain_ms)
        return Overhead.fitted(plain_ms, medians)


def decode_steps(pair: Pair, tree: GrowMap, prompt: str, params: SamplingParams) -> Iterator[Step]:
    """Answer a prompt with a tree, or plainly if it has one node, and yield the steps."""
    engine = Engine.of(pair, BundledAdvisor({}))
    engine.clock = NoBaseline()
    engine.tree_choice = TreeChoice(Mode.SEQUOIA if tree.size > 1 else Mode.AR, tree)
    ids = ChatTemplate(pair.tokenizer, None).whole([], prompt)
    try:
        for event in engine.generate(ids, params):
            if isinstance(event, Step):
                yield event
    except ContextFullError:
        raise ParameterError(_NO_ROOM) from None
