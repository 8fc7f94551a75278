"""Looking into the steps: which one is on show, over the whole chat, and why a node came out so.

Owns the walk through the steps of every answer on the branch, the panel that explains a node, the
heat map, and which of tree and map is on show. What is asked and answered is the chat screen's.
"""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textual.content import Content
from textual.dom import DOMNode
from textual.widget import Widget

from ...present.acceptance_map import AcceptanceMap
from ...present.node_explanation import explain_node
from ...state.history import Exchange
from ...state.step_cursor import Walk
from ...widgets.entries import AnswerEntry
from ...widgets.why_panel import WhyPanel
from .step_loader import Recalling

if TYPE_CHECKING:
    from .screen import ChatScreen

LEGEND = Content.assemble(
    "Tints: ", ("bonus", "bold $bonus"), " · draft's ", ("1st", "$rank-1"), " ",
    ("2nd", "underline $rank-2"), " ", ("3rd+", "underline italic $rank-3"), " guess",
)  # fmt: skip
"""On the transcript's border while its tokens are tinted."""
NOT_KEPT = "the steps of the answer {} are not on record"


def next_view(screen: DOMNode) -> None:
    """Tree, heat map, neither; where there is no room beside the chat, they stand in its place."""
    name, meaning = (
        ("-tree-shown", True) if screen.has_class("-narrow") else ("-tree-hidden", False)
    )
    shown, heat = screen.has_class(name) is meaning, screen.has_class("-heat")
    if not shown or heat:
        screen.toggle_class(name)
    screen.set_class(shown and not heat, "-heat")


class Inspector:
    """The steps of one chat screen.

    Args:
        chat: the screen.

    Attributes:
        walk: the place in the answer that is looked at.
        panel: tells why.
    """

    def __init__(self, chat: "ChatScreen") -> None:
        self._chat = chat
        self.walk = Walk()
        self.panel = WhyPanel()
        self._entry: AnswerEntry | None = None
        self._recalling = Recalling(chat, self._recalled)
        self._keys: deque[str] = deque()
        self._gone: set[str] = set()
        self._heat = AcceptanceMap()

    @property
    def widgets(self) -> Sequence[Widget]:
        """For the body of the screen: the panel, and what keeps it off the tree."""
        return self.panel, Widget(id="beside-why")

    # Which step

    def look_at(self, entry: AnswerEntry | None) -> None:
        """Look at another answer, live; the steps of an old one come when they are read."""
        self._wait_no_more()
        self._enter(entry)
        self.walk = Walk(entry.answer if entry is not None else None)
        self._show_last()
        self.walk.reading = self.reading

    def go(self, where: str) -> None:
        """Walk through the steps of all answers on the branch.

        While steps are read from the record, keys wait for them and are then carried out in their
        order; live waits for nothing and takes the place of what waits.

        Args:
            where: back, forward, first or live; from the first step of an answer, back leads to
                the last of the answer before, first to its first; from the last step of an
                answer, forward leads to the first of the next. Or on: with what has waited.
        """
        if where == "live":
            self._wait_no_more()
        elif not self._keys and not self.reading and where != "on":
            self._gone.clear()  # the disk may be there again
        if where != "on":
            self._keys.append(where)
        while self._keys and not self.reading:
            self._go(self._keys.popleft())
        self.walk.reading = self.reading

    @property
    def reading(self) -> bool:
        """Whether steps are being read from the record."""
        return self._recalling.under_way

    def _go(self, where: str) -> None:
        branch = self._chat.branching.history.branch
        at = next((i for i, e in enumerate(branch) if e.answer is self.walk.answer), None)
        if at is None:
            return
        last = at == len(branch) - 1
        if where == "live":
            if not last:
                self._enter(self._chat.branching.pages.answer(branch[-1]))
                self.walk = Walk(branch[-1].answer)
            self.walk.at = None
            self._show_last()
            return
        if self._waits(where, branch[at]):
            return
        steps = len(branch[at].answer.steps)
        here = self.walk.at if self.walk.at is not None else steps - 1
        if where in ("back", "first") and (here <= 0 or not steps):
            self._visit(branch, at - 1, where)
        elif where == "forward" and not last and here >= steps - 1:
            self._visit(branch, at + 1, where)
        else:
            self.walk.go(where)

    def _visit(self, branch: Sequence[Exchange], at: int, where: str) -> None:
        """Go on in another answer on the branch: back to its last step, else to its first."""
        if at < 0:
            self._chat.prompt.hint("that is the first step of the chat")
            return
        exchange = branch[at]
        if self._waits(where, exchange):
            return
        steps = exchange.answer.steps
        if not steps:
            self._chat.prompt.hint(NOT_KEPT.format(f"{at + 1} of {len(branch)}"))
            return
        self._enter(self._chat.branching.pages.answer(exchange))
        place = f", answer {at + 1} of {len(branch)}" if at < len(branch) - 1 else ""
        self.walk = Walk(exchange.answer, len(steps) - 1 if where == "back" else 0, place)

    def _enter(self, entry: AnswerEntry | None) -> None:
        """Highlight in another answer's text; let steps go but its own and the last answer's."""
        if self._entry is not None and self._entry is not entry:
            self._entry.walked_step = None
        self._entry = entry
        last = self._chat.branching.history.branch[-1:]
        held = [each.answer for each in last]
        self._recalling.hold(*held, *([entry.answer] if entry is not None else []))

    # Steps that are in the record only

    def _waits(self, where: str, exchange: Exchange) -> bool:
        """Let a key wait for the steps of an answer, if they have to be read first."""
        if not self._forgotten(exchange):
            return False
        self._keys.appendleft(where)
        self._recalling.begin(exchange)
        return True

    def _show_last(self) -> None:
        """Read the steps of the answer on show, if need be, so that its last one is seen."""
        branch = self._chat.branching.history.branch
        if branch and branch[-1].answer is self.walk.answer and self._forgotten(branch[-1]):
            self._recalling.begin(branch[-1])

    def _forgotten(self, exchange: Exchange) -> bool:
        answer = exchange.answer
        return answer.done and not answer.steps and exchange.id not in self._gone

    def _recalled(self, exchange: Exchange) -> None:
        if not exchange.answer.steps:
            self._gone.add(exchange.id)
        self._chat.action_walk("on")

    def _wait_no_more(self) -> None:
        self._recalling.leave()
        self._keys.clear()
        self._gone.clear()

    @property
    def walks(self) -> bool:
        """Whether there are steps to walk through."""
        return self.walk.step is not None or any(
            exchange.answer.statistics for exchange in self._chat.branching.history.branch
        )

    # What is seen of it

    def draw(self) -> None:
        """Show the step on show: its text, the node that is explained, the map up to it."""
        if self._entry is not None:
            self._entry.walked_step = self.walk.walked_step
        chat = self._chat
        if self.explains:
            step = self.walk.step
            tree = chat.dashboard.panel.token_tree
            told = explain_node(step, tree.node) if step is not None else None
            self.panel.explain(told, self.walk.title(paused=chat.decoder.paused).lower())
        if chat.has_class("-heat") and self._heat.follow(
            self.walk.answer, self.walk.at, self.walk.chosen
        ):
            chat.dashboard.panel.acceptance.show(self._heat)

    @property
    def explains(self) -> bool:
        """Whether the panel is on show."""
        return self._chat.has_class("-why")

    def pointed(self, *, asked: bool) -> None:
        """Another node is pointed at; explain it if that is asked, or asked already."""
        if asked:
            self.explain(not self.explains)
        self.draw()

    def explain(self, explains: bool) -> bool:
        """Show or hide the panel; whether that changed anything."""
        if explains == self.explains:
            return False
        self._chat.set_class(explains, "-why")
        self._chat.dashboard.panel.token_tree.pinned = explains
        return True

    def ask_why(self) -> None:
        """Go to the tree and explain the node pointed at."""
        chat = self._chat
        tree = chat.dashboard.panel.token_tree
        if tree.step is None:
            chat.prompt.hint("no tree yet: send a message first")
            return
        chat.set_class(False, "-heat")
        chat.set_class(False, "-tree-hidden")
        chat.set_class(chat.has_class("-narrow"), "-tree-shown")
        tree.focus()
        if not self.explains:
            tree.action_explain()

    def next_view(self) -> None:
        """Tree, heat map, neither."""
        next_view(self._chat)
        self.explain(explains=False)
        self.draw()

    def tint(self, tinted: bool) -> None:
        """Tint the tokens of all answers by where they came from, and say what a tint means."""
        self._chat.transcript.tint(tinted)
        self._chat.transcript.border_title = LEGEND if tinted else "Chat"
