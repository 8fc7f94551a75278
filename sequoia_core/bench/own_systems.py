"""This engine as systems of the benchmark: plain, chain and trees, on one loaded pair.

No run stops at an end-of-sequence token, and each starts with empty caches.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING, Protocol

from sequoia_core.bench import names
from sequoia_core.bench.runs import Run, RunClock, average_parts
from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode.baseline_timer import NoBaseline
from sequoia_core.decode.engine import Engine
from sequoia_core.events import Step, TreeChosen
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.speculate.tree_advisor import Advice, BundledAdvisor, TreeAdvisor
from sequoia_core.tree.choice import ADAPTIVE, TreeChoice
from sequoia_core.tree.search import choose_tree, expected_tokens_table

if TYPE_CHECKING:
    import torch

    from sequoia_core.decode.step import Sampler
    from sequoia_core.model.loading.pair import Pair

MOST_LEVELS = 12
"""Largest depth of the sweep's trees."""

ASSUMED_COSTS = StepCosts(lambda _rows: 1.0, lambda _rows: 0.1, 0.0, 1.0)
"""Decides depths until forwards have been timed: a draft forward at a tenth of the target's."""


class StepWatch(Protocol):
    """Observes an engine's steps."""

    def sampler(self, params: SamplingParams, device: torch.device, mode: Mode) -> Sampler:
        """As `Sampler.of`, perhaps with a stopwatch around its parts."""
        ...

    def step(self, step: Step) -> None:
        """Receive a step that has just ended."""
        ...


class OwnSystem:
    """This engine in one mode, with its own advisor.

    A `watch` observes all steps, those of warm-ups too. Every step then has its tree, where a chat
    decodes some plainly to measure speed-ups.
    """

    def __init__(
        self,
        name: str,
        pair: Pair,
        advisor: TreeAdvisor,
        choice: TreeChoice,
        watch: StepWatch | None = None,
    ) -> None:
        self.name = name
        self._watch = watch
        self._engine = Engine.of(replace(pair, eos_token_ids=frozenset()), advisor)
        self._engine.tree_choice = choice
        if watch is not None:
            self._engine.make_sampler = watch.sampler
            self._engine.clock = NoBaseline()

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode one prompt; what the advisor learns stays, as in a chat."""
        for _ in self._engine.generate(prompt_ids[:1], params, should_stop=lambda: True):
            pass  # an answer that is cancelled at once empties the caches
        steps: list[Step] = []
        tree = ""
        clock = RunClock()
        for event in self._engine.generate(prompt_ids, params):
            if isinstance(event, Step):
                clock.step(len(event.token_ids))
                steps.append(event)
                if self._watch is not None:
                    self._watch.step(event)
            elif isinstance(event, TreeChosen):
                tree = _tree_name(event)
        tokens = [token for step in steps for token in step.token_ids]
        parts = average_parts([step.timings for step in steps[1:]], fmean)
        return clock.run(tokens, tree, parts)


def _tree_name(chosen: TreeChosen) -> str:
    if chosen.growmap == ADAPTIVE:
        return ADAPTIVE
    return f"{chosen.nodes}x{chosen.depth}" if chosen.depth else "plain"


class SizedAdvisor:
    """Names the best tree of a given number of nodes, whether or not it pays, and learns nothing.

    The tree has fewer nodes where they would add nothing.
    """

    def __init__(self, tuned: TreeAdvisor, nodes: int) -> None:
        self._tuned, self._nodes = tuned, nodes

    def advise(
        self,
        temperature: float,
        context_length: int,
        chain: bool,  # noqa: ARG002 a sweep is over trees
    ) -> Advice:
        """The fastest shape of that size."""
        known = self._tuned.advise(temperature, context_length, False)
        costs = self._tuned.costs(temperature, context_length) or ASSUMED_COSTS
        branching = max(map(len, (known.rates, *known.deeper)))
        table = expected_tokens_table(
            known.rates, self._nodes, min(self._nodes - 1, MOST_LEVELS), branching, known.deeper
        )
        # what plain decoding takes does not change which shape is fastest, only whether it pays
        endless = 1e6 * costs.target_ms(self._nodes)
        plan = choose_tree(
            table, costs.target_ms, costs.draft_ms, endless, costs.overhead_ms, [self._nodes]
        )
        return replace(known, growmap=plan.growmap, predicted_speedup=None)

    def observe(self, step: Step, temperature: float, chain: bool) -> Advice | None:  # noqa: ARG002
        """Learns nothing, so that the shape stays."""
        return None

    def time(self, step: Step, temperature: float) -> None:
        """Learns nothing."""

    def costs(self, temperature: float, context_length: int) -> StepCosts | None:
        """As measured."""
        return self._tuned.costs(temperature, context_length)


def own_choices(pair: Pair) -> dict[str, TreeChoice]:
    """Ways to decode a pair by name; without a draft only plainly."""
    plain = {names.PLAIN: TreeChoice(Mode.AR)}
    if pair.draft is None:
        return plain
    fixed = TreeChoice(Mode.SEQUOIA, adaptive=False)
    adaptive = TreeChoice(Mode.SEQUOIA, adaptive=True)
    return plain | {
        names.CHAIN: TreeChoice(Mode.CHAIN),
        names.PACKAGED: fixed,
        names.PACKAGED_LOOKUP: replace(fixed, lookup=Lookup.AUTO),
        names.TREE: fixed,
        names.LOOKUP: replace(fixed, lookup=Lookup.AUTO),
        names.ADAPTIVE: adaptive,
        names.ADAPTIVE_LOOKUP: replace(adaptive, lookup=Lookup.AUTO),
    }


def own_system(pair: Pair, tuned: TreeAdvisor, name: str) -> OwnSystem:
    """One of `own_choices`; the advisor names the tree unless it is the packaged one."""
    packaged = name in (names.PACKAGED, names.PACKAGED_LOOKUP)
    advisor = BundledAdvisor.default(pair.acceptance_rates) if packaged else tuned
    return OwnSystem(name, pair, advisor, own_choices(pair)[name])


def plain_system(pair: Pair, name: str) -> OwnSystem:
    """Plain decoding under another name, of the same models computed in another way."""
    advisor = BundledAdvisor.default(pair.acceptance_rates)
    return OwnSystem(name, pair, advisor, TreeChoice(Mode.AR))


def sized_systems(
    pair: Pair, advisor: Callable[[], TreeAdvisor], sizes: Sequence[int]
) -> dict[int, OwnSystem]:
    """Fixed trees by number of nodes, for the sweep; `advisor` makes a new one for each."""
    choice = TreeChoice(Mode.SEQUOIA, adaptive=False)
    return {
        size: OwnSystem(
            f"sequoia tree of {size} nodes", pair, SizedAdvisor(advisor(), size), choice
        )
        for size in sizes
    }
