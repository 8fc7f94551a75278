"""What a testbed decodes: rule, tree, sampling, and which of the two systems run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from sequoia_core.config import DRAFT_TOP_P, Mode, SamplingParams
from sequoia_core.errors import ParameterError
from sequoia_core.measure.draft_nucleus import DraftNucleus
from sequoia_core.reproduce.experiment import growmap_values
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.files import find_growmap

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.tree.growmap import GrowMap

PLAIN, TREE = "plain", "tree"
"""The names of the two systems."""


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

    @property
    def systems(self) -> tuple[str, ...]:
        """`PLAIN` and `TREE` as far as they run, in the order of the first prompt."""
        if self is Measured.TREE:
            return PLAIN, TREE
        return (PLAIN,) if self is Measured.BASELINE else (TREE,)


@dataclass(frozen=True, slots=True)
class DecodingPlan:
    """What is decoded and how.

    Attributes:
        rule: how the tree's children are drawn and accepted.
        growmap: the tree; the baseline ignores it.
        params: sampling; `max_new_tokens` are decoded after each prompt, and the seed of each
            prompt follows from this one.
        measured: which systems run.
        cache_length: most tokens of text and tree in the cache, the release's `--M`; None is what
            is needed.
        draft_top_p: nucleus mass that children are drawn from; see `DraftNucleus`.

    Raises:
        ParameterError: there is no seed, a mass is out of range, or the tree drafts nothing.
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
            raise ParameterError("an experiment needs a seed")
        if self.measured is not Measured.BASELINE and self.growmap.size < 2:
            raise ParameterError(
                f"growmap {self.growmap.name} drafts nothing; name a larger one, or measure the "
                "baseline alone"
            )

    def check_room(self, prompts: Sequence[Sequence[int]], context_window: int) -> None:
        """Refuse what does not fit into the cache or the models, before anything is decoded.

        Args:
            prompts: token ids.
            context_window: the smallest of the models that run.

        Raises:
            ParameterError: names the smallest cache that works.
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

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "measured": self.measured.value,
            "rule": self.rule.value,
            "growmap": None if self.measured is Measured.BASELINE else growmap_values(self.growmap),
            "temperature": self.params.temperature,
            "top_p": self.params.top_p,
            "draft_top_p": self.draft_top_p,
            "seed": self.params.seed,
            "tokens": self.params.max_new_tokens,
        }


def pairs_growmap(pair: Pair, named: str | None, temperature: float) -> GrowMap:
    """The tree of that name, or by default the packaged one that a chat of the pair starts with.

    `auto` is the one that the figures measured on this machine advise.

    Raises:
        GrowMapError: there is no such tree, or it is malformed.
        ParameterError: `auto` advises none.
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
