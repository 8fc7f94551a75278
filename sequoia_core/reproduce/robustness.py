"""Tokens per step of several rules over temperature and top-p, on one fixed tree.

Owns the sweep and the counting. Nothing is timed, so the machine may be busy with other work. All
rules decode the same prompts with the same seeds, and results are kept by the caller as they come.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode.step import Speculator
from sequoia_core.decode.token_cache import TokenCache
from sequoia_core.errors import ParameterError
from sequoia_core.events import Progress
from sequoia_core.measure.draft_nucleus import DRAFT_TOP_P, DraftNucleus
from sequoia_core.model.interface import LanguageModel
from sequoia_core.reproduce.resampling import Counted
from sequoia_core.reproduce.seeds import prompt_digest, prompt_seed
from sequoia_core.speculate.draft import DraftModel

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair
    from sequoia_core.tree.growmap import GrowMap

RULES = (Mode.SEQUOIA, Mode.SPECINFER, Mode.TOPK)
"""The first is held against the others."""
TEMPERATURES = (0.2, 0.4, 0.6, 0.8, 1.0, 1.2)
TOP_PS = (0.8, 0.9, 1.0)
TOKENS = 64


@dataclass(frozen=True, slots=True)
class Cell:
    """One way to decode."""

    rule: Mode
    temperature: float
    top_p: float


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is decoded.

    Attributes:
        growmap: the tree of all rules.
        temperatures: ascending or not; above 0, where the rules differ.
        top_ps: nucleus masses.
        tokens: per prompt and cell; end-of-sequence tokens end nothing.
        seed: of all draws.
        draft_top_p: nucleus mass of what children are drawn from; see `sampling`.

    Raises:
        ParameterError: a value is out of range, given twice or missing.
    """

    growmap: GrowMap
    temperatures: tuple[float, ...] = TEMPERATURES
    top_ps: tuple[float, ...] = TOP_PS
    tokens: int = TOKENS
    seed: int = 17
    draft_top_p: float = DRAFT_TOP_P

    def __post_init__(self) -> None:
        for name, values in (("temperature", self.temperatures), ("top-p", self.top_ps)):
            if not values or len(set(values)) < len(values):
                raise ParameterError(f"give one {name} or more, each once")
        if 0.0 in self.temperatures:
            raise ParameterError("at temperature 0 all rules are one; give temperatures above 0")
        if self.growmap.size < 2:
            raise ParameterError(f"growmap {self.growmap.name} drafts nothing; name a larger one")
        for cell in self.cells():
            self.sampling(cell, ())
        DraftNucleus(self.draft_top_p)

    def cells(self) -> list[Cell]:
        """All combinations, rules of one setting side by side."""
        settings = product(self.top_ps, self.temperatures, RULES)
        return [Cell(rule, temperature, top_p) for top_p, temperature, rule in settings]

    def sampling(self, cell: Cell, prompt_ids: Sequence[int]) -> SamplingParams:
        """How a prompt is decoded in a cell; its seed is that of every other cell."""
        return SamplingParams(
            cell.temperature,
            cell.top_p,
            seed=prompt_seed(self.seed, prompt_ids),
            max_new_tokens=self.tokens,
        )


@dataclass(frozen=True, slots=True)
class Count:
    """One prompt decoded in one cell.

    Attributes:
        cell: how.
        prompt: its digest.
        counted: tokens that the steps' trees and bonus gave, and the steps.
    """

    cell: Cell
    prompt: str
    counted: Counted


def count_all(
    pair: Pair,
    sweep: Sweep,
    prompts: Sequence[Sequence[int]],
    known: Sequence[Count],
    progress: Progress,
) -> Iterator[Count]:
    """Decode what is not known yet, prompt by prompt through all cells.

    Args:
        pair: with a draft.
        sweep: what to decode.
        prompts: token ids.
        known: results of an earlier run; they are not decoded again.
        progress: told what runs and which part is done.

    Yields:
        each result as soon as there is one.

    Raises:
        ParameterError: the target has no draft, or a prompt is too long.
    """
    if pair.draft is None:
        raise ParameterError(
            "the target has no draft, so nothing is drafted; name one with --model"
        )
    counter = Counter(
        pair.target, DraftModel(pair.draft, pair.draft_vocab_ids), sweep, _most(prompts)
    )
    done = {(count.cell, count.prompt) for count in known}
    cells = sweep.cells()
    for at, (ids, cell) in enumerate(product(prompts, cells)):
        digest = prompt_digest(ids)
        if (cell, digest) in done:
            continue
        progress(
            f"Prompt {at // len(cells) + 1} of {len(prompts)}: {cell.rule.value}, "
            f"temperature {cell.temperature:g}, top-p {cell.top_p:g}",
            at / (len(prompts) * len(cells)),
        )
        yield Count(cell, digest, counter.count(cell, ids))


def _most(prompts: Sequence[Sequence[int]]) -> int:
    return max(map(len, prompts), default=0)


class Counter:
    """Decodes without events, text or clocks, which would cost more than they tell here.

    Args:
        target: decides.
        draft: proposes.
        sweep: what is decoded.
        prompt_tokens: of the longest prompt.

    Raises:
        ParameterError: text and tree do not fit into a context window.
    """

    def __init__(
        self, target: LanguageModel, draft: DraftModel, sweep: Sweep, prompt_tokens: int
    ) -> None:
        window = min(target.context_window, draft.model.context_window)
        needed = prompt_tokens + sweep.tokens + sweep.growmap.size
        if needed > window:
            raise ParameterError(
                f"{prompt_tokens} tokens of prompt, {sweep.tokens} after it and a tree of "
                f"{sweep.growmap.size} nodes are more than the context window of {window}"
            )
        self._device, self._sweep = target.device, sweep
        self._nucleus = DraftNucleus(sweep.draft_top_p)
        self._cache = TokenCache(target, draft.model)
        self._speculator = Speculator(target, draft, self._cache)

    def count(self, cell: Cell, prompt_ids: Sequence[int]) -> Counted:
        """Decode one prompt in one cell.

        Whole paths are counted, the last one's part beyond the limit too. Whether a step is the
        last is known before it is drawn, so the mean over whole steps is that of a step; cut at the
        limit it would lie below.
        """
        params = self._sweep.sampling(cell, prompt_ids)
        sampler = self._nucleus.sampler(params, self._device, cell.rule)
        self._cache.start(prompt_ids)
        for _ in self._cache.read_prompt():
            pass
        tokens = steps = 0
        while tokens < self._sweep.tokens:
            scored, verdict = self._speculator.step(self._sweep.growmap, sampler)
            emitted = scored.emitted(verdict.path, verdict.bonus_token)
            self._speculator.commit(scored, verdict.path, emitted)
            tokens += len(emitted)
            steps += 1
        return Counted(tokens, steps)
