"""What a screen or a command needs of a conversation with a pair of models."""

from collections.abc import Iterator, Sequence
from typing import Protocol

from sequoia_core.chat.race import Race, RaceEvent
from sequoia_core.config import SamplingParams
from sequoia_core.events import Event, PairDescription, Progress, StopCheck
from sequoia_core.text.chat_template import Turn
from sequoia_core.tree.choice import TreeChoice


class ChatEngine(Protocol):
    """A conversation with a pair of models, in this process or another; called from one thread."""

    description: PairDescription
    tree_choice: TreeChoice  # what the next answer will be decoded with

    def choose_tree(self, choice: TreeChoice) -> None:
        """Use another mode or growmap from the next answer on."""
        self.tree_choice = choice

    def reply(self, prompt: str, params: SamplingParams, should_stop: StopCheck) -> Iterator[Event]:
        """Answer the person's next message.

        Raises ParameterError if it is blank, or the chat template or the tokenizer refuses it, and
        ContextFullError if it alone is longer than the context window.
        """

    def continue_answer(
        self, turn: Turn, params: SamplingParams, should_stop: StopCheck
    ) -> Iterator[Event]:
        """Go on with the answer of a turn, which follows those there are, where its text ends.

        The events are those of what is decoded from there on. Raises as `reply`, and
        ParameterError if the answer has no text.
        """

    def clear(self) -> None:
        """Forget all turns; the system prompt stays."""

    def restore(self, turns: Sequence[Turn]) -> None:
        """Continue from exactly these turns: another branch, or a chat of an earlier day.

        The next answer does not read again what they share with the turns before. The system prompt
        stays. Raises ParameterError if the chat template refuses them; then nothing changes.
        """

    def set_system_prompt(self, system_prompt: str | None) -> None:
        """Start over with another system prompt; None is the chat template's own default.

        Raises ParameterError if the template takes none, ContextFullError if it leaves no room for
        a message; then nothing changes.
        """

    def race(self, race: Race, should_stop: StopCheck, progress: Progress) -> Iterator[RaceEvent]:
        """Answer a prompt on two sides at once.

        Yields `RaceTerms`, then the events of both lanes, each ending with `Finished`. Other drafts
        are loaded before, with `progress`, and freed at the end. The conversation is not touched.
        Raises as `reply`, and if both sides decode plainly, or a draft cannot be used.
        """

    def tune(self, should_stop: StopCheck) -> Iterator[Event]:
        """Measure pair and machine in short slices while nobody waits, until all is measured.

        Yields a `MemoryUse`, and a `Notice` or `TreeChosen` when something was measured.
        """
