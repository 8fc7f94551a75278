"""Which tree decodes best here: the interface, and the packaged trees of a new machine."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from sequoia_core.events import Step
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.tree.files import find_growmap
from sequoia_core.tree.growmap import GrowMap

MEASURED = "measured"  # name of the fixed shape that is predicted to be the fastest on this machine
TRYING = "trying a tree again: it may be faster by now"  # a reason while plain decoding is the rule
PACKAGED = {"greedy": "smollm2-135m/greedy-6x2", "stochastic": "smollm2-135m/stochastic-6x2"}
DEFAULT_CHAIN = 3  # drafted tokens of a chain when no growmap is named


@dataclass(frozen=True, slots=True)
class Advice:
    """What decodes best here."""

    growmap: GrowMap | None  # None where plain decoding is predicted to be as fast
    rates: tuple[float, ...]  # behind the prediction
    predicted_speedup: float | None  # over plain decoding; None if forwards were not timed
    reason: str
    deeper: tuple[tuple[float, ...], ...] = ()  # rates at depth 2, 3, ..., the last for all below


class TreeAdvisor(Protocol):
    """Names trees from what it knows of the pair and the machine; a subclass learns nothing yet."""

    def advise(self, temperature: float, context_length: int, chain: bool) -> Advice:
        """The best tree, or the best chain, at this temperature and context."""
        ...

    def observe(self, step: Step, temperature: float, chain: bool) -> Advice | None:  # noqa: ARG002
        """Learn from a step whose tree, but for what was looked up, did not depend on the draft.

        Returns what the following steps should be decoded with, or None if nothing changes.
        """
        return None

    def time(self, step: Step, temperature: float) -> None:  # noqa: ARG002
        """Learn from any other step what it took, and nothing else."""
        return

    def costs(self, temperature: float, context_length: int) -> StepCosts | None:  # noqa: ARG002
        """What steps cost here, or None while nothing has been measured."""
        return None


class BundledAdvisor(TreeAdvisor):
    """Serves packaged shapes, for temperature 0 and above, until the machine has been measured.

    `rates` are those that the draft's files state, by `greedy` and `stochastic`; without them
    nothing is expected of a pair that was never measured.
    """

    def __init__(self, rates: Mapping[str, tuple[float, ...]]) -> None:
        self._rates = rates
        self.shapes = {kind: find_growmap(name) for kind, name in PACKAGED.items()}

    def advise(self, temperature: float, context_length: int, chain: bool) -> Advice:  # noqa: ARG002
        kind = "greedy" if temperature == 0.0 else "stochastic"
        shape = GrowMap.chain(DEFAULT_CHAIN) if chain else self.shapes[kind]
        reason = "packaged tree, until this machine is measured"
        return Advice(shape, self._rates.get(kind, ()), None, reason)
