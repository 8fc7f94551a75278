"""The decoding loop: steps of one answer as events, until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from msgspec import structs

from sequoia_core.config import NON_SEQUOIA_MODES, Lookup, Mode, SamplingParams
from sequoia_core.decode.baseline_timer import BaselineTimer, NoBaseline
from sequoia_core.decode.report import explain, step_nodes
from sequoia_core.decode.step import MOST_PENDING, Sampler, Speculator
from sequoia_core.decode.timed_model import timed
from sequoia_core.decode.token_cache import TokenCache
from sequoia_core.decode.tree_choice import as_chosen, lookup_for, smaller, tree_for
from sequoia_core.errors import ContextFullError, MemoryFullError, ParameterError, SequoiaError
from sequoia_core.events import (
    Event,
    Finished,
    FinishReason,
    Insight,
    Notice,
    NoticeKind,
    Piece,
    PrefillDone,
    PrefillProgress,
    Step,
    StepTimings,
    TextDelta,
    Totals,
    TreeChosen,
)
from sequoia_core.model.interface import LanguageModel
from sequoia_core.model.loading.memory_plan import is_out_of_memory, memory_errors
from sequoia_core.speculate.adaptive_policy import PROBE_STEPS
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.token_tree import ScoredTree
from sequoia_core.speculate.tree_advisor import TRYING, Advice, TreeAdvisor
from sequoia_core.speculate.verify import Verdict
from sequoia_core.text.detokenizer import TextCodec, TextStream
from sequoia_core.tree.choice import ROOT, AdaptiveTree, Tree, TreeChoice

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair

IDLE = (
    "plain decoding: what the draft proposes is not worth its time here; "
    f"it is tried again every {PROBE_STEPS} steps"
)


@dataclass(slots=True)
class _Answer:
    """The answer being decoded, and the state for its next step."""

    params: SamplingParams
    sampler: Sampler
    text: TextStream
    tree: Tree
    lookup: Lookup
    totals: Totals = field(default_factory=Totals)
    last_rank: int = 0
    narrowed: bool = False
    """The tree was cut for want of room, so that no advice brings a larger one back."""


class Engine:
    """Decodes prompts with one pair of models, keeping their KV caches between calls.

    The target decides every token; without a draft all is decoded plainly. `tree_choice` counts
    from the next answer on; where it names no tree, `advisor` does. An instrument may wrap what
    `make_sampler` makes, and replace `clock`. With `insight` steps carry an `Insight`.
    """

    def __init__(
        self,
        target: LanguageModel,
        draft: DraftModel | None,
        *,
        codec: TextCodec,
        eos_token_ids: frozenset[int],
        advisor: TreeAdvisor,
    ) -> None:
        self._target = timed(target)
        self._draft = timed(draft.model) if draft else None
        self._codec, self._eos_token_ids = codec, eos_token_ids
        self._cache = TokenCache(target, draft.model if draft else None)
        timed_draft = replace(draft, model=self._draft) if draft and self._draft else None
        self._speculator = Speculator(self._target, timed_draft, self._cache, eos_token_ids)
        self.clock: NoBaseline = BaselineTimer(self._calibrated_ms)
        self.advisor = advisor
        self.tree_choice = TreeChoice()
        self.make_sampler: Callable[[SamplingParams, torch.device, Mode], Sampler] = Sampler.of
        self.insight = False
        self._answers = self._idle_steps = 0
        self._plain_for: TreeChoice | None = None
        self._idle_for: TreeChoice | None = None

    @classmethod
    def of(cls, pair: Pair, advisor: TreeAdvisor) -> Engine:
        from sequoia_core.text.detokenizer import TokenizerCodec

        return cls(
            pair.target,
            DraftModel(pair.draft, pair.draft_vocab_ids) if pair.draft else None,
            codec=TokenizerCodec(pair.tokenizer, pair.eos_token_ids),
            eos_token_ids=pair.eos_token_ids,
            advisor=advisor,
        )

    @property
    def context_window(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._target.context_window

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The last prompt and what was decoded after it."""
        return tuple(self._cache.token_ids)

    def release(self) -> None:
        """Return memory that a long text took; the next prompt is read anew except its start."""
        self._cache.release()
        self._target.forget_unused()

    def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Decode after a prompt; the KV of the longest prefix shared with the last call is reused.

        Yields events in the order that `sequoia_core.events` states, ending with `Finished`.
        Between steps and chunks of the prompt it asks `should_stop`. Raises ParameterError for a
        prompt that is empty or has a token without a row in the embedding, ContextFullError if it
        leaves no room for an answer, and MemoryFullError if not even a plain step fits; the next
        prompt can be decoded.
        """
        self._check(prompt_ids)
        if self.tree_choice.mode is Mode.GREEDY:
            params = replace(params, temperature=0.0)
        tree, chosen = self._choose(params, len(prompt_ids))
        yield chosen
        if self._turns_plain(chosen):
            yield Notice(NoticeKind.PLAIN_DECODING, chosen.reason)
        self._answers += 1
        answer = self._answers
        try:
            with memory_errors(self._speculator.memory_full):
                yield from self._prefill(tree, prompt_ids, should_stop)
                for event in self._decode(tree, params, should_stop):
                    yield event
                    if answer != self._answers:
                        raise SequoiaError("this answer was left for a newer one")
        finally:
            if answer == self._answers:  # else the caches are the newer answer's
                self._cache.roll_back()

    def _check(self, prompt_ids: Sequence[int]) -> None:
        if not prompt_ids:
            raise ParameterError("the prompt is empty; give at least one token")
        if len(prompt_ids) >= self.context_window:
            raise ContextFullError(
                f"the prompt has {len(prompt_ids)} tokens and the context window of "
                f"{self.context_window} must also hold the answer; shorten it"
            )
        highest, rows = max(prompt_ids), self._target.vocab_size
        if highest >= rows:
            raise ParameterError(
                f"the prompt has token {highest} ({self._codec.token_text(highest)!r}), but the "
                f"model's embedding has {rows} rows; leave that text out"
            )

    def _choose(self, params: SamplingParams, context: int) -> tuple[Tree, TreeChosen]:
        costs = self.advisor.costs(params.temperature, context)
        if costs is not None:
            self._speculator.costs.set_costs(costs)
        choice = replace(self.tree_choice, adaptive=self._adaptive)
        if self._draft is None and choice.mode is not Mode.AR:
            reason = "plain decoding: this target has no draft"
            return ROOT, self._with_lookup(TreeChosen(Mode.AR.value, "", 1, 0, reason=reason))
        tree, chosen = tree_for(choice, self.advisor, params.temperature, context)
        return tree, self._with_lookup(chosen)

    @property
    def _adaptive(self) -> bool:
        choice = self.tree_choice
        if choice.adaptive is not None or choice.growmap is not None:
            return bool(choice.adaptive)
        return choice.mode in (Mode.SEQUOIA, Mode.GREEDY) and self._speculator.reads_trees

    def _with_lookup(self, chosen: TreeChosen) -> TreeChosen:
        return structs.replace(chosen, lookup=lookup_for(self.tree_choice).value)

    def _turns_plain(self, chosen: TreeChosen) -> bool:
        """Whether decoding is plain although another mode was chosen; true once for each choice."""
        choice = self.tree_choice
        if chosen.nodes > 1 or choice.mode is Mode.AR:
            if chosen.reason != TRYING:  # a trial is part of decoding plainly
                self._plain_for = None
            return False
        before, self._plain_for = self._plain_for, choice
        return choice != before

    def _turns_idle(self, tree: Tree, step: Step) -> bool:
        """Whether adaptive trees have been empty for long; true once for each choice."""
        if step.baseline or not isinstance(tree, AdaptiveTree):
            return False
        self._idle_steps = 0 if len(step.nodes) > 1 else self._idle_steps + 1
        if self._idle_steps < PROBE_STEPS or self._idle_for == self.tree_choice:
            return False
        self._idle_for = self.tree_choice
        return True

    def _prefill(
        self, tree: Tree, prompt_ids: Sequence[int], should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        began = perf_counter()
        cached = self._cache.start(prompt_ids)
        total = len(prompt_ids) - 1 - cached
        for left in self._cache.read_prompt():
            if should_stop():
                return
            yield PrefillProgress(total - left, total)
        if tree.size > 1 and self._speculator.fits(tree):
            # here, and not in the first step, whose time would contain it
            for _ in self._cache.read_draft_prompt(MOST_PENDING):
                if should_stop():
                    return
        self._target.wait()
        yield PrefillDone(len(prompt_ids), cached, perf_counter() - began)

    def _decode(
        self, tree: Tree, params: SamplingParams, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        sampler = self.make_sampler(params, self._target.device, self.tree_choice.mode)
        text = TextStream(self._codec, params.stop)
        answer = _Answer(params, sampler, text, tree, lookup_for(self.tree_choice))
        finish: FinishReason | None = None
        while finish is None:
            if should_stop() or self._cache.unread:
                finish = FinishReason.CANCELLED
                break
            if not self._speculator.fits(answer.tree):
                yield _narrowed(answer.tree)
                answer.tree, answer.narrowed = ROOT, True
            try:
                found = self._step(answer)
            except MemoryFullError:
                if answer.tree.size == 1 and answer.lookup is Lookup.OFF:
                    raise
                found = None
            if found is None:  # here what the failed step held is free again
                self._cache.roll_back()
                self._target.forget_unused()
                answer.tree, answer.lookup, answer.narrowed = smaller(answer.tree), Lookup.OFF, True
                yield _shrunk(answer.tree)
                continue
            step, pieces, finish = found
            answer.totals = answer.totals.plus(step)
            answer.last_rank = pieces[-1].rank
            if printable := "".join(piece.text for piece in pieces):
                yield TextDelta(step.index, printable, pieces)
            yield step
            if self._turns_idle(answer.tree, step):
                yield Notice(NoticeKind.PLAIN_DECODING, IDLE)
            advice = self._learn(step, params)
            if finish is None and advice is not None and not answer.narrowed:
                answer.tree, chosen = as_chosen(self.tree_choice.mode, advice)
                yield self._with_lookup(chosen)
        if rest := answer.text.flush(cut_off=finish is not FinishReason.STOP):
            yield TextDelta(answer.totals.steps, rest, (Piece(rest, answer.last_rank),))
        yield Finished(finish, answer.totals)

    def _step(self, answer: _Answer) -> tuple[Step, tuple[Piece, ...], FinishReason | None]:
        """One step, committed, its text, and why the answer ends with it if it does.

        Its tensors are free when it returns. Raises MemoryFullError, before anything was judged.
        """
        index, tree, lookup = answer.totals.steps + 1, answer.tree, answer.lookup
        speculates = tree.size > 1 or lookup is not Lookup.OFF
        if baseline := speculates and self.clock.due(index, answer.params):
            tree, lookup = ROOT, Lookup.OFF
        self._take_clocks()
        began = perf_counter()
        scored, verdict = self._speculator.step(tree, answer.sampler, lookup)
        emitted, pieces, finish = self._commit(scored, verdict, answer)
        bonus = verdict.bonus_token
        nodes = step_nodes(scored, verdict, self._codec)
        bonus_prob = scored.target_prob_of(verdict.path[-1], bonus)
        insight = self._explained(scored, verdict) if self.insight else None
        draft_ms, verify_ms = self._take_clocks()
        total_ms = (perf_counter() - began) * 1e3
        context = self._cache.target_cache.length
        if scored.growmap is ROOT:
            plain_ms, plain_source = total_ms, "this step itself decodes plainly"
        else:
            plain_ms, plain_source = self.clock.plain_time(context, verify_ms)
        step = Step(
            index=index,
            nodes=nodes,
            path=verdict.path,
            bonus_token_id=bonus,
            bonus_text=self._codec.token_text(bonus),
            bonus_prob=bonus_prob,
            token_ids=tuple(emitted),
            context_length=context,
            timings=StepTimings(draft_ms, verify_ms, total_ms - draft_ms - verify_ms),
            plain_ms=plain_ms,
            plain_source=plain_source,
            insight=insight,
            baseline=baseline,
        )
        self.clock.observe(step, answer.params)
        return step, pieces, finish

    def _commit(
        self, scored: ScoredTree, verdict: Verdict, answer: _Answer
    ) -> tuple[list[int], tuple[Piece, ...], FinishReason | None]:
        """Keep the accepted path and its bonus up to a stop, or else up to the length limit."""
        room = answer.params.max_new_tokens - answer.totals.tokens
        window = self.context_window - len(self._cache.token_ids)
        tokens = scored.emitted(verdict.path, verdict.bonus_token)
        ranks = [*(scored.growmap.ranks[node] for node in verdict.path[1:]), 0]
        pieces: list[Piece] = []
        finish: FinishReason | None = None
        for token, rank in zip(tokens, ranks, strict=True):
            pieces.append(Piece(answer.text.push(token), rank))
            if token in self._eos_token_ids or answer.text.stopped:
                finish = FinishReason.STOP
                break
            if len(pieces) == min(room, window):
                finish = FinishReason.LENGTH if room <= window else FinishReason.CONTEXT
                break
        emitted = tokens[: len(pieces)]
        self._speculator.commit(scored, verdict.path[: len(emitted) + 1], emitted)
        return emitted, tuple(pieces), finish

    def _explained(self, scored: ScoredTree, verdict: Verdict) -> Insight | None:
        """The step's `Insight`; None where memory does not suffice, since the step stands."""
        try:
            return explain(scored, verdict, self._codec)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            return None

    def _learn(self, step: Step, params: SamplingParams) -> Advice | None:
        """Hand a step to the advisor; its advice counts where the tree is left to the machine."""
        choice = self.tree_choice
        drafted = self._draft is not None  # what is looked up without one still teaches times
        if choice.mode is Mode.AR:
            return None
        other = choice.mode in NON_SEQUOIA_MODES and params.temperature > 0.0
        if other or (self._adaptive and drafted):  # their children are accepted at other rates
            self.advisor.time(step, params.temperature)
            return None
        chain = choice.mode is Mode.CHAIN
        advice = self.advisor.observe(step, params.temperature, chain)
        return advice if drafted and choice.growmap is None else None

    def _calibrated_ms(self, context: int) -> float | None:
        costs = self.advisor.costs(0.0, context)
        return None if costs is None else costs.plain_ms

    def _take_clocks(self) -> tuple[float, float]:
        """Milliseconds of draft and target forwards since the last call."""
        return self._draft.take_ms() if self._draft else 0.0, self._target.take_ms()


def _narrowed(tree: Tree) -> Notice:
    what = "the tree" if isinstance(tree, AdaptiveTree) else f"a tree of {tree.size} nodes"
    why = f"{what} no longer fits into the context window; the rest of the answer is decoded"
    return Notice(NoticeKind.PLAIN_DECODING, f"{why} plainly")


def _shrunk(tree: Tree) -> Notice:
    rest = "plainly" if tree.size == 1 else f"with at most {tree.size} nodes a tree"
    why = "the memory is too full for the tree; the rest of the answer is decoded"
    return Notice(NoticeKind.MEMORY, f"{why} {rest}")
