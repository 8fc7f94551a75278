"""Several turns with one pair: the token ledger, the context window and what may be forgotten.

Owns which tokens the next prompt consists of. The KV cache is reused because the ledger is only
ever extended; the engine finds the common prefix. Knows nothing of trees beyond passing the choice
on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sequoia_core.chat_template import ChatTemplate, Turn
from sequoia_core.config import Mode, SamplingParams
from sequoia_core.engine import Engine
from sequoia_core.errors import ContextFullError, ParameterError
from sequoia_core.events import Event, Notice, NoticeKind, Step, TextDelta, TreeChosen
from sequoia_core.protocols import Lookup, PairDescription, TreeChoice

if TYPE_CHECKING:
    from sequoia_core.pair import Pair

ANSWER_SHARE = 4
"""At most one part in so many of the context window is kept free for an answer."""


@dataclass(slots=True)
class _Answering:
    """The turn being decoded."""

    turns: list[Turn]
    prompt: str
    text: str = ""
    tokens: int = 0


class Conversation:
    """A chat with a loaded pair; see `protocols.ChatEngine`.

    Args:
        pair: from `load_pair`.
        system_prompt: None is the chat template's own default.
        tree_choice: mode and growmap; see `TreeChoice`.
    """

    def __init__(
        self,
        pair: Pair,
        *,
        system_prompt: str | None = None,
        tree_choice: TreeChoice | None = None,
    ) -> None:
        from sequoia_core.measure.tuning import Tuner

        self._pair = pair
        self._tuner = Tuner(pair)
        self._engine = Engine.of(pair, self._tuner)
        self._engine.tree_choice = tree_choice or TreeChoice()
        self._warned_of_precision = False
        self._answering: _Answering | None = None
        self.set_system_prompt(system_prompt)

    @property
    def description(self) -> PairDescription:
        """The pair in use."""
        return self._pair.description

    @property
    def turns(self) -> tuple[Turn, ...]:
        """The exchanges that the next prompt will follow."""
        return tuple(self._turns)

    @property
    def token_ids(self) -> tuple[int, ...]:
        """Prompt and answer tokens of those exchanges, as they were read and generated."""
        return tuple(self._ids)

    @property
    def tree_choice(self) -> TreeChoice:
        """What the next answer will be decoded with."""
        return self._engine.tree_choice

    def choose_tree(self, choice: TreeChoice) -> None:
        """Use another mode or growmap from the next answer on."""
        self._engine.tree_choice = choice

    def clear(self) -> None:
        """Forget all turns; the system prompt stays."""
        self._answering = None
        self._turns: list[Turn] = []
        self._ids: list[int] = []

    def set_system_prompt(self, system_prompt: str | None) -> None:
        """Start over with another system prompt; None is the chat template's own default."""
        self._template = ChatTemplate(self._pair.tokenizer, system_prompt)
        self.clear()

    def reply(
        self,
        prompt: str,
        params: SamplingParams,
        should_stop: Callable[[], bool] = lambda: False,
    ) -> Iterator[Event]:
        """Answer the person's next message; see `protocols.ChatEngine.reply`.

        Raises:
            ParameterError: the prompt is blank.
            ContextFullError: the prompt alone is longer than the context window.
        """
        if not prompt.strip():
            raise ParameterError("the message is empty; type something first")
        turns, prompt_ids = self._fit(prompt, params)
        if dropped := len(self._turns) - len(turns):
            yield _trimmed(dropped)
        self._answering = answering = _Answering(turns, prompt)
        try:
            for event in self._engine.generate(prompt_ids, params, should_stop):
                if isinstance(event, TextDelta):
                    answering.text += event.text
                elif isinstance(event, Step):
                    answering.tokens += len(event.token_ids)
                yield event
                if isinstance(event, TreeChosen):
                    yield from self._precision_notice(event, params)
        finally:  # also when the caller leaves in the middle: what was said stays said
            self._record(answering)

    def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """Measure pair and machine in slices while nobody waits; see `protocols.ChatEngine`."""
        yield from self._tuner.tune(should_stop)

    def _record(self, answering: _Answering) -> None:
        if answering is not self._answering:
            return  # a newer answer was begun: the engine's tokens are its own
        if answering.tokens or answering.text:  # text comes before the step that it is part of
            self._turns = [*answering.turns, Turn(answering.prompt, answering.text)]
            self._ids = list(self._engine.token_ids)

    def _fit(self, prompt: str, params: SamplingParams) -> tuple[list[Turn], list[int]]:
        """The turns that fit before this prompt, and all ids up to where its answer begins."""
        window = self._engine.context_window
        room = min(params.max_new_tokens, window // ANSWER_SHARE)
        turns, ids = list(self._turns), self._extended(prompt)
        while turns and len(ids) + room > window:
            turns = turns[1:]
            ids = self._template.whole(turns, prompt)
        if len(ids) >= window:
            raise ContextFullError(
                f"the message has {len(ids)} tokens with its surroundings, but the context window "
                f"holds {window}; shorten it"
            )
        return turns, ids

    def _extended(self, prompt: str) -> list[int]:
        """The ledger with the last answer closed and the prompt added."""
        added = self._template.continuing(self._turns, prompt) if self._turns else None
        if added is None:
            return self._template.whole(self._turns, prompt)
        ids = list(self._ids)
        if ids[-1] in self._pair.eos_token_ids:
            ids.pop()  # the template's own closing begins with it, or takes its place
        return [*ids, *added]

    def _precision_notice(self, tree: TreeChosen, params: SamplingParams) -> Iterator[Notice]:
        greedy = params.temperature == 0.0 or self.tree_choice.mode is Mode.GREEDY
        number, *kernels = self.description.dtype.split()
        several_rows = tree.nodes > 1 or tree.lookup != Lookup.OFF.value
        rounds = number != "float32" and "exact" not in kernels and several_rows
        if greedy and rounds and not self._warned_of_precision:
            self._warned_of_precision = True
            yield Notice(
                NoticeKind.PRECISION,
                f"in {self.description.dtype} a forward of several rows rounds differently from a "
                "single row's, so near-ties may fall differently than in plain decoding; "
                "--exact or float32 gives the same text token for token",
            )


def _trimmed(dropped: int) -> Notice:
    turns = "turn was" if dropped == 1 else f"{dropped} turns were"
    return Notice(
        NoticeKind.CONTEXT_TRIMMED,
        f"the context window is full: the oldest {turns} dropped from what the model sees",
    )
