"""Several turns with one pair: which of them the next prompt follows, and what fits the window."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING

from msgspec import structs
from typing_extensions import override

from sequoia_core.chat.interface import ChatEngine
from sequoia_core.chat.race import Lane, LaneClock, Race, RaceEvent, RaceTerms, take_turns
from sequoia_core.config import Lookup, Mode, SamplingParams
from sequoia_core.decode.engine import Engine
from sequoia_core.decode.timed_model import TimedModel
from sequoia_core.errors import ContextFullError, ParameterError
from sequoia_core.events import (
    Event,
    Notice,
    NoticeKind,
    PrefillDone,
    Progress,
    Step,
    StopCheck,
    TextDelta,
    TreeChosen,
)
from sequoia_core.speculate.baseline_timer import NoBaseline
from sequoia_core.text.chat_template import ChatTemplate, Turn
from sequoia_core.text.detokenizer import TokenizerCodec
from sequoia_core.tree.choice import TreeChoice, lookup_for

if TYPE_CHECKING:
    from sequoia_core.model.loading.pair import Pair


class Conversation(ChatEngine):
    """A chat with a loaded pair; with `insight`, steps have an `Insight`.

    Attributes:
        turns: those that the next prompt will follow.
        token_ids: prompt and answer tokens of those turns, as they were read and generated.
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

        self.description = pair.description
        self._pair = pair
        self._codec = TokenizerCodec(pair.tokenizer, pair.eos_token_ids)
        self._tuner = Tuner(pair)
        self._engine = Engine.of(pair, self._tuner.advisor)
        self._engine.insight = insight
        self.choose_tree(tree_choice or TreeChoice())
        self._warned_of_precision = False
        self._template = self._template_with(system_prompt)
        self.clear()

    def _template_with(self, system_prompt: str | None) -> ChatTemplate:
        return ChatTemplate(self._pair.tokenizer, system_prompt, self._pair.eos_token_ids)

    @override
    def choose_tree(self, choice: TreeChoice) -> None:
        self.tree_choice = self._engine.tree_choice = choice

    @override
    def clear(self) -> None:
        self._go_on_from((), (), ())
        self._engine.release()

    @override
    def restore(self, turns: Sequence[Turn]) -> None:
        restored = [self._recognized(turn) for turn in turns]
        self._go_on_from((), restored, self._template.answered(restored))

    def _go_on_from(
        self, dropped: Sequence[Turn], turns: Sequence[Turn], token_ids: Sequence[int]
    ) -> None:
        self._dropped, self.turns, self.token_ids = tuple(dropped), tuple(turns), tuple(token_ids)
        self._answer: object = None  # identifies the one whose tokens the engine holds

    @override
    def set_system_prompt(self, system_prompt: str | None) -> None:
        template = self._template_with(system_prompt)
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
        self, prompt: str, params: SamplingParams, should_stop: StopCheck = lambda: False
    ) -> Iterator[Event]:
        if not prompt.strip():
            raise ParameterError("the message is empty; type something first")
        yield from self._answer_turn(Turn(prompt, ""), params, should_stop)

    @override
    def continue_answer(
        self, turn: Turn, params: SamplingParams, should_stop: StopCheck = lambda: False
    ) -> Iterator[Event]:
        if not turn.answer:
            raise ParameterError("the answer has no text that could go on")
        yield from self._answer_turn(self._recognized(turn), params, should_stop)

    def _answer_turn(
        self, turn: Turn, params: SamplingParams, should_stop: StopCheck
    ) -> Iterator[Event]:
        """Decode the answer of a turn, from its end on if there is one already."""
        begun = self._template.open_answer(turn) if turn.answer else []
        dropped, turns, prompt_ids = self._fit(turn.prompt, params, begun)
        if (more := len(dropped) - len(self._dropped)) > 0:
            which = "turn was" if more == 1 else f"{more} turns were"
            text = (
                f"the context window is full: the oldest {which} dropped from what the model sees"
            )
            yield Notice(NoticeKind.CONTEXT_TRIMMED, text)
        self._engine.advisor = self._tuner.advisor  # measured since, perhaps
        self._answer = this = object()
        text, tokens = "", 0
        try:
            for event in self._engine.generate(prompt_ids, params, should_stop, len(begun)):
                if isinstance(event, TextDelta):  # text comes before its step
                    text += event.text
                elif isinstance(event, Step):
                    tokens += len(event.token_ids)
                elif isinstance(event, PrefillDone):
                    event = structs.replace(event, left_out=len(dropped))
                yield event
                if isinstance(event, TreeChosen):
                    yield from self._precision_notice(event, params)
        finally:  # also if the caller leaves in the middle
            if (begun or text or tokens) and self._answer is this:
                ids = self._engine.token_ids if text or tokens else tuple(prompt_ids)
                answer_ids = ids[len(prompt_ids) - len(begun) :]
                answered = Turn(turn.prompt, turn.answer + text, answer_ids)
                self._go_on_from(dropped, [*turns, answered], ids)

    @override
    def tune(self, should_stop: StopCheck) -> Iterator[Event]:
        self._engine.prepare(should_stop)
        yield self._engine.memory_use(self._pair.weight_bytes)
        yield from self._tuner.tune(should_stop)

    @override
    def race(self, race: Race, should_stop: StopCheck, progress: Progress) -> Iterator[RaceEvent]:
        choices = [side.choice or self.tree_choice for side in race.sides]
        drafts = dict.fromkeys(side.draft for side in race.sides)
        loaded = {draft: self._pair_with(draft, should_stop, progress) for draft in drafts}
        pairs = [loaded[side.draft] for side in race.sides]
        plainly = [_decodes_plainly(*each) for each in zip(choices, pairs, strict=True)]
        if all(plainly):
            why = "both sides are plain decoding: the mode is ar"
            if any(choice.mode is not Mode.AR for choice in choices):
                why = "there is no draft and looking up is off"
            raise ParameterError(f"nothing to race: {why}")
        params = race.params
        if any(choice.mode is Mode.GREEDY for choice in choices):
            params = replace(params, temperature=0.0)
        # both have caches of their own, freed at the end: this conversation is not touched
        copies = (
            self._copy(pair, choice, race.turns)
            for pair, choice in zip(pairs, choices, strict=True)
        )
        talks = dict(zip(Lane, copies, strict=True))
        plain = next((lane for lane, each in zip(Lane, plainly, strict=True) if each), None)
        clock = NoBaseline() if plain is None else LaneClock()
        for lane, talk in talks.items():
            if lane is not plain:
                talk._engine.clock = clock
        yield RaceTerms(params.temperature, self.description.threads, self.description.exact)
        lanes = {lane: each.reply(race.prompt, params, should_stop) for lane, each in talks.items()}
        for event in take_turns(lanes, TimedModel(self._pair.target).wait):
            if isinstance(clock, LaneClock) and event.lane is plain:
                clock.note(event.event)
            yield event

    def _pair_with(self, draft: str | None, should_stop: StopCheck, progress: Progress) -> Pair:
        if draft is None:
            return self._pair
        from sequoia_core.model.loading.pair import with_other_draft

        def report(message: str, fraction: float | None) -> None:
            if should_stop():
                raise ParameterError("stopped while a draft was loaded")
            progress(message, fraction)

        return with_other_draft(self._pair, draft, report)

    def keeps_target(self, target: str | None, draft: str | None) -> bool:
        """Whether `with_draft` can take a draft of this target, both as for `load_pair`.

        Raises ModelLoadError if one of them cannot be used.
        """
        from sequoia_core.model.loading.pair import keeps_target

        return keeps_target(self._pair, target, draft)

    def with_draft(self, draft: str | None, progress: Progress) -> Conversation:
        """This chat with the same target and another draft, which alone is loaded.

        What the target has read stays in its cache, so this conversation must not be used any more.
        Raises as `with_other_draft`; then it can be.
        """
        from sequoia_core.model.loading.pair import with_other_draft

        pair = with_other_draft(self._pair, draft, progress)
        turns = [*self._dropped, *self.turns]
        other = self._copy(pair, self.tree_choice, turns, self._engine)
        other.description, other._engine.insight = pair.description, self._engine.insight
        return other

    def _copy(
        self, pair: Pair, choice: TreeChoice, turns: Sequence[Turn], before: Engine | None = None
    ) -> Conversation:
        """Another conversation with the same target; of the same pair, with its measurements."""
        from sequoia_core.measure.tuner import Tuner

        other = copy(self)
        if pair is not self._pair:
            other._pair, other._tuner = pair, Tuner(pair)
        other._engine = Engine.of(pair, other._tuner.advisor, before)
        other.choose_tree(choice)
        other.restore(turns)
        return other

    def _recognized(self, turn: Turn) -> Turn:
        """The turn, without ids that do not decode to its answer: another pair's, or incomplete."""
        known = all(0 <= token < self._pair.target.vocab_size for token in turn.answer_ids)
        text = self._codec.decode(turn.answer_ids) if known else ""
        # the tokens go further than the text if a stop string cut it
        reads = text.startswith(turn.answer) if turn.answer else known and not text
        return turn if reads else replace(turn, answer_ids=())

    def _fit(
        self, prompt: str, params: SamplingParams, begun: Sequence[int]
    ) -> tuple[Sequence[Turn], Sequence[Turn], list[int]]:
        """The turns that do not fit before this prompt, those that do, and the ids of all.

        The ids end with those of the answer that was begun. The turns are chosen from all for each
        prompt, so that a chat that is opened again drops the same.
        """
        window = self._engine.context_window
        room = params.room(window) + len(begun)
        turns = [*self._dropped, *self.turns]
        ids = self._template.whole(turns, prompt)
        left_out = 0
        if turns and len(ids) + room > window:

            def fits(dropped: int) -> bool:
                return len(self._template.whole(turns[dropped:], prompt)) + room <= window

            # a long chat that is opened again may have to lose hundreds of turns at once
            left_out = 1 + bisect_left(range(1, len(turns)), True, key=fits)
            ids = self._template.whole(turns[left_out:], prompt)
        ids += begun
        if len(ids) >= window:
            least = len(self._template.whole([], "?"))
            if least >= window:
                raise ContextFullError(
                    f"the context window holds {window} tokens, but system prompt and chat "
                    f"template take {least}; shorten the system prompt, or raise --context-window"
                )
            what = "message and its answer have" if begun else "message has"
            raise ContextFullError(
                f"the {what} {len(ids)} tokens with system prompt and chat template, but the "
                f"context window holds {window}; shorten it"
            )
        return turns[:left_out], turns[left_out:], ids

    def _precision_notice(self, tree: TreeChosen, params: SamplingParams) -> Iterator[Notice]:
        greedy = params.temperature == 0.0 or self.tree_choice.mode is Mode.GREEDY
        several_rows = tree.nodes > 1 or tree.lookup != Lookup.OFF.value
        if greedy and not self.description.exact and several_rows and not self._warned_of_precision:
            self._warned_of_precision = True
            yield Notice(
                NoticeKind.PRECISION,
                "Rounding can tip a near-tie, so this text may differ slightly from plain decoding "
                f"({self.description.dtype}; --dtype float32 gives the same text)",
            )


def _decodes_plainly(choice: TreeChoice, pair: Pair) -> bool:
    """Whether no step can have a tree."""
    nothing_drafted = pair.draft is None and lookup_for(choice) is Lookup.OFF
    return choice.mode is Mode.AR or nothing_drafted
