"""This engine as systems of the benchmark: plain, chain and trees, on one loaded pair."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from statistics import fmean
from typing import TYPE_CHECKING

from typing_extensions import override

from sequoia_core.bench import names
from sequoia_core.bench.runs import Decode, PeerError, Run, RunClock, averaged
from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode.engine import Engine
from sequoia_core.events import Step, TreeChosen
from sequoia_core.speculate.baseline_timer import NoBaseline
from sequoia_core.speculate.cost_model import StepCosts
from sequoia_core.speculate.tree_advisor import (
    DEFAULT_CHAIN,
    Advice,
    BundledAdvisor,
    TreeAdvisor,
)
from sequoia_core.tree.choice import ADAPTIVE, DYNAMIC, DynamicTree, TreeChoice
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import choose_tree, expected_tokens_table

if TYPE_CHECKING:
    import torch

    from sequoia_core.bench.systems import ModelFactory
    from sequoia_core.decode.step import Sampler
    from sequoia_core.model.loading.pair import Pair

    MakeSampler = Callable[[SamplingParams, torch.device, Mode], Sampler]

MOST_LEVELS = 12  # largest depth of the sweep's trees

_PLAIN = TreeChoice(Mode.AR)
_FIXED = TreeChoice(Mode.SEQUOIA, adaptive=False)
_ADAPTIVE = TreeChoice(Mode.SEQUOIA, adaptive=True)
_DYNAMIC = TreeChoice(Mode.TOPK, dynamic=DynamicTree())  # as published
CHOICES = {
    names.PLAIN: _PLAIN,
    names.CHAIN: TreeChoice(Mode.CHAIN),
    names.BLOCK: TreeChoice(Mode.TRAVERSE, GrowMap.chain(DEFAULT_CHAIN)),
    names.PACKAGED: _FIXED,
    names.PACKAGED_LOOKUP: replace(_FIXED, lookup=Lookup.AUTO),
    names.TREE: _FIXED,
    names.LOOKUP: replace(_FIXED, lookup=Lookup.AUTO),
    names.ADAPTIVE: _ADAPTIVE,
    names.ADAPTIVE_LOOKUP: replace(_ADAPTIVE, lookup=Lookup.AUTO),
    names.TRAVERSAL: replace(_ADAPTIVE, mode=Mode.TRAVERSE),
    names.DYNAMIC: _DYNAMIC,
    names.DYNAMIC_MEASURED: _DYNAMIC,
}


def own_system(factory: ModelFactory, name: str) -> Decode:
    """One of `CHOICES`, or by another name plain decoding of models computed in another way.

    Raises PeerError if a tree is wanted and there is no draft.
    """
    pair, choice = factory.pair, CHOICES.get(name, _PLAIN)
    if pair.draft is None and choice is not _PLAIN:
        raise PeerError("the target has no draft; name one with --draft")
    if name == names.DYNAMIC_MEASURED:
        return dynamic_as_measured(factory)
    if name in CHOICES and name not in (names.PACKAGED, names.PACKAGED_LOOKUP):
        return engine_system(pair, factory.advisor(), choice)
    return engine_system(pair, BundledAdvisor(pair.acceptance_rates), choice)


def engine_system(
    pair: Pair,
    advisor: TreeAdvisor,
    choice: TreeChoice,
    make_sampler: MakeSampler | None = None,
    on_step: Callable[[Step], None] | None = None,
) -> Decode:
    """This engine in one mode; what its advisor learns stays, as in a chat.

    With `make_sampler` every step has its tree, where a chat decodes some plainly to measure
    speed-ups. `on_step` receives all steps that have ended, those of warm-ups too.
    """
    engine = Engine.of(replace(pair, eos_token_ids=frozenset()), advisor)
    engine.tree_choice = choice
    if make_sampler is not None:
        engine.make_sampler = make_sampler
        engine.clock = NoBaseline()

    def decode(prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        for _ in engine.generate(prompt_ids[:1], params, should_stop=lambda: True):
            pass  # an answer that is cancelled at once empties the caches
        steps, tree, clock = list[Step](), "", RunClock()
        for event in engine.generate(prompt_ids, params):
            if isinstance(event, Step):
                clock.step(len(event.token_ids))
                steps.append(event)
                if on_step is not None:
                    on_step(event)
            elif isinstance(event, TreeChosen):
                tree = _tree_name(event)
        tokens = [token for step in steps for token in step.token_ids]
        run = clock.run(tokens)
        return replace(run, tree=tree, parts=averaged([step.timings for step in steps[1:]], fmean))

    return decode


def dynamic_as_measured(factory: ModelFactory) -> Decode:
    """EAGLE's tree, at each temperature as large, deep and wide as the measured tree is at first.

    Of its published 60 nodes most are a loss where rows of a forward are dear, as on a CPU.
    """
    advisor, systems = factory.advisor(), dict[float, Decode]()

    def decode(prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        if params.temperature not in systems:
            advice = advisor.advise(params.temperature, len(prompt_ids), False)
            shape = advice.growmap or GrowMap.chain(1)
            choice = replace(
                _DYNAMIC, dynamic=DynamicTree(shape.size, shape.depth, shape.branching)
            )
            systems[params.temperature] = engine_system(factory.pair, factory.advisor(), choice)
        return systems[params.temperature](prompt_ids, params)

    return decode


def _tree_name(chosen: TreeChosen) -> str:
    if chosen.growmap == ADAPTIVE or chosen.growmap.startswith(f"{DYNAMIC}:"):
        return chosen.growmap
    return f"{chosen.nodes} nodes, depth {chosen.depth}" if chosen.depth else "plain"


class SizedAdvisor(TreeAdvisor):
    """Names the best tree of a given number of nodes, whether or not it pays, and learns nothing.

    The tree has fewer nodes where they would add nothing.
    """

    def __init__(self, tuned: TreeAdvisor, nodes: int) -> None:
        self._tuned, self._nodes = tuned, nodes

    @override
    def advise(self, temperature: float, context_length: int, chain: bool) -> Advice:
        known = self._tuned.advise(temperature, context_length, False)  # a sweep is over trees
        costs = self._tuned.costs(temperature, context_length)
        assert costs is not None  # a pair with a draft is measured before it is compared
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

    @override
    def costs(self, temperature: float, context_length: int) -> StepCosts | None:
        return self._tuned.costs(temperature, context_length)


def sized_systems(factory: ModelFactory, sizes: Sequence[int]) -> dict[str, Decode]:
    """Fixed trees of these numbers of nodes, for the sweep, each with an advisor of its own."""
    advisors = {f"sequoia tree of {n} nodes": SizedAdvisor(factory.advisor(), n) for n in sizes}
    return {name: engine_system(factory.pair, each, _FIXED) for name, each in advisors.items()}
