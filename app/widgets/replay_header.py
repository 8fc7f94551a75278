"""The header line of a replay: as the chat's, but it says only what was recorded."""

from collections.abc import Iterable
from dataclasses import replace

from textual.content import Content

from sequoia_core.events import TreeChosen

from .header import Header


class ReplayHeader(Header):
    """The chat's header without what nobody knows any more."""

    _temperature: float | None = None

    def show_tree(self, tree: TreeChosen | None) -> None:
        """Name the tree shape in use; what was asked for is not recorded."""
        if tree is not None:
            self.show_settings(replace(self._settings, growmap=tree.growmap))
        super().show_tree(tree)

    def show_temperature(self, temperature: float | None) -> None:
        """Show the temperature, or none where it was not recorded."""
        if temperature != self._temperature:
            self._temperature = temperature
            self.show_settings(replace(self._settings, temperature=temperature or 0.0))

    def _left(self) -> Iterable[list[Content]]:
        *parts, temperature = super()._left()
        return parts if self._temperature is None else [*parts, temperature]
