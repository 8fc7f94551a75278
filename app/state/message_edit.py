"""Which earlier message is being edited, and what was typed for each. Pure.

Owns the texts: what a person typed is kept while they look at other messages, until the editing
ends. Knows neither the prompt nor the transcript.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from .history import Exchange


@dataclass(slots=True)
class Editing:
    """The editing of one of the messages of a branch.

    Attributes:
        branch: the messages there are to choose from, at least one.
        draft: what stood in the prompt before.
        at: index of the message chosen.
    """

    branch: Sequence[Exchange]
    draft: str
    at: int = -1
    _texts: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.at %= len(self.branch)

    @property
    def exchange(self) -> Exchange:
        """The one whose prompt is edited."""
        return self.branch[self.at]

    @property
    def text(self) -> str:
        """What to put into the prompt for it: what was typed for it last, or its own."""
        return self._texts.get(self.exchange.id, self.exchange.prompt)

    def move(self, by: int, typed: str) -> bool:
        """Choose another message.

        Args:
            by: -1 for the one before, 1 for the one after.
            typed: what stands in the prompt for the one chosen until now.

        Returns:
            whether there is one.
        """
        self._keep(typed)
        if not 0 <= self.at + by < len(self.branch):
            return False
        self.at += by
        return True

    def turn_to(self, branch: Sequence[Exchange], at: int, typed: str) -> None:
        """Go on with a message of another branch; what was typed is taken along."""
        changed = typed != self.exchange.prompt
        self.branch, self.at = branch, at
        if changed:
            self._texts[self.exchange.id] = typed

    def _keep(self, typed: str) -> None:
        if typed != self.exchange.prompt:
            self._texts[self.exchange.id] = typed
        else:
            self._texts.pop(self.exchange.id, None)
