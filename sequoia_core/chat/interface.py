"""What a screen or a command needs of a conversation with a pair of models.

`Conversation` decodes in this process, `app.engine.client` in another one, and `ReplayEngine`
replays a recorded trace.
"""

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
    """A conversation with a pair of models; called from one thread only."""

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
            should_stop: called between steps; True ends the answer.

        Raises:
            ParameterError: the prompt is blank, or the chat template or the tokenizer refuses it.
            ContextFullError: the prompt alone is longer than the context window.
        """
        ...

    def clear(self) -> None:
        """Forget all turns; the system prompt stays."""
        ...

    def restore(self, turns: Sequence[Turn]) -> None:
        """Continue from exactly these turns: another branch, or a chat of an earlier day.

        The next answer does not read again what they share with the turns before.

        Args:
            turns: all of them, the oldest first; the system prompt stays as it is.

        Raises:
            ParameterError: the chat template refuses them; nothing changes.
        """
        ...

    def set_system_prompt(self, system_prompt: str | None) -> None:
        """Start over with another system prompt; None is the chat template's own default.

        Raises:
            ParameterError: the template takes none; nothing changes.
            ContextFullError: it leaves no room for a message; nothing changes.
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
        """Measure pair and machine in short slices while nobody waits, until all is measured.

        Yields a `Notice` or `TreeChosen` when something was measured.
        """
        ...
