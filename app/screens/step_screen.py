"""What the screens of the chat and the replay share: the views of a step next to the transcript."""

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Horizontal, Vertical
from textual.content import Content
from textual.screen import Screen
from textual.widget import Widget
from typing_extensions import override

from sequoia_core.config import Lookup

from ..config.model_choice import TreeRoom
from ..present.accessible import is_accessible
from ..state.answer import Chosen
from ..state.figures import shown_why
from ..state.step_cursor import StepCursor
from ..state.summary import summary_of
from ..ui.base_app import BaseApp
from ..widgets.acceptance_map import AcceptanceView
from ..widgets.bars import StepBar
from ..widgets.header import Header
from ..widgets.key_bar import KeyBar
from ..widgets.line import first_fitting
from ..widgets.prompt import Prompt
from ..widgets.statistics_panel import StatisticsPanel
from ..widgets.transcript import Transcript
from ..widgets.tree_strip import StripShown, TreeStrip
from ..widgets.tree_view import TreeView
from ..widgets.welcome import ExampleTree
from ..widgets.why_panel import WhyPanel

_AROUND_TREE = 10  # rows of a screen that is not wide around its tree
_NOT_NODES = 2  # rows of the tree with the headings of its columns and the target's own token
_LABEL_CELLS = 28  # of a row without its guides: a token and two probabilities
_LEAST_DEPTH = 3
_BESIDE_TITLE = 4  # cells of the border next to a title
_GUESSES = Content.assemble(
    ("1st", "$rank-1"), ", ", ("2nd", "underline $rank-2"), ", ",
    ("3rd+", "underline italic $rank-3"), " guess",
)  # fmt: skip


def legend(room: int, *, looked_up: bool) -> Content:
    """What the tints mean, on the border of the transcript; the longest form that fits."""
    target = ("target", "bold $bonus")
    copied = (", ", ("looked up", "italic $foreground")) if looked_up else ()
    forms = (
        ("Written by: ", target, ", draft's ", _GUESSES, *copied),
        (target, ", draft's ", _GUESSES, *copied),
        (target, ", ", _GUESSES, *copied),
    )
    return first_fitting((Content.assemble(*form) for form in forms), room)


class StepScreen(Screen[None]):
    """Header, transcript and tree or map, other widgets, keys; its classes say what is shown."""

    app: BaseApp
    CONTEXT = "chat"  # of its actions

    def __init__(self, header: Header, *below: Widget) -> None:
        super().__init__()
        self.header, self._below = header, below
        self.transcript = Transcript()
        self.token_tree = TreeView()
        self._tree_strip = TreeStrip()  # where there is no room for the tree
        self._map = AcceptanceView()  # shown in the place of the tree
        self._statistics = StatisticsPanel()
        self._bar, self._strip = StepBar(id="step"), StepBar(id="strip")  # of which one is shown
        self.why_panel = WhyPanel()
        self.key_bar = KeyBar()
        self._chat_title = Content("Chat")
        self._looked_up = False  # an answer that was on show has tokens that were looked up

    def compose(self) -> ComposeResult:
        yield self.header
        with Horizontal(id="body"):
            yield self.transcript
            yield Vertical(
                self.token_tree, ExampleTree(), self._map, self._bar, self._statistics,
                id="decoding",
            )  # fmt: skip
            yield self.why_panel
            yield Widget(id="beside-why")  # keeps the explanation off the tree
        yield self._tree_strip
        yield self._strip
        yield from self._below
        yield self.key_bar

    def draw_tree(self, cursor: StepCursor, title: str, *, still: bool) -> None:
        """Draw a step's tree; `still` if the next step does not follow at once: it may scroll."""
        shape = cursor.shape
        tree = shape.tree if shape is not None else None
        strip_title, strip_why = title, ""
        if tree is not None and (why := shown_why(tree)):
            number = title.partition(",")[0]
            strip_why = shown_why(tree, brief=True)
            strip_title = f"{number}, {strip_why}"
            room = self.token_tree.size.width - _BESIDE_TITLE
            forms = f"{title}: {why}", f"{title}: {strip_why}", f"{number}: {why}"
            title = next((form for form in forms if len(form) <= room), forms[-1])
        if str(self.token_tree.border_title or "") != title:
            self.token_tree.border_title = Content(title)
        self.token_tree.show(cursor.step, scroll=still)
        self._tree_strip.shown = StripShown(cursor.step, strip_title, strip_why)
        self._looked_up |= cursor.answer is not None and bool(cursor.answer.lookups)
        self._entitle_chat()
        if cursor.answer is None or tree is not None:  # else it is not yet known
            drafts = tree is not None and (tree.nodes > 1 or tree.lookup != Lookup.OFF)
            self.set_class(drafts, "-drafts")

    def draw_views(self, cursor: StepCursor, title: str) -> None:
        """Draw the explanation and the map, if they are on show."""
        if self.explains:
            tree = self.token_tree
            self.why_panel.explain(cursor.step, tree.node, title.lower(), tree.folded)
        if self.has_class("-heat"):
            self._map.show(cursor.answer, cursor.at, cursor.chosen)

    def draw_figures(
        self, cursor: StepCursor, chosen: Chosen | None, context: int | None, waiting: str = ""
    ) -> None:
        """Draw the statistics up to the step on show, or what happens before the first.

        `context` are the tokens in the context window. After the last step, the answer is
        summed up.
        """
        step, whole = cursor.step, cursor.whole
        summary = summary_of(cursor.answer) if cursor.at is None else None
        key = self.app.keys.shown(f"{self.CONTEXT}.best_step")
        for bar in (self._bar, self._strip):
            bar.best_key, bar.summary = key, summary
            bar.shown = step, cursor.statistics, waiting
        self._statistics.best_key, self._statistics.summary = key, summary
        self._statistics.statistics, self._statistics.chosen = whole, chosen
        self.header.statistics = whole
        self.header.context_tokens = context
        self.header.chosen_tree = chosen.tree if chosen is not None else None

    def tree_room(self) -> TreeRoom:
        """What the panel of the tree holds, or would hold if it were shown."""
        panels = (each.size for each in self.query("#tree, #example, #heat") if each.region)
        width, height = next(panels, (self.size.width // 2, self.size.height - _AROUND_TREE))
        return TreeRoom(height - _NOT_NODES, max(_LEAST_DEPTH, (width - _LABEL_CELLS) // 2))

    @property
    def explains(self) -> bool:
        return self.has_class("-why")

    def explain(self, explains: bool) -> None:
        """Show or hide the explanation of the node under the cursor."""
        self.set_class(explains, "-why")
        self.token_tree.pinned = explains

    @on(TreeView.Pointed)
    def _node_pointed(self, message: TreeView.Pointed) -> None:
        if message.asked:
            self.explain(not self.explains)
        self.view_changed()

    def view_changed(self) -> None:
        """Draw again, as the same step is looked at in another way."""

    def action_tree(self) -> None:
        """Tree, map, neither; on a narrow screen both in the chat's place, and the strip first."""
        narrow, hidden = self.has_class("-narrow"), self.has_class("-tree-hidden")
        map_shown, covers = self.has_class("-heat"), self.covers_chat
        if hidden:
            self.remove_class("-tree-hidden")
        elif narrow and not covers:
            self.add_class("-tree-shown")
            self.remove_class("-heat")
        elif not map_shown:
            self.add_class("-heat")
        else:
            self.remove_class("-heat", "-tree-shown")
            self.set_class(not narrow or self._strip_fits, "-tree-hidden")
        self.explain(False)
        self.view_changed()

    @property
    def _strip_fits(self) -> bool:
        """Whether a narrow screen has the tree's strip, unless it is hidden."""
        small = self.has_class("-tiny") or self.has_class("-short")
        return self.has_class("-drafts") and not small and not is_accessible(self)

    @property
    def covers_chat(self) -> bool:
        """Whether tree or map take the place of the transcript."""
        return self.has_class("-narrow") and self.has_class("-tree-shown")

    def action_tint(self) -> None:
        self.transcript.tint(not self.transcript.tinted)
        self._entitle_chat()

    @on(Transcript.Resized)
    def _entitle_chat(self) -> None:
        chat, title = self.transcript, Content("Chat")
        if chat.tinted:
            title = legend(chat.outer_size.width - _BESIDE_TITLE, looked_up=self._looked_up)
        if not title.is_same(self._chat_title):
            chat.border_title = self._chat_title = title


class PromptedScreen(StepScreen):
    """A prompt gets all text that is typed or pasted, wherever the focus is.

    Nothing has the focus just after a terminal or browser window got it, and the widget that was
    clicked last may not take text. What is typed is painted before anything else that changed.
    """

    AUTO_FOCUS = "#prompt"

    def __init__(self) -> None:
        self.prompt = Prompt(self.submit)
        super().__init__(Header(), self.prompt)
        self._rest_waits = False
        self._early: list[events.Key | events.Paste] | None = []  # typed before `open_prompt`

    @override
    def compose(self) -> ComposeResult:
        # first: what it covers is painted in an order that does not change when it opens
        yield self.prompt.completions
        yield from super().compose()

    @on(events.DescendantBlur)
    @on(events.Resize)
    def _settle_completions(self) -> None:
        self.prompt.completions.settle()

    @override
    def _on_timer_update(self) -> None:
        # Textual paints all that changed at once; the rest may take noticeably long
        rest = self._dirty_widgets - {self.prompt}
        everything = self._layout_required or self._scroll_required or self._repaint_required
        self._rest_waits = (
            self.prompt in self._dirty_widgets
            and bool(rest)
            and not everything
            and not self._rest_waits  # a second time, however fast somebody types
        )
        if not self._rest_waits:
            super()._on_timer_update()
            return
        waiting, self._callbacks = self._callbacks, []  # for the rest to be painted
        self._dirty_widgets &= {self.prompt}
        super()._on_timer_update()
        self._callbacks = [*waiting, *self._callbacks]
        self._dirty_widgets |= rest
        self._update_timer.resume()

    def submit(self, text: str, typed: str, command: bool) -> None:
        """Take what is sent, as `Prompt` says."""
        raise NotImplementedError

    def take_input(self, event: events.Key | events.Paste) -> bool:
        """Give what is typed or pasted to the prompt; whether it was that.

        It is asked before the widget in focus. A key that came back from there could come after
        the next one, which the prompt has by itself once it has the focus.
        """
        if isinstance(event, events.Key) and not self._is_typed(event):
            return False
        if self._early is not None:
            self._early.append(event)
        else:
            self.set_focus(self.prompt)
            self.prompt._forward_event(event)
        return True

    def _is_typed(self, event: events.Key) -> bool:
        """Whether a key is the prompt's, which has not got it by its focus."""
        printable = event.character is not None and event.is_printable
        unbound = event.key not in self.active_bindings
        if self._early is not None:
            return printable or unbound
        if self.focused is None:
            return unbound or (printable and bool(self.prompt.text))
        if self.focused is self.prompt:  # what is typed goes before keys with priority
            return self.prompt.message_queue_size > 0
        return printable and unbound

    def open_prompt(self) -> None:
        """Pass on what was typed before the screen could answer; later input is taken at once."""
        self.set_focus(self.prompt)
        early, self._early = self._early or [], None
        for event in early:
            self.prompt._forward_event(event)
