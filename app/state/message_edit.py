"""The editing of an earlier message: which one, and what was typed for each."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .history import Exchange


@dataclass(slots=True)
class MessageEdit:
    """The editing of one message of a branch; it starts with the last one.

    Attributes:
        branch: the messages to choose from, at least one.
        draft: the text of the prompt before the editing.
        at: index of the edited message.
    """

    branch: Sequence[Exchange]
    draft: str
    at: int = -1
    _texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.at %= len(self.branch)

    @property
    def exchange(self) -> Exchange:
        """The edited exchange."""
        return self.branch[self.at]

    @property
    def text(self) -> str:
        """The text for the prompt: what was typed for this message last, or the message."""
        return self._texts.get(self.exchange.id, self.exchange.prompt)

    def move(self, by: int, typed: str) -> bool:
        """Choose another message.

        Args:
            by: -1 for the one before, 1 for the one after.
            typed: the text of the prompt, which is kept for the message edited so far.

        Returns:
            Whether there is such a message.
        """
        if typed != self.exchange.prompt:
            self._texts[self.exchange.id] = typed
        else:
            self._texts.pop(self.exchange.id, None)
        if not 0 <= self.at + by < len(self.branch):
            return False
        self.at += by
        return True

    def turn_to(self, branch: Sequence[Exchange], exchange: Exchange, typed: str) -> None:
        """Edit a message of another branch; text that was changed is taken along."""
        changed = typed != self.exchange.prompt
        self.branch, self.at = branch, branch.index(exchange)
        if changed:
            self._texts[self.exchange.id] = typed
