"""Learns which tree fits a pair on this machine, in slices between answers, and advises by it.

Owns when a pair is measured and when what was learnt is kept. What is measured is kept on disk per
pair, so it is done once; a packaged tree serves until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from sequoia_core.events import Event, Notice, NoticeKind, Step
from sequoia_core.measure.calibration import Calibration, load_calibration, save_calibration
from sequoia_core.measure.calibration_run import TEMPERATURE, Survey
from sequoia_core.measure.online_advisor import TYPICAL_CONTEXT, OnlineAdvisor
from sequoia_core.model.malloc_trim import return_freed_memory
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.speculate.tree_advisor import Advice, BundledAdvisor, TreeAdvisor

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair


class Tuner:
    """Measures a pair and names trees for it; a `trees.TreeAdvisor`.

    Args:
        pair: models to measure. Measuring uses caches of its own.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._bundled = BundledAdvisor.default(pair.acceptance_rates)
        self._kept: Calibration | None = None
        self._online: OnlineAdvisor | None = None
        self._survey: Survey | None = None
        self._take_up()

    @property
    def measured(self) -> bool:
        """Whether figures of this pair on this machine are at hand."""
        return self._online is not None

    @property
    def online(self) -> OnlineAdvisor | None:
        """What learns from steps; None while nothing has been measured."""
        return self._online

    @property
    def calibration(self) -> Calibration | None:
        """The figures as they are known now."""
        return self._online.calibration if self._online else None

    @property
    def _advisor(self) -> TreeAdvisor:
        return self._online or self._bundled

    def advise(self, temperature: float, context_length: int, chain: bool) -> Advice:
        """The measured choice, or a packaged tree while nothing has been measured."""
        return self._advisor.advise(temperature, context_length, chain)

    def observe(self, step: Step, temperature: float, chain: bool) -> Advice | None:
        """See `trees.TreeAdvisor`."""
        return self._advisor.observe(step, temperature, chain)

    def time(self, step: Step, temperature: float) -> None:
        """See `trees.TreeAdvisor`."""
        self._advisor.time(step, temperature)

    def costs(self, temperature: float, context_length: int) -> StepCosts | None:
        """See `trees.TreeAdvisor`."""
        return self._advisor.costs(temperature, context_length)

    def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """Measure what is not known yet, as long as nobody waits, and keep what was learnt.

        Yields one `Notice` when the figures are complete.
        """
        if not self.measured:
            self._take_up()  # another conversation with this pair may have measured meanwhile
        if self.measured:
            self.keep()
            return
        for _ in self.measure():
            if should_stop():
                return
        yield Notice(NoticeKind.CALIBRATION, self.summary())

    def keep(self) -> None:
        """Write the acceptance learnt since the last time, for later starts.

        Times and bands that another process has measured meanwhile stay as it wrote them.
        """
        if self.calibration is None or self.calibration is self._kept:
            return
        before, now = self._kept.records if self._kept else {}, self.calibration
        stored = load_calibration(self._pair.fingerprint) or now
        learnt = {band: each for band, each in now.records.items() if each != before.get(band)}
        save_calibration(
            self._pair.fingerprint, replace(stored, records={**stored.records, **learnt})
        )
        self._kept = now

    def _take_up(self) -> None:
        """Begin with what is kept on disk, if it is there."""
        self._kept = load_calibration(self._pair.fingerprint)
        if self._kept:
            self._online = OnlineAdvisor(self._kept)

    def summary(self, temperature: float = TEMPERATURE) -> str:
        """One line on what the figures predict of fixed trees at temperature 0 and at another."""
        if self._online is None:
            return "this machine has not been measured yet"
        if not self._online.calibration.drafts:
            return (
                "measured this machine, for looking up; nothing is drafted: the target has no draft"
            )
        parts = []
        for each in (0.0, temperature or TEMPERATURE):
            plan = self._online.figures(each, TYPICAL_CONTEXT).search()
            shape, predicted = plan.growmap, f"predicted {plan.predicted_speedup:.2f}x"
            tree = f"{shape.size} nodes, depth {shape.depth}" if shape else "plain decoding"
            parts.append(f"temperature {each:g}: {tree}, {'' if shape else 'a tree '}{predicted}")
        return "measured this machine; the best fixed trees: " + "; ".join(parts)

    def measure(self, temperature: float = TEMPERATURE) -> Iterator[tuple[str, float]]:
        """Measure everything anew and keep it; yields what is being done and which part is done.

        What was measured before a run that was broken off is not measured again. Acceptance at
        other temperatures stays known.

        Args:
            temperature: to sample at beside greedy decoding; 0 is the usual one.

        Raises:
            ParameterError: a tree never fitted into the models' context windows.
        """
        wanted = temperature or TEMPERATURE
        if self._survey is None or self._survey.temperature != wanted:
            self._survey = Survey(self._pair, wanted)
        yield from self._survey.run()
        found, self._survey = self._survey.calibration(), None
        return_freed_memory()
        known = self.calibration.records if self.calibration else {}
        self._kept = replace(found, records={**known, **found.records})
        self._online = OnlineAdvisor(self._kept)
        save_calibration(self._pair.fingerprint, self._kept)
