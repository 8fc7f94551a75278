"""One of the published testbeds: a tree decodes a data set, and plain decoding the same beside it.

Owns what is decoded, the room it needs and the figures. Timing is the benchmark's: systems take
turns prompt by prompt in alternating order after a warm-up, every prompt gets the same number of
tokens from both, reading it is timed apart, and no end-of-sequence token ends an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from statistics import median
from typing import TYPE_CHECKING

from sequoia_core.bench.comparison import compare
from sequoia_core.bench.own_systems import OwnSystem, StepWatch
from sequoia_core.bench.summary import ratio
from sequoia_core.config import Mode, SamplingParams
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.events import Progress
from sequoia_core.measure.draft_nucleus import DRAFT_TOP_P, DraftNucleus
from sequoia_core.measure.spread import Spread
from sequoia_core.reproduce.resampling import Counted, Interval, tokens_per_step
from sequoia_core.reproduce.seeds import prompt_seed
from sequoia_core.reproduce.split import Split, SplitClock
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.files import find_growmap

if TYPE_CHECKING:
    from sequoia_core.bench.runs import Run
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.tree.growmap import GrowMap

PLAIN, TREE = "plain", "tree"
"""What the two systems are called."""


class Measured(StrEnum):
    """What is decoded.

    Attributes:
        TREE: with the tree and, for the speed-up, plainly.
        BASELINE: plainly alone.
        BENCHMARK: with the tree alone, each part of a step timed.
    """

    TREE = "tree"
    BASELINE = "baseline"
    BENCHMARK = "benchmark"


@dataclass(frozen=True, slots=True)
class Experiment:
    """What is decoded and how.

    Attributes:
        rule: how the tree's children are drawn and judged.
        growmap: the tree; of no account for the baseline.
        params: sampling; `max_new_tokens` are decoded after each prompt, and each prompt gets a
            seed of its own from this one.
        measured: which systems run.
        cache_length: most tokens of text and tree in the cache, the release's `--M`; None is what
            is needed.
        draft_top_p: nucleus mass of what children are drawn from; see `reproduce.sampling`.

    Raises:
        ParameterError: there is no seed, a mass is none, or the tree drafts nothing.
    """

    rule: Mode
    growmap: GrowMap
    params: SamplingParams
    measured: Measured = Measured.TREE
    cache_length: int | None = None
    draft_top_p: float = DRAFT_TOP_P

    def __post_init__(self) -> None:
        DraftNucleus(self.draft_top_p)
        if self.params.seed is None:
            raise ParameterError("an experiment has a seed; give one")
        if self.measured is not Measured.BASELINE and self.growmap.size < 2:
            raise ParameterError(
                f"growmap {self.growmap.name} drafts nothing; name a larger one, or measure the "
                "baseline alone"
            )

    @property
    def systems(self) -> tuple[str, ...]:
        """Which of `PLAIN` and `TREE` run, in the order of the first prompt."""
        return _SYSTEMS[self.measured]

    def check_room(self, prompts: Sequence[Sequence[int]], context_window: int) -> None:
        """Refuse what the cache or the models have no room for, before anything is decoded.

        Args:
            prompts: token ids.
            context_window: of the models that run, the smallest.

        Raises:
            ParameterError: says the smallest cache that works.
        """
        text = max(map(len, prompts)) + self.params.max_new_tokens
        tree = 0 if self.measured is Measured.BASELINE else self.growmap.size
        what = f"{text} tokens of text" + (f" and a tree of {tree} nodes" if tree else "")
        if self.cache_length is not None and self.cache_length < text + tree:
            raise ParameterError(
                f"--M is {self.cache_length}, but the smallest value that works is {text + tree}: "
                f"{what}"
            )
        if text + tree > context_window:
            raise ParameterError(
                f"{what} are more than the context window of {context_window}; take a smaller tree "
                "or fewer tokens"
            )


@dataclass(frozen=True, slots=True)
class Figures:
    """One system over all prompts.

    Attributes:
        tokens_per_step: all tokens over all steps; the interval is over prompts.
        ms_per_token: of decoding, prompt by prompt.
        ms_per_step: likewise.
        first_ms: until the first step was done, median; no part of the speed.
        speedup: over plain decoding of the same prompt; None where that was not measured.
    """

    tokens_per_step: Interval
    ms_per_token: Spread
    ms_per_step: Spread
    first_ms: float
    speedup: Spread | None


@dataclass(frozen=True, slots=True)
class Findings:
    """What came of an experiment.

    Attributes:
        runs: by system, one a prompt, in the same order; tokens and times without the first step.
        split: where a step's time goes, medians over prompts; None where it was not measured.
    """

    runs: dict[str, list[Run]]
    split: Split | None = None

    @property
    def prompts(self) -> int:
        """How many were decoded."""
        return len(next(iter(self.runs.values())))

    def figures(self, name: str) -> Figures:
        """Of `PLAIN` or `TREE`.

        Raises:
            KeyError: that was not decoded.
        """
        runs, plain = self.runs[name], self.runs.get(PLAIN)
        return Figures(
            tokens_per_step([Counted(run.tokens, run.steps) for run in runs]),
            Spread.of([1e3 * run.seconds / run.tokens for run in runs]),
            Spread.of([1e3 * run.seconds / run.steps for run in runs]),
            1e3 * median(run.first_seconds for run in runs),
            ratio(runs, plain) if plain and name != PLAIN else None,
        )


@dataclass(slots=True)
class ExperimentRun:
    """An experiment that is running, and what it has found so far.

    Attributes:
        pair: the models.
        experiment: what is decoded.
        prompts: token ids, at least one.
    """

    pair: Pair
    experiment: Experiment
    prompts: Sequence[Sequence[int]]
    _runs: dict[str, list[Run]] = field(default_factory=dict)
    _splits: list[Split] = field(default_factory=list)

    def decode(self, progress: Progress) -> None:
        """Decode all prompts.

        Args:
            progress: told what runs and which part is done.

        Raises:
            ParameterError: there is no draft, too little room, or too few tokens for a speed.
        """
        wanted, window = self.experiment, self.pair.target.context_window
        if wanted.measured is not Measured.BASELINE:
            if self.pair.draft is None:
                raise ParameterError(
                    "the target has no draft, so nothing is drafted; name one with --model"
                )
            window = min(window, self.pair.draft.context_window)
        wanted.check_room(self.prompts, window)
        nucleus = DraftNucleus(wanted.draft_top_p)
        clock = SplitClock(nucleus.sampler) if wanted.measured is Measured.BENCHMARK else None
        systems = [_Seeded(self.pair, wanted, name, clock or nucleus) for name in wanted.systems]

        def keep(name: str, run: Run) -> None:
            self._runs.setdefault(name, []).append(run)
            if clock is not None:
                self._splits.append(clock.answer())

        outcome = compare(systems, self.prompts, [wanted.params], progress, keep)
        if outcome.interrupted:
            raise KeyboardInterrupt
        for why in outcome.broken.values():
            raise ParameterError(why)

    def findings(self) -> Findings:
        """Of the prompts that all systems have decoded so far.

        Raises:
            SequoiaError: there is none yet.
        """
        names = self.experiment.systems
        done = min(len(self._runs.get(name, ())) for name in names)
        if not done:
            raise SequoiaError("nothing was measured: the first prompt was not decoded to its end")
        runs = {name: self._runs[name][:done] for name in names}
        return Findings(runs, Split.middle(self._splits[:done]) if self._splits else None)


_SYSTEMS = {
    Measured.TREE: (PLAIN, TREE),
    Measured.BASELINE: (PLAIN,),
    Measured.BENCHMARK: (TREE,),
}


class _Seeded:
    """A system that decodes each prompt with a seed of its own, the same for all systems."""

    def __init__(self, pair: Pair, experiment: Experiment, name: str, watch: StepWatch) -> None:
        self.name = name
        choice = TreeChoice(Mode.AR)
        if name == TREE:
            choice = TreeChoice(experiment.rule, experiment.growmap)
        advisor = BundledAdvisor.default(pair.acceptance_rates)
        self._system = OwnSystem(name, pair, advisor, choice, watch)
        assert experiment.params.seed is not None
        self._seed = experiment.params.seed

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        """Decode one prompt; see `bench.runs.System`."""
        return self._system.run(
            prompt_ids, replace(params, seed=prompt_seed(self._seed, prompt_ids))
        )


def pairs_growmap(pair: Pair, named: str | None, temperature: float) -> GrowMap:
    """The tree that is named, else the packaged one that a chat of the pair begins with.

    `auto` is the one that the figures measured on this machine name.

    Raises:
        GrowMapError: there is no such tree, or it is malformed.
        ParameterError: `auto` names none.
    """
    if named is None:
        advised = BundledAdvisor.default(pair.acceptance_rates).advise(temperature, 0, False)
        assert advised.growmap is not None
        return advised.growmap
    if named != "auto":
        return find_growmap(named)
    from sequoia_core.measure.online_advisor import TYPICAL_CONTEXT
    from sequoia_core.measure.tuner import Tuner

    tuner = Tuner(pair)
    if not tuner.measured:
        raise ParameterError(
            "--growmap auto: this machine has not been measured; run `sequoia calibrate`"
        )
    growmap = tuner.advise(temperature, TYPICAL_CONTEXT, False).growmap
    if growmap is None:
        raise ParameterError(
            "--growmap auto: plain decoding is predicted to be the fastest here; name a growmap"
        )
    return growmap
