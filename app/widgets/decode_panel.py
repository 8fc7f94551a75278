"""The right side of the chat: a step's tree, its bar, and the statistics as of that step."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content

from sequoia_core.events import Step

from ..answer import Chosen
from ..stats import Statistics
from .statistics import StatisticsPanel
from .step_bar import StepBar
from .tree_view import TreeView


class DecodePanel(Vertical):
    """Shows one step at a time; the style sheet gives every part a fixed height."""

    def __init__(self) -> None:
        super().__init__(id="decoding")
        self._tree = TreeView()
        self._bar = StepBar(id="step")
        self._statistics = StatisticsPanel()

    def compose(self) -> ComposeResult:
        """Tree over bar over statistics."""
        yield self._tree
        yield self._bar
        yield self._statistics

    def on_mount(self) -> None:
        """Name the parts."""
        self._tree.border_title = "Tree"
        self._statistics.border_title = "Statistics"

    def show_step(
        self, step: Step | None, statistics: Statistics | None, title: str, *, still: bool
    ) -> None:
        """Draw a step, the figures as they stood after it, and how it is looked at.

        Args:
            step: the step, or None for empty panels.
            statistics: as of the step.
            title: of the tree.
            still: the picture will stay a while, so the tree may scroll to the end of the path.
        """
        if str(self._tree.border_title or "") != title:
            self._tree.border_title = Content(title)
        self._tree.show(step, reveal=still)
        self._bar.show_step(step, statistics)
        self._statistics.show_statistics(statistics)

    def show_expected(self, chosen: Chosen | None) -> None:
        """Show what the tree shape of the step was made for."""
        self._statistics.show_expected(chosen)
