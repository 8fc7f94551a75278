"""How a step is looked at: tree or acceptance map, the explanation of a node, tinted tokens.

Shared by the chat and the replay. What is on show is in the classes of the screen, for the style
sheets.
"""

from collections.abc import Sequence

from textual.content import Content
from textual.widget import Widget

from sequoia_core.events import Step

from ..present.acceptance_map import AcceptanceMap
from ..present.node_explanation import explain_node
from ..state.answer import Answer, Chosen
from ..widgets.decode_panel import DecodePanel
from ..widgets.transcript import Transcript
from ..widgets.why_panel import WhyPanel

LEGEND = Content.assemble(
    "Tints: ", ("bonus", "bold $bonus"), " · draft's ", ("1st", "$rank-1"), " ",
    ("2nd", "underline $rank-2"), " ", ("3rd+", "underline italic $rank-3"), " guess",
)  # fmt: skip
"""On the border of the transcript while its tokens are tinted."""


class StepViews:
    """Switches between the views of a step and draws them.

    Args:
        panel: shows the tree or the map.
        transcript: shows the tokens.

    Attributes:
        why_panel: explains a node, over the transcript.
    """

    def __init__(self, panel: DecodePanel, transcript: Transcript) -> None:
        self._panel, self._transcript = panel, transcript
        self.why_panel = WhyPanel()
        self._map = AcceptanceMap()
        self._tinted = False

    @property
    def widgets(self) -> Sequence[Widget]:
        """For the body of the screen: the explanation, and what keeps it off the tree."""
        return self.why_panel, Widget(id="beside-why")

    def draw(
        self,
        step: Step | None,
        title: str,
        answer: Answer | None,
        at: int | None,
        chosen: Chosen | None,
    ) -> None:
        """Draw the explanation and the map, if they are on show.

        Args:
            step: on show.
            title: of the step.
            answer: whose steps the map counts.
            at: index of the last step that is counted; None for all.
            chosen: the tree shape of the step.
        """
        if self.explains:
            node = self._panel.token_tree.node
            explanation = explain_node(step, node) if step is not None else None
            self.why_panel.explain(explanation, title.lower())
        if self._panel.screen.has_class("-heat") and self._map.follow(answer, at, chosen):
            self._panel.acceptance.show(self._map)

    @property
    def explains(self) -> bool:
        """Whether the explanation is on show."""
        return self._panel.screen.has_class("-why")

    def explain(self, explains: bool) -> None:
        """Show or hide the explanation of the node under the cursor."""
        self._panel.screen.set_class(explains, "-why")
        self._panel.token_tree.pinned = explains

    def explain_tree(self) -> bool:
        """Focus the tree and explain the node under the cursor; False if there is no tree yet."""
        tree, screen = self._panel.token_tree, self._panel.screen
        if tree.step is None:
            return False
        screen.remove_class("-heat", "-tree-hidden")
        screen.set_class(screen.has_class("-narrow"), "-tree-shown")
        tree.focus()
        if not self.explains:
            tree.action_explain()
        return True

    def next_view(self) -> None:
        """Tree, map, neither; on a narrow screen they take the place of the transcript."""
        screen = self._panel.screen
        name, meaning = (
            ("-tree-shown", True) if screen.has_class("-narrow") else ("-tree-hidden", False)
        )
        shown, heat = screen.has_class(name) is meaning, screen.has_class("-heat")
        if not shown or heat:
            screen.toggle_class(name)
        screen.set_class(shown and not heat, "-heat")
        self.explain(False)

    @property
    def _covers_chat(self) -> bool:
        screen = self._panel.screen
        return screen.has_class("-narrow") and screen.has_class("-tree-shown")

    @property
    def way_back(self) -> str:
        """What the next views are, where they take the place of the transcript."""
        if not self._covers_chat:
            return ""
        return "chat" if self._panel.screen.has_class("-heat") else "map, chat"

    def uncover_chat(self) -> None:
        """Show the transcript again, if tree or map take its place."""
        if self._covers_chat:
            self._panel.screen.remove_class("-tree-shown", "-heat")

    def tint(self) -> None:
        """Tint tokens by their origin, or stop that."""
        self._tinted = not self._tinted
        self._transcript.tint(self._tinted)
        self._transcript.border_title = LEGEND if self._tinted else "Chat"
