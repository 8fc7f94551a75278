"""Positional acceptance rates of a pair: how likely the k-th drawn child is the accepted one.

At each of `n` positions of a text, `W` children are drawn from the draft without replacement and
verified by Algorithm 2 (Sequoia, section 3.1). Acceptance probabilities are summed instead of
random decisions counted: the mean is the same, as of decoding with a star, the variance smaller.
Below the first level, where a draft follows its own guesses, only decoding with a tree counts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sequoia_core.config import DRAFT_TOP_P, Mode, SamplingParams
from sequoia_core.data.passages import PROMPT_TOKENS, TOTAL_TOKENS, Passage
from sequoia_core.decode.engine import Engine
from sequoia_core.decode.step import Sampler
from sequoia_core.errors import ParameterError
from sequoia_core.events import Step
from sequoia_core.measure.calibration import Tally
from sequoia_core.model.interface import KVCache, LanguageModel
from sequoia_core.model.loading.pair import Pair
from sequoia_core.speculate.baseline_timer import NoBaseline
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.sampling import shaped_probs
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import MOST_DEPTH, MOST_NODES, TreeChoice
from sequoia_core.tree.growmap import GrowMap

CHUNK = 32  # positions verified at once: each takes a few rows of the vocabulary
ONE_PASS = 512
"""Longest text that is read in one forward, so that a target on disk is read once. The prompt of a
longer one is read apart, since logits of all its rows would fill the memory."""

Acceptance = NDArray[np.float64]  # how likely a child is accepted, by position and rank [n, W]
Text = tuple[Sequence[int], int]  # token ids, and how many are the prompt, which is not judged
ANSWER_TOKENS = TOTAL_TOKENS - PROMPT_TOKENS
JUDGING = 1 << 32  # added to the seed of a text, to judge it with other random numbers
RESAMPLES = 1000
PERCENTILES = (2.5, 97.5)  # of a rate over resamplings of the prompts: its 95 % interval


def nucleus_sampler(top_p: float) -> Callable[[SamplingParams, torch.device, Mode], Sampler]:
    """Makes samplers whose children come from a nucleus of mass `top_p`, else the engine's own.

    The published testbeds cut the target's nucleus alone, a chat cuts both at the same mass. The
    text's distribution is the same either way. Raises ParameterError if the mass is out of range.
    """
    SamplingParams(top_p=top_p)

    def make(params: SamplingParams, device: torch.device, mode: Mode) -> Sampler:
        return replace(Sampler.of(replace(params, top_p=top_p), device, mode), params=params)

    return make


@torch.inference_mode()
def acceptance_by_rank(
    logits: tuple[Tensor, Tensor], draft: DraftModel, sampler: Sampler, width: int
) -> Acceptance:
    """Of `width` children at the positions of `answer_logits`.

    The sampler draws, and shapes the target.
    """
    found = []
    for target_rows, draft_rows in zip(*(torch.split(each, CHUNK) for each in logits), strict=True):
        columns, draft_probs = sampler.choose(draft_rows, width)
        if sampler.greedy:
            tokens = columns if draft.vocab_ids is None else draft.vocab_ids[columns]
            accepted = tokens == target_rows.argmax(-1, keepdim=True)
        else:
            target_probs = shaped_probs(target_rows, sampler.params)
            accepted = rank_probs(target_probs, draft_probs, columns, draft.vocab_ids)
        found.append(accepted.double().cpu().numpy())
    return np.concatenate(found)


@torch.inference_mode()
def answer_logits(target: LanguageModel, draft: DraftModel, text: Text) -> tuple[Tensor, Tensor]:
    """The target's [n, V] and the draft's [n, V_draft] before each token after the prompt."""
    token_ids, prompt = text
    ids = torch.tensor(list(token_ids), device=target.device)
    first = prompt - 1 if len(ids) > ONE_PASS else 0

    def read(model: LanguageModel, cache: KVCache) -> Tensor:
        if first:
            model.extend(ids[:first], cache)
        positions = torch.arange(first, len(ids) - 1, device=model.device)
        return model.forward(ids[first:-1], positions, None, cache)[prompt - 1 - first :]

    cache = target.new_cache()
    target_logits = read(target, cache)
    return target_logits, draft.without_padding(read(draft.model, draft.model.new_cache(cache)))


def rank_probs(
    target_probs: Tensor, draft_probs: Tensor, columns: Tensor, vocab_ids: Tensor | None
) -> Tensor:
    """Probability that Algorithm 2 accepts each of some drawn children, given all of them.

    The k-th is accepted with min(1, p / q) if those before it were rejected; p and q are then the
    residuals. The mean over draws is a_k. Of p [n, V], q [n, V_draft] and int64 [n, W], children in
    drawn order, none twice: [n, W], where 1 minus a row's sum is the rejection of all.
    """
    p = target_probs if vocab_ids is None else target_probs[:, vocab_ids]  # [n, V_draft]
    outside = (target_probs.sum(-1, keepdim=True) - p.sum(-1, keepdim=True)).clamp_(min=0.0)
    if vocab_ids is None:
        outside = torch.zeros_like(outside)
    q = draft_probs.clone()
    untried = torch.ones_like(q, dtype=torch.bool)
    reach = torch.ones_like(outside)
    found = []
    for child in torch.split(columns, 1, dim=1):
        p_child, q_child = p.gather(1, child), q.gather(1, child)
        accept = torch.where(q_child > 0, p_child / q_child, (p_child > 0).float()).clamp_(max=1.0)
        found.append(reach * accept)
        reach = reach * (1.0 - accept)
        left = (p - q).clamp_(min=0.0)
        mass = left.sum(-1, keepdim=True) + outside
        p = torch.where(mass > 0, left / mass, p)  # no mass: p = q up to rounding, and p stays
        outside = torch.where(mass > 0, outside / mass, outside)
        untried.scatter_(1, child, False)
        left = torch.where(untried, q, 0.0)
        mass = left.sum(-1, keepdim=True)
        even = untried / untried.sum(-1, keepdim=True).clamp(min=1)
        q = torch.where(mass > 0, left / mass, even)  # uniform where it has no mass left
    return torch.cat(found, dim=1)


@dataclass(frozen=True, slots=True)
class AcceptancePlan:
    """How a vector is measured; raises ParameterError if a value is out of range."""

    width: int = 16  # children at every position, `W`
    params: SamplingParams = SamplingParams(seed=17)  # noqa: RUF009  # immutable
    draft_top_p: float = DRAFT_TOP_P  # see `nucleus_sampler`; 1 and more cut nothing
    tokens: int = ANSWER_TOKENS  # decoded after each prompt
    static: bool = False  # by one pass over each text instead of decoding
    depth: int = 1  # levels whose children are counted

    def __post_init__(self) -> None:
        if not 1 <= self.width < MOST_NODES:
            raise ParameterError(f"width is {self.width}; give 1 to {MOST_NODES - 1}")
        if not self.draft_top_p > 0.0:
            raise ParameterError(
                f"draft top-p is {self.draft_top_p}; give a number above 0 (1 and more keep all)"
            )
        if not 1 <= self.depth <= MOST_DEPTH:
            raise ParameterError(f"depth is {self.depth}; give 1 to {MOST_DEPTH}")
        if self.depth > 1 and (size := self.tree.size) > MOST_NODES:
            raise ParameterError(
                f"counting {self.width} children at {self.depth} depths takes a tree of {size} "
                f"nodes, more than {MOST_NODES}; give a smaller width or depth"
            )
        if self.static and self.depth > 1:
            raise ParameterError(
                "one pass over a text judges children of its own tokens, at depth 1; leave out "
                "--static or --D"
            )

    @property
    def tree(self) -> GrowMap:
        """A star, or with depth a tree whose inner nodes have `width` children each.

        Inner are the first child's first child and so on, and what second children lead to, one on
        each way: where most answers go.
        """
        if self.depth == 1:
            return GrowMap.k_ary([self.width], f"star-{self.width}")
        parents, level = [-1], [(0, False)]
        for depth in range(1, self.depth + 1):
            below = list[tuple[int, bool]]()
            for node, second in level:
                inner = [False] if second else [False, True][: self.width]
                if depth < self.depth:
                    below += [(len(parents) + at, second or each) for at, each in enumerate(inner)]
                parents += [node] * self.width
            level = below
        return GrowMap(tuple(parents), f"counting-{self.width}x{self.depth}")

    def params_of(self, prompt: int) -> SamplingParams:
        assert self.params.seed is not None
        return replace(self.params, seed=self.params.seed + prompt, max_new_tokens=self.tokens)

    def text_tokens(self, passages: Sequence[Passage]) -> int:
        """Tokens of the longest text with its answer."""
        if not self.static:
            return self.tokens + max(each.prompt for each in passages)
        return max(
            len(each.token_ids) + (self.tokens if len(each.token_ids) <= each.prompt else 0)
            for each in passages
        )


@dataclass(frozen=True, slots=True)
class AcceptanceVector:
    rates: tuple[float, ...]  # a_1 to a_W
    rejected: float  # probability that no child is accepted
    intervals: tuple[tuple[float, float], ...]  # of each rate, over prompts; () for a single one
    positions: int
    prompts: int  # that have positions
    deeper: tuple[tuple[float, ...], ...] = ()  # the rates at depth 2, 3, ..., shrunk: see `Tally`
    deeper_positions: tuple[int, ...] = ()

    @classmethod
    def of(cls, judged: Sequence[Sequence[Acceptance]], seed: int = 17) -> AcceptanceVector:
        """From each prompt's positions by depth, [n, W] each.

        Raises ParameterError if there is none.
        """
        first = [each[0] for each in judged if len(each[0])]
        positions = np.array([len(each) for each in first])
        prompts = len(positions)
        if not prompts:
            raise ParameterError("nothing was judged: every text ends with its prompt")
        accepted = np.array([each.sum(0) for each in first])  # [prompts, W]
        rates = accepted.sum(0) / positions.sum()
        intervals: tuple[tuple[float, float], ...] = ()
        if prompts > 1:
            drawn = np.random.default_rng(seed).integers(prompts, size=(RESAMPLES, prompts))
            resampled = accepted[drawn].sum(1) / positions[drawn].sum(1)[:, None]
            low, high = np.percentile(resampled, PERCENTILES, axis=0)
            intervals = tuple(zip(low.tolist(), high.tolist(), strict=True))
        rejected = max(0.0, 1.0 - float(rates.sum()))
        depths = [each for each in map(np.concatenate, zip(*judged, strict=True)) if len(each)]
        tallies = [
            Tally(tuple(each.sum(0).tolist()), (float(len(each)),) * each.shape[1])
            for each in depths
        ]
        pooled = Tally.pooled(tallies).rates()
        return cls(
            tuple(rates.tolist()), rejected, intervals, int(positions.sum()), prompts,
            tuple(each.rates(pooled) for each in tallies[1:]), tuple(map(len, depths[1:])),
        )  # fmt: skip


def count_acceptance(
    pair: Pair, passages: Sequence[Passage], plan: AcceptancePlan
) -> Iterator[tuple[Acceptance, ...]]:
    """Of each passage, by depth; raises ParameterError if the draft has too few tokens.

    By decoding, `plan.tree` is drafted at every step, and a node counts if its children decided an
    emitted token. Statically, every position
    after the prompt is judged by one pass of each model; where nothing follows the prompt, as with
    a question, the target first writes an answer plainly.
    """
    assert pair.draft is not None
    draft = DraftModel(pair.draft, pair.draft_vocab_ids)
    if plan.width > draft.columns:
        raise ParameterError(
            f"width is {plan.width}, but the draft knows only {draft.columns} tokens"
        )
    make_sampler = nucleus_sampler(min(plan.draft_top_p, 1.0))
    engine = Engine.of(pair, BundledAdvisor({}))
    engine.tree_choice = TreeChoice(Mode.AR)
    if not plan.static:
        engine.clock, engine.make_sampler = NoBaseline(), make_sampler
        engine.tree_choice = TreeChoice(growmap=plan.tree)
    for at, passage in enumerate(passages):
        params, ids = plan.params_of(at), passage.token_ids
        if not plan.static:
            ranks: list[list[int]] = [[] for _ in range(plan.depth)]
            for event in engine.generate(ids[: passage.prompt], params):
                if isinstance(event, Step):
                    for found, rank in zip(ranks, accepted_ranks(event), strict=False):
                        found.append(rank)
            every = range(1, plan.width + 1)
            yield tuple(np.equal.outer(each, every).astype(np.float64) for each in ranks)
            continue
        if len(ids) <= passage.prompt:
            for _ in engine.generate(ids, params):
                pass
            ids = tuple(engine.token_ids)
        sampler = make_sampler(plan.params_of(JUDGING + at), pair.target.device, Mode.SEQUOIA)
        logits = answer_logits(pair.target, draft, (ids, passage.prompt))
        yield (acceptance_by_rank(logits, draft, sampler, plan.width),)


def accepted_ranks(step: Step) -> Iterator[int]:
    """Which child was accepted at the root, below it, ...; 0 where none was."""
    with_children = {node.parent for node in step.nodes}
    for depth, node in enumerate(step.path[: len(step.token_ids)]):
        if node in with_children:
            yield step.nodes[step.path[depth + 1]].rank if depth + 1 < len(step.path) else 0
