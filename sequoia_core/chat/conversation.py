"""Several turns with one pair: which of them the next prompt follows, and what fits the window.

The chat template makes the prompt's tokens from the turns, and the engine reuses the KV of the
longest common prefix.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from typing_extensions import override

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import Lane, LaneClock, RaceEvent, RaceTerms, race
from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode.engine import Engine
from sequoia_core.decode.timed_model import TimedModel
from sequoia_core.decode.tree_choice import lookup_for
from sequoia_core.errors import ContextFullError, ParameterError
from sequoia_core.events import (
    Event,
    Notice,
    NoticeKind,
    PairDescription,
    Step,
    TextDelta,
    TreeChosen,
)
from sequoia_core.text.chat_template import ChatTemplate, Turn
from sequoia_core.text.token_text import TokenizerCodec
from sequoia_core.tree.choice import TreeChoice

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair

ANSWER_SHARE = 4
"""At most 1 / ANSWER_SHARE of the context window is kept free for an answer."""


@dataclass(slots=True)
class _Answering:
    """The turn being decoded, after `turns` and without the `dropped` ones before them."""

    dropped: list[Turn]
    turns: list[Turn]
    prompt: str
    prompt_ids: list[int]
    text: str = ""
    tokens: int = 0


class Conversation(ChatEngine):
    """A chat with a loaded pair.

    Args:
        pair: from `load_pair`.
        system_prompt: None is the chat template's own default.
        tree_choice: mode and growmap; see `TreeChoice`.
        insight: steps have an `Insight`.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        system_prompt: str | None = None,
        tree_choice: TreeChoice | None = None,
        insight: bool = False,
    ) -> None:
        from sequoia_core.measure.tuner import Tuner

        self._pair = pair
        self._codec = TokenizerCodec(pair.tokenizer, pair.eos_token_ids)
        self._tuner = Tuner(pair)
        self._engine = Engine.of(pair, self._tuner)
        self._engine.tree_choice = tree_choice or TreeChoice()
        self._engine.insight = insight
        self._warned_of_precision = False
        self._template = ChatTemplate(pair.tokenizer, system_prompt, pair.eos_token_ids)
        self.clear()

    @property
    @override
    def description(self) -> PairDescription:
        return self._pair.description

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The turns that the next prompt will follow."""
        return tuple(self._turns)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and answer tokens of those turns, as they were read and generated."""
        return tuple(self._ids)

    @property
    @override
    def tree_choice(self) -> TreeChoice:
        return self._engine.tree_choice

    @override
    def choose_tree(self, choice: TreeChoice) -> None:
        self._engine.tree_choice = choice

    @override
    def clear(self) -> None:
        self._answering: _Answering | None = None
        self._dropped: list[Turn] = []
        self._turns: list[Turn] = []
        self._ids: list[int] = []
        self._engine.release()

    @override
    def restore(self, turns: Sequence[Turn]) -> None:
        restored = [self._recognized(turn) for turn in turns]
        ids = self._template.answered(restored)
        self._answering = None
        self._dropped, self._turns, self._ids = [], restored, ids

    @override
    def set_system_prompt(self, system_prompt: str | None) -> None:
        template = ChatTemplate(self._pair.tokenizer, system_prompt, self._pair.eos_token_ids)
        tokens, window = len(template.whole((), "?")), self._engine.context_window
        if tokens >= window:
            raise ContextFullError(
                f"the system prompt makes any message {tokens} tokens long, but the context window "
                f"holds {window}; shorten it"
            )
        self._template = template
        self.clear()

    @override
    def reply(
        self,
        prompt: str,
        params: SamplingParams,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        if not prompt.strip():
            raise ParameterError("the message is empty; type something first")
        dropped, turns, prompt_ids = self._fit(prompt, params)
        if len(dropped) > len(self._dropped):
            yield _trimmed(len(dropped) - len(self._dropped))
        self._answering = answering = _Answering(dropped, turns, prompt, prompt_ids)
        try:
            for event in self._engine.generate(prompt_ids, params, should_stop):
                if isinstance(event, TextDelta):
                    answering.text += event.text
                elif isinstance(event, Step):
                    answering.tokens += len(event.token_ids)
                yield event
                if isinstance(event, TreeChosen):
                    yield from self._precision_notice(event, params)
        finally:  # also if the caller leaves in the middle
            self._record(answering)

    @override
    def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        yield from self._tuner.tune(should_stop)

    @override
    def race(
        self,
        turns: Sequence[Turn],
        prompt: str,
        params: SamplingParams,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[RaceEvent]:
        choice = self.tree_choice
        if choice.mode is Mode.AR:
            raise ParameterError("nothing to race: the mode is ar, which is plain decoding already")
        if self._pair.draft is None and lookup_for(choice) is Lookup.OFF:
            raise ParameterError("nothing to race: there is no draft and looking up is off")
        if choice.mode is Mode.GREEDY:
            params = replace(params, temperature=0.0)
        clock = LaneClock()
        # both have caches of their own, freed at the end: this conversation is not touched
        plain, trees = self._copy(TreeChoice(Mode.AR), turns), self._copy(choice, turns)
        trees._engine.clock = clock
        device = TimedModel(self._pair.target)
        yield RaceTerms(params.temperature, self.description.threads, self.description.exact)
        lanes = {
            Lane.PLAIN: plain.reply(prompt, params, should_stop),
            Lane.SPECULATIVE: trees.reply(prompt, params, should_stop),
        }
        for event in race(lanes, device.wait):
            if event.lane is Lane.PLAIN:
                clock.note(event.event)
            yield event

    def _copy(self, choice: TreeChoice, turns: Sequence[Turn]) -> Conversation:
        """Another conversation with the same models and measurements."""
        other = copy(self)
        other._engine = Engine.of(self._pair, self._tuner)
        other._engine.tree_choice = choice
        other.restore(turns)
        return other

    def _recognized(self, turn: Turn) -> Turn:
        """The turn, without ids that do not decode to its answer: another pair's, or incomplete."""
        known = all(0 <= token < self._pair.target.vocab_size for token in turn.answer_ids)
        text = self._codec.decode(turn.answer_ids) if known else ""
        # the tokens go further than the text if a stop string cut it
        reads = text.startswith(turn.answer) if turn.answer else known and not text
        return turn if reads else replace(turn, answer_ids=())

    def _record(self, answering: _Answering) -> None:
        if answering is not self._answering:
            return  # the engine's tokens are those of a newer answer
        if answering.tokens or answering.text:  # text comes before its step
            self._ids = list(self._engine.token_ids)
            answer_ids = tuple(self._ids[len(answering.prompt_ids) :])
            turn = Turn(answering.prompt, answering.text, answer_ids)
            self._dropped, self._turns = answering.dropped, [*answering.turns, turn]

    def _fit(self, prompt: str, params: SamplingParams) -> tuple[list[Turn], list[Turn], list[int]]:
        """The turns that do not fit before this prompt, those that do, and the prompt's ids.

        Chosen from all turns for each prompt, so that a chat that is opened again drops the same.
        """
        window = self._engine.context_window
        room = min(params.max_new_tokens, window // ANSWER_SHARE)
        turns = [*self._dropped, *self._turns]
        ids = self._template.whole(turns, prompt)
        left_out = 0
        if turns and len(ids) + room > window:

            def fits(dropped: int) -> bool:
                return len(self._template.whole(turns[dropped:], prompt)) + room <= window

            # a long chat that is opened again may have to lose hundreds of turns at once
            left_out = 1 + bisect_left(range(1, len(turns)), True, key=fits)
            ids = self._template.whole(turns[left_out:], prompt)
        if len(ids) >= window:
            raise ContextFullError(
                f"the message has {len(ids)} tokens with its surroundings, but the context window "
                f"holds {window}; shorten it"
            )
        return turns[:left_out], turns[left_out:], ids

    def _precision_notice(self, tree: TreeChosen, params: SamplingParams) -> Iterator[Notice]:
        greedy = params.temperature == 0.0 or self.tree_choice.mode is Mode.GREEDY
        several_rows = tree.nodes > 1 or tree.lookup != Lookup.OFF.value
        if greedy and not self.description.exact and several_rows and not self._warned_of_precision:
            self._warned_of_precision = True
            yield Notice(
                NoticeKind.PRECISION,
                f"in {self.description.dtype} a forward of several rows rounds differently from a "
                "single row's, so near-ties may fall differently than in plain decoding; "
                "--dtype float32 gives the same text token for token",
            )


def _trimmed(dropped: int) -> Notice:
    turns = "turn was" if dropped == 1 else f"{dropped} turns were"
    return Notice(
        NoticeKind.CONTEXT_TRIMMED,
        f"the context window is full: the oldest {turns} dropped from what the model sees",
    )
