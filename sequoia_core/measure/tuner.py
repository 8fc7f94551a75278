"""Learns which tree fits a pair on this machine, in slices between answers.

What is measured is kept on disk per pair, so it is done once; a packaged tree serves until then.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from typing_extensions import override

from sequoia_core.events import Event, Notice, NoticeKind, Step
from sequoia_core.measure.calibration import Calibration, load_calibration, save_calibration
from sequoia_core.measure.calibration_run import TEMPERATURE, CalibrationRun
from sequoia_core.measure.online_advisor import TYPICAL_CONTEXT, OnlineAdvisor
from sequoia_core.model.malloc_trim import return_freed_memory
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.speculate.tree_advisor import Advice, BundledAdvisor, TreeAdvisor

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair


class Tuner(TreeAdvisor):
    """Measures a pair, with caches of its own, and names trees for it.

    Attributes:
        online: learns from steps; None before anything was measured.
    """

    def __init__(self, pair: Pair) -> None:
        self._pair = pair
        self._bundled = BundledAdvisor.default(pair.acceptance_rates)
        self._kept: Calibration | None = None
        self.online: OnlineAdvisor | None = None
        self._run: CalibrationRun | None = None
        self._load()

    @property
    def measured(self) -> bool:
        """Whether there are figures of this pair on this machine."""
        return self.online is not None

    @property
    def calibration(self) -> Calibration | None:
        """The figures as they are known now."""
        return self.online.calibration if self.online else None

    @property
    def _advisor(self) -> TreeAdvisor:
        return self.online or self._bundled

    @override
    def advise(self, temperature: float, context_length: int, chain: bool) -> Advice:
        return self._advisor.advise(temperature, context_length, chain)

    @override
    def observe(self, step: Step, temperature: float, chain: bool) -> Advice | None:
        return self._advisor.observe(step, temperature, chain)

    @override
    def time(self, step: Step, temperature: float) -> None:
        self._advisor.time(step, temperature)

    @override
    def costs(self, temperature: float, context_length: int) -> StepCosts | None:
        return self._advisor.costs(temperature, context_length)

    def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """Measure what is not known yet until `should_stop`, and keep what was learnt.

        Yields one `Notice` when the figures are complete.
        """
        if not self.measured:
            self._load()  # another conversation with this pair may have measured meanwhile
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

    def _load(self) -> None:
        self._kept = load_calibration(self._pair.fingerprint)
        if self._kept:
            self.online = OnlineAdvisor(self._kept)

    def summary(self, temperature: float = TEMPERATURE) -> str:
        """One line: the speed-ups predicted for fixed trees at temperature 0 and at another."""
        if self.online is None:
            return "this machine has not been measured yet"
        if not self.online.calibration.drafts:
            return (
                "measured this machine, for looking up; nothing is drafted: the target has no draft"
            )
        parts = []
        for each in (0.0, temperature or TEMPERATURE):
            plan = self.online.speed_model(each, TYPICAL_CONTEXT).search()
            shape, predicted = plan.growmap, f"predicted {plan.predicted_speedup:.2f}x"
            tree = f"{shape.size} nodes, depth {shape.depth}" if shape else "plain decoding"
            parts.append(f"temperature {each:g}: {tree}, {'' if shape else 'a tree '}{predicted}")
        return "measured this machine; the best fixed trees: " + "; ".join(parts)

    def measure(self, temperature: float = TEMPERATURE) -> Iterator[tuple[str, float]]:
        """Measure everything anew and keep it; yields what is being done and the part done.

        A run that was left continues where it was. Acceptance at other temperatures stays known.

        Args:
            temperature: to sample at, in addition to greedy decoding; 0 is the default one.

        Raises:
            ParameterError: no tree fitted into the models' context windows.
        """
        wanted = temperature or TEMPERATURE
        if self._run is None or self._run.temperature != wanted:
            self._run = CalibrationRun(self._pair, wanted)
        yield from self._run.run()
        found, self._run = self._run.calibration(), None
        return_freed_memory()
        known = self.calibration.records if self.calibration else {}
        self._kept = replace(found, records={**known, **found.records})
        self.online = OnlineAdvisor(self._kept)
        save_calibration(self._pair.fingerprint, self._kept)
