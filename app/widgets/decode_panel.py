"""The right side of the chat: a step's tree, its bar, and the statistics as of that step."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content

from sequoia_core.events import Step

from ..present.acceptance_map import HeatMap
from ..state.answer import Chosen
from ..state.stats import Statistics
from .heat_view import HeatView
from .statistics import StatisticsPanel
from .step_bar import StepBar
from .tree_view import TreeView


class DecodePanel(Vertical):
    """Shows one step at a time; the style sheet gives every part a fixed height.

    Attributes:
        token_tree: the step's token tree.
    """

    def __init__(self) -> None:
        super().__init__(id="decoding")
        self.token_tree = TreeView()
        self._heat = HeatView()
        self._bar = StepBar(id="step")
        self._statistics = StatisticsPanel()

    def compose(self) -> ComposeResult:
        """Tree, or the heat map in its place, over bar over statistics."""
        yield self.token_tree
        yield self._heat
        yield self._bar
        yield self._statistics

    def on_mount(self) -> None:
        """Name the parts."""
        self.token_tree.border_title = "Tree"
        self._heat.border_title = "Acceptance by place"
        self._statistics.border_title = "Statistics"

    def show_tree(self, step: Step | None, title: str, *, still: bool) -> None:
        """Draw a step's tree, and how it is looked at.

        Args:
            step: the step, or None for an empty panel.
            title: of the tree.
            still: the picture will stay a while, so the tree may scroll to the end of the path.
        """
        if str(self.token_tree.border_title or "") != title:
            self.token_tree.border_title = Content(title)
        self.token_tree.show(step, reveal=still)

    def show_figures(
        self,
        step: Step | None,
        statistics: Statistics | None,
        expected: Chosen | None,
        waiting: str = "",
    ) -> None:
        """Draw the figures as they stood after a step, and what its tree shape was made for.

        Args:
            step: the step, or None before the first.
            statistics: after it.
            expected: its tree shape.
            waiting: what goes on before the first step.
        """
        self._bar.show_step(step, statistics, waiting)
        self._statistics.show_statistics(statistics)
        self._statistics.show_expected(expected)

    def show_heat(self, heat: HeatMap) -> None:
        """Draw how often each place of the tree was accepted."""
        self._heat.show(heat)
