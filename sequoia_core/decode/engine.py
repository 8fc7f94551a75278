"""The decoding loop: steps of one answer as events, until it ends."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from time import perf_counter
from typing import TYPE_CHECKING
from weakref import proxy

import torch

from sequoia_core.config import GROWING_MODES, Lookup, Mode, SamplingParams
from sequoia_core.decode.report import explained, step_nodes
from sequoia_core.decode.step import MOST_PENDING, Sampler, Speculator
from sequoia_core.decode.timed_model import timed
from sequoia_core.decode.token_cache import TokenCache
from sequoia_core.decode.tree_choice import PlainNotices, smaller, tree_after, tree_for
from sequoia_core.errors import ContextFullError, MemoryFullError, ParameterError, SequoiaError
from sequoia_core.events import (
    Event,
    Finished,
    FinishReason,
    MemoryUse,
    Piece,
    PrefillDone,
    PrefillProgress,
    Step,
    StepTimings,
    StopCheck,
    TextDelta,
    Totals,
)
from sequoia_core.model.graphs import Rung
from sequoia_core.model.interface import LanguageModel
from sequoia_core.model.loading.memory_plan import memory_errors
from sequoia_core.model.memory_use import memory_use
from sequoia_core.model.recorded import graphs_of
from sequoia_core.speculate.baseline_timer import BaselineTimer, NoBaseline
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.scored_tree import ScoredTree
from sequoia_core.speculate.tree_advisor import TreeAdvisor
from sequoia_core.speculate.verify import Verdict
from sequoia_core.text.detokenizer import TextCodec, TextStream, TokenizerCodec
from sequoia_core.tree.choice import ROOT, Tree, TreeChoice, lookup_for

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair


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
    narrowed: bool = False  # for want of room, so that no advice brings a larger tree back


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
        before: Engine | None = None,  # with the same target, whose cache becomes this one's
    ) -> None:
        self._target = timed(target)
        self._draft = timed(draft.model) if draft else None
        self._codec, self._eos_token_ids = codec, eos_token_ids
        known: TokenCache | None = before._cache if before else None
        self._cache: TokenCache = TokenCache(target, draft.model if draft else None, known)
        timed_draft = replace(draft, model=self._draft) if draft and self._draft else None
        self._graphs = graphs_of(target)
        self._speculator = Speculator(
            self._target, timed_draft, self._cache, eos_token_ids, self._graphs
        )
        engine = proxy(self)  # no cycle: weights are freed as soon as nothing uses them
        self.clock: NoBaseline = BaselineTimer(lambda context: engine.advisor.costs(0.0, context))
        self.advisor = advisor
        self.tree_choice = TreeChoice()
        self.make_sampler: Callable[[SamplingParams, torch.device, Mode], Sampler] = Sampler.of
        self.insight = False
        self._answers = 0
        self._notices = PlainNotices(self._graphs)

    @classmethod
    def of(cls, pair: Pair, advisor: TreeAdvisor, before: Engine | None = None) -> Engine:
        return cls(
            pair.target,
            DraftModel(pair.draft, pair.draft_vocab_ids) if pair.draft else None,
            codec=TokenizerCodec(pair.tokenizer, pair.eos_token_ids),
            eos_token_ids=pair.eos_token_ids,
            advisor=advisor,
            before=before,
        )

    @property
    def context_window(self) -> int:
        """Most tokens of prompt and answer together."""
        return self._target.context_window

    @property
    def token_ids(self) -> tuple[int, ...]:
        """The last prompt and what was decoded after it."""
        return tuple(self._cache.token_ids)

    def memory_use(self, weights: Mapping[torch.device, int]) -> MemoryUse:
        """With what the weights take."""
        return memory_use(weights, self._cache.both, self._graphs)

    def release(self) -> None:
        """Return memory that a long text took; the next prompt is read anew except its start."""
        self._cache.release()
        self._target.forget_unused()

    @property
    def _holds_graphs(self) -> bool:
        return self._graphs is not None and self._graphs.rung > Rung.EAGER

    def prepare(self, should_stop: StopCheck) -> None:
        """Record, while nobody waits, what the coming steps will need."""
        while not should_stop() and self._cache.prepare():
            pass

    def generate(
        self,
        prompt_ids: Sequence[int],
        params: SamplingParams,
        should_stop: StopCheck = lambda: False,
        begun: int = 0,
    ) -> Iterator[Event]:
        """Decode after a prompt; the KV of the longest prefix shared with the last call is reused.

        So many of the prompt's last tokens are the beginning of the answer.

        Yields events in the order of `sequoia_core.events`, ending with `Finished`. Raises
        ParameterError for a prompt that is empty or has a token without a row in the embedding,
        ContextFullError if it leaves no room for an answer, and MemoryFullError if not even a plain
        step fits; the next prompt can be decoded.
        """
        self._check(prompt_ids)
        if self.tree_choice.mode is Mode.GREEDY:
            params = replace(params, temperature=0.0)
        context, drafts = len(prompt_ids), self._draft is not None
        if (costs := self.advisor.costs(params.temperature, context)) is not None:
            self._speculator.costs.set_costs(costs)
        tree, chosen = tree_for(self._choice, self.advisor, params.temperature, context, drafts)
        yield chosen
        yield from self._notices.of_choice(self.tree_choice, chosen)
        yield from self._notices.of_graphs()
        self._answers += 1
        answer = self._answers
        try:
            with memory_errors(self._speculator.memory_full):
                after = prompt_ids[len(prompt_ids) - begun :]
                read = self._prefill(tree, prompt_ids, should_stop)
                for event in chain(read, self._decode(tree, params, should_stop, after)):
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

    @property
    def _choice(self) -> TreeChoice:
        """The person's, where adaptive trees are chosen or not."""
        choice = self.tree_choice
        if choice.adaptive is not None or choice.growmap is not None or choice.dynamic is not None:
            return choice
        known = choice.mode in GROWING_MODES
        return replace(choice, adaptive=known and self._speculator.reads_trees)

    def _prefill(
        self, tree: Tree, prompt_ids: Sequence[int], should_stop: StopCheck
    ) -> Iterator[Event]:
        began = perf_counter()
        cached = self._cache.start(prompt_ids)
        total = len(prompt_ids) - 1 - cached
        for left in self._read(self._cache.read_prompt):
            if should_stop():
                return
            yield PrefillProgress(total - left, total)
        if tree.size > 1 and self._speculator.fits(tree):
            # here, and not in the first step, whose time would contain it
            for _ in self._read(partial(self._cache.read_draft_prompt, MOST_PENDING)):
                if should_stop():
                    return
        self._target.wait()
        yield PrefillDone(len(prompt_ids), cached, perf_counter() - began)

    def _read(self, unread: Callable[[], Iterator[int]]) -> Iterator[int]:
        """Read what is unread; where memory ends, the rest with fewer recordings."""
        while True:
            try:
                with memory_errors(self._speculator.memory_full):
                    yield from unread()
                    return
            except MemoryFullError:
                if not self._holds_graphs:
                    raise
            self._drop_graphs()  # here what the failed reading held is free again

    def _drop_graphs(self) -> None:
        """Keep fewer recordings where memory is full."""
        assert self._graphs is not None
        self._graphs.shrink()
        self._target.forget_unused()

    def _decode(
        self, tree: Tree, params: SamplingParams, should_stop: StopCheck, after: Sequence[int]
    ) -> Iterator[Event]:
        sampler = self.make_sampler(params, self._target.device, self.tree_choice.mode)
        text = TextStream(self._codec, params.stop, after)
        answer = _Answer(params, sampler, text, tree, lookup_for(self.tree_choice))
        finish: FinishReason | None = None
        while finish is None:
            if should_stop() or self._cache.unread:
                finish = FinishReason.CANCELLED
                break
            if not self._speculator.fits(answer.tree):
                yield self._notices.no_room(answer.tree)
                answer.tree, answer.narrowed = ROOT, True
            try:
                found = self._step(answer)
            except MemoryFullError:
                plain = answer.tree.size == 1 and answer.lookup is Lookup.OFF
                if plain and not self._holds_graphs:
                    raise
                found = None
            if found is None:  # here what the failed step held is free again
                self._cache.roll_back()
                if self._holds_graphs:  # the same tree with fewer
                    self._drop_graphs()
                    yield from self._notices.of_graphs()
                    continue
                self._target.forget_unused()
                answer.tree, answer.lookup, answer.narrowed = smaller(answer.tree), Lookup.OFF, True
                yield self._notices.no_memory(answer.tree)
                continue
            step, pieces, finish = found
            answer.totals = answer.totals.plus(step)
            answer.last_rank = pieces[-1].rank
            if printable := "".join(piece.text for piece in pieces):
                yield TextDelta(step.index, printable, pieces)
            yield step
            yield from self._notices.of_step(self.tree_choice, answer.tree, step)
            yield from self._notices.of_graphs()
            drafts, temperature = self._draft is not None, params.temperature
            other = tree_after(step, self._choice, self.advisor, temperature, drafts)
            if finish is None and other is not None and not answer.narrowed:
                answer.tree, chosen = other
                yield chosen
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
        bonus_prob = verdict.bonus_prob
        if bonus_prob is None:
            bonus_prob = scored.target_prob_of(verdict.path[-1], bonus)
        insight = explained(scored, verdict, self._codec) if self.insight else None
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

    def _take_clocks(self) -> tuple[float, float]:
        """Milliseconds of draft and target forwards since the last call."""
        return self._draft.take_ms() if self._draft else 0.0, self._target.take_ms()
