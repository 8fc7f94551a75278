"""Learns which tree fits a pair on this machine, in slices between answers, and advises by it.

Owns the order of measuring and its prompts. What is measured is kept on disk per pair, so it is
done once; a packaged tree serves until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from statistics import median
from typing import TYPE_CHECKING

from sequoia_core.chat_template import ChatTemplate
from sequoia_core.config import Mode, SamplingParams
from sequoia_core.draft import DraftModel
from sequoia_core.engine import Engine
from sequoia_core.events import Event, Notice, NoticeKind, Step
from sequoia_core.measure.acceptance import AcceptanceCount
from sequoia_core.measure.calibration import Calibration, load_calibration, save_calibration
from sequoia_core.measure.times import TimeCurve, time_forwards
from sequoia_core.protocols import TreeChoice
from sequoia_core.speculator import Sampler
from sequoia_core.trees import Advice, BundledAdvisor, StepCosts

if TYPE_CHECKING:
    from sequoia_core.pair import Pair

CONTEXT = 256
TARGET_ROWS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64)
DRAFT_ROWS = (1, 2, 4, 8, 16)
REPEATS = 7
WIDTH = 8
ANSWER_TOKENS = 64
TEMPERATURE = 0.6
PROMPTS = (
    "Why do the leaves of many trees turn red in autumn?",
    "Write a short letter to a landlord who has not repaired the heating.",
    "Explain to a beginner what a variable is in a programming language.",
    "What should I pack for three days of walking in the mountains?",
    "Tell me a story about a lighthouse keeper and a lost dog.",
    "List the main differences between a virus and a bacterium.",
)


class Tuner:
    """Measures a pair and names trees for it; a `trees.TreeAdvisor`.

    Args:
        pair: models to measure. Measuring uses caches of its own.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._bundled = BundledAdvisor.default(pair.acceptance_rates)
        self._calibration = load_calibration(pair.fingerprint)
        self._advice: dict[tuple[bool, bool], Advice] = {}
        self._texts: list[tuple[SamplingParams, list[int], int]] = []

    @property
    def measured(self) -> bool:
        """Whether figures of this pair on this machine are at hand."""
        return self._calibration is not None

    def advise(self, temperature: float, context_length: int, chain: bool) -> Advice:
        """The measured choice, or a packaged tree while nothing has been measured."""
        if self._calibration is None:
            return self._bundled.advise(temperature, context_length, chain)
        key = (temperature == 0.0, chain)
        if key not in self._advice:
            self._advice[key] = self._calibration.advise(*key)
        return self._advice[key]

    def observe(self, step: Step, temperature: float, chain: bool) -> Advice | None:
        """See `trees.TreeAdvisor`."""
        return self._bundled.observe(step, temperature, chain)

    def costs(self, temperature: float, context_length: int) -> StepCosts | None:
        """See `trees.TreeAdvisor`."""
        return self._bundled.costs(temperature, context_length)

    def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """Measure what is not known yet, as long as nobody waits.

        Yields one `Notice` when the figures are complete.
        """
        if self._calibration is not None or self._pair.draft is None:
            return
        for _ in self.measure():
            if should_stop():
                return
        yield Notice(NoticeKind.CALIBRATION, self.summary())

    def summary(self) -> str:
        """One line on what the figures predict."""
        if self._calibration is None:
            return "not measured: decoding plainly, since the target has no draft"
        parts = []
        for label, temperature in (("temperature 0", 0.0), ("sampling", TEMPERATURE)):
            advice = self.advise(temperature, 0, False)
            shape = advice.growmap
            tree = f"{shape.size} nodes, depth {shape.depth}" if shape else "plain decoding"
            parts.append(f"{label}: {tree}, predicted {advice.predicted_speedup or 1.0:.2f}x")
        return "measured this machine; " + "; ".join(parts)

    def measure(self) -> Iterator[tuple[str, float]]:
        """Measure everything anew and keep it; yields what is being done and which part is done.

        Texts already written are not written again if this is called after a broken-off run.
        """
        draft, draft_ids = self._pair.draft, self._pair.draft_vocab_ids
        if draft is None:
            return
        subjects = [(self._pair.target, TARGET_ROWS), (draft, DRAFT_ROWS)]
        curves: tuple[TimeCurve, ...] = ()
        for latest in time_forwards(subjects, CONTEXT, REPEATS):
            curves = latest
            yield "Timing forwards of both models", 0.05
        yield from self._write_texts()
        greedy, stochastic = AcceptanceCount(WIDTH), AcceptanceCount(WIDTH)
        for params, ids, prompt in self._texts:
            counter = stochastic if params.temperature else greedy
            sampler = Sampler.of(params, self._pair.target.device)
            counter.count(self._pair.target, DraftModel(draft, draft_ids), (ids, prompt), sampler)
            yield "Counting accepted tokens", 0.85
        costs: dict[Mode, list[float]] = {}
        for mode in (Mode.AR, Mode.SEQUOIA):
            costs[mode] = []
            for step in self._steps(mode):
                costs[mode].append(step.timings.bookkeeping_ms)
                yield "Timing bookkeeping", 0.95
        overhead_ms = max(median(costs[Mode.SEQUOIA]) - median(costs[Mode.AR]), 0.0)
        self._calibration = Calibration(
            target=curves[0],
            draft=curves[1],
            overhead_ms=overhead_ms,
            context=CONTEXT,
            greedy=greedy.rates,
            stochastic=stochastic.rates,
            greedy_positions=greedy.positions,
            stochastic_positions=stochastic.positions,
        )
        self._advice.clear()
        save_calibration(self._pair.fingerprint, self._calibration)

    def _write_texts(self) -> Iterator[tuple[str, float]]:
        """Let the target answer the prompts plainly, greedily and sampled."""
        engine = self._engine(TreeChoice(Mode.AR))
        wanted = [(temperature, prompt) for prompt in PROMPTS for temperature in (0.0, TEMPERATURE)]
        for at in range(len(self._texts), len(wanted)):
            temperature, prompt = wanted[at]
            params = SamplingParams(temperature, seed=at, max_new_tokens=ANSWER_TOKENS)
            ids = self._prompt_ids(prompt)
            for _ in engine.generate(ids, params):
                yield "Reading the target's own text", 0.1 + 0.7 * at / len(wanted)
            if len(engine.token_ids) > len(ids):
                self._texts.append((params, list(engine.token_ids), len(ids)))

    def _steps(self, mode: Mode) -> Iterator[Step]:
        """Steps of one answer, plain or with the packaged tree."""
        growmap = self._bundled.advise(TEMPERATURE, CONTEXT, False).growmap
        engine = self._engine(TreeChoice(mode, growmap))
        params = SamplingParams(TEMPERATURE, seed=0, max_new_tokens=ANSWER_TOKENS)
        for event in engine.generate(self._prompt_ids(PROMPTS[0]), params):
            if isinstance(event, Step):
                yield event

    def _prompt_ids(self, prompt: str) -> list[int]:
        return ChatTemplate(self._pair.tokenizer, None).whole([], prompt)

    def _engine(self, choice: TreeChoice) -> Engine:
        engine = Engine.of(self._pair, self._bundled)
        engine.tree_choice = choice
        return engine
