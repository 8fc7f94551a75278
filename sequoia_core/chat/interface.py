"""What a screen or a command needs of a conversation with a pair of models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from sequoia_core.events import PairDescription
from sequoia_core.tree.choice import TreeChoice

if TYPE_CHECKING:  # a screen imports this module long before it needs torch
    from sequoia_core.chat.race import RaceEvent
    from sequoia_core.config import SamplingParams
    from sequoia_core.events import Event
    from sequoia_core.text.chat_template import Turn


class ChatEngine(Protocol):
    """What a screen or a command needs of a conversation with a pair of models.

    Called from one thread only. `Conversation` is the real one; tests and `sequoia replay` use
    one that replays a recorded trace.
    """

    @property
    def description(self) -> PairDescription:
        """The pair in use."""
        ...

    @property
    def tree_choice(self) -> TreeChoice:
        """What the next answer will be decoded with."""
        ...

    def choose_tree(self, choice: TreeChoice) -> None:
        """Use another mode or growmap from the next answer on."""
        ...

    def reply(
        self, prompt: str, params: SamplingParams, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        """Answer the person's next message.

        Args:
            prompt: the message; must not be blank.
            params: how to sample.
            should_stop: asked between steps; True ends the answer with what there is.

        Raises:
            ParameterError: the prompt is blank, or the chat template or the tokenizer refuses it.
            ContextFullError: the prompt alone is longer than the context window.
        """
        ...

    def clear(self) -> None:
        """Forget all turns; the system prompt stays."""
        ...

    def restore(self, turns: Sequence[Turn]) -> None:
        """Go on from exactly these turns: another branch, or a chat of an earlier day.

        What they share with the turns before is not read again by the next answer.

        Args:
            turns: all of them, the oldest first; the system prompt stays as it is.

        Raises:
            ParameterError: the chat template refuses them; nothing was changed.
        """
        ...

    def set_system_prompt(self, system_prompt: str | None) -> None:
        """Start over with another system prompt; None is the chat template's own default.

        Raises:
            ParameterError: the template takes none; what was in use stays, and so do the turns.
            ContextFullError: it leaves no room for a message; likewise.
        """
        ...

    def race(
        self,
        turns: Sequence[Turn],
        prompt: str,
        params: SamplingParams,
        should_stop: Callable[[], bool],
    ) -> Iterator[RaceEvent]:
        """Answer a prompt plainly and speculatively at once; the conversation is not touched.

        Args:
            turns: what comes before the prompt, as in `restore`.
            prompt: the message; must not be blank.
            params: how to sample, for both.
            should_stop: as in `reply`.

        Yields:
            `RaceTerms`, then the events of both lanes, each ending with `Finished`.

        Raises:
            ParameterError: the prompt is blank, or there is nothing to race with.
            ContextFullError: the prompt alone is longer than the context window.
        """
        ...

    def tune(self, should_stop: Callable[[], bool]) -> Iterator[Event]:
        """Measure pair and machine in short slices while nobody waits; ends when nothing is left.

        Yields a `Notice` or `TreeChosen` when something was learnt.
        """
        ...
