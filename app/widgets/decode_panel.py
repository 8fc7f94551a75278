"""The right side of the chat: a step's tree, its bar, and the statistics after that step."""

from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from typing_extensions import override

from sequoia_core.events import Step

from ..state.answer import Chosen
from ..state.stats import Statistics
from .acceptance_view import AcceptanceView
from .statistics import StatisticsPanel
from .step_bar import StepBar
from .tree_view import TreeView


class DecodePanel(Vertical):
    """Shows one step at a time; the style sheet gives every part a fixed height.

    Attributes:
        token_tree: the step's token tree.
        acceptance: the acceptance map, shown in the place of the tree.
    """

    def __init__(self) -> None:
        super().__init__(id="decoding")
        self.token_tree = TreeView()
        self.acceptance = AcceptanceView()
        self._bar = StepBar(id="step")
        self._statistics = StatisticsPanel()

    @override
    def compose(self) -> ComposeResult:
        yield self.token_tree
        yield self.acceptance
        yield self._bar
        yield self._statistics

    def on_mount(self) -> None:
        """Label the borders."""
        self.token_tree.border_title = "Tree"
        self.acceptance.border_title = "Acceptance by place"
        self._statistics.border_title = "Statistics"

    def show_tree(self, step: Step | None, title: str, *, still: bool) -> None:
        """Draw a step's tree; `still` if the next step does not follow at once: it may scroll."""
        if str(self.token_tree.border_title or "") != title:
            self.token_tree.border_title = Content(title)
        self.token_tree.show(step, scroll=still)

    def show_figures(
        self,
        step: Step | None,
        statistics: Statistics | None,
        chosen: Chosen | None,
        waiting: str = "",
    ) -> None:
        """Draw the figures after a step and its tree shape, or what happens before the first."""
        self._bar.show_step(step, statistics, waiting)
        self._statistics.statistics = statistics
        self._statistics.chosen = chosen
