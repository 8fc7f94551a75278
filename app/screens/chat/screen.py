"""The chat screen: hands prompts to the decode thread and draws what it reports, 20 times a second.

Owns the state of the chat: settings, the answer under way, and which step is looked at. All
drawing happens in one timer, from what the mailbox holds, so a burst of steps costs one picture.
"""

from typing import TYPE_CHECKING, ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.widget import Widget

from sequoia_core.errors import SequoiaError
from sequoia_core.events import PairDescription, TreeChosen

from ...config.settings import Settings
from ...engine.decode_thread import Decoder
from ...engine.messages import Ask
from ...state.answer import Answer
from ...state.history import Exchange
from ...state.race_result import RaceRun
from ...state.slash_commands import is_command
from ...store.recorder import Recorder
from ...widgets.entries import AnswerEntry
from ...widgets.prompt import Prompt
from ...widgets.transcript import Transcript
from ...widgets.tree_view import TreeView
from ..help import HelpScreen
from ..prompted import PromptedScreen
from ..redraw import Drawing
from .apply_settings import ANSWERING, open_settings
from .branches import Branching
from .engine_reports import take
from .panels import Activity, Dashboard
from .run_command import run_command
from .session_actions import Keeping
from .step_inspector import Inspector

if TYPE_CHECKING:
    from ...ui.base_app import BaseApp

DRAIN_SECONDS = 1 / 20


class ChatScreen(PromptedScreen):
    """Transcript, tree, step bar, statistics and prompt."""

    app: "BaseApp"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "stop", "Stop the answer", show=False, id="chat.stop"),
        Binding("f1", "help", "Help", show=False, priority=True, id="chat.help"),
        Binding("f2", "pause", "Pause or resume", show=False, priority=True, id="chat.pause"),
        Binding("space", "single_step", "One step while paused", show=False, id="chat.step"),
        Binding("left,left_square_bracket", "walk('back')", "Step before", show=False,
                id="chat.step_before"),
        Binding("right,right_square_bracket", "walk('forward')", "Step after", show=False,
                id="chat.step_after"),
        Binding("home", "walk('first')", "First step", show=False, id="chat.first_step"),
        Binding("end", "walk('live')", "Back to live", show=False, id="chat.live"),
        Binding("ctrl+e", "branch('edit')", "Edit a message", show=False, priority=True,
                id="chat.edit"),
        Binding("ctrl+r", "branch('again')", "Ask again", show=False, priority=True,
                id="chat.again"),
        Binding("alt+left", "branch('before')", "Branch before", show=False, priority=True,
                id="chat.branch_before"),
        Binding("alt+right", "branch('after')", "Branch after", show=False, priority=True,
                id="chat.branch_after"),
        Binding("ctrl+y", "copy_answer", "Copy the last answer", show=False, priority=True,
                id="chat.copy"),
        Binding("ctrl+o", "sessions", "Sessions", show=False, priority=True, id="chat.sessions"),
        Binding("f3", "race", "Race the prompt", show=False, id="chat.race"),
        Binding("f4", "tree", "Tree, heat map or none", show=False, priority=True, id="chat.tree"),
        Binding("f5", "settings", "Settings", show=False, priority=True, id="chat.settings"),
        Binding("f6", "tint", "Tint tokens by origin", show=False, priority=True, id="chat.tint"),
        Binding("ctrl+d", "app.quit", "Quit", show=False, id="chat.leave"),
    ]  # fmt: skip

    def __init__(
        self, decoder: Decoder, settings: Settings, recorder: Recorder | None = None
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.settings = settings
        self.pair: PairDescription | None = None
        self.chosen: TreeChosen | None = None
        self.race: RaceRun | None = None
        self._entry: AnswerEntry | None = None
        self._tinted = False
        self.transcript = Transcript()
        self.dashboard = Dashboard()
        self.branching = Branching(self)
        self.inspector = Inspector(self)
        self.keeping = Keeping(self, recorder or Recorder())
        self.drawing = Drawing(
            self,
            (self._draw_text, self._draw_tree, self._draw_figures),
            lambda seconds: self.app.rests.touched_within(seconds),
        )

    def compose(self) -> ComposeResult:
        """Header over chat and tree over prompt over keys."""
        yield self.dashboard.header
        with Horizontal(id="body"):
            yield self.transcript
            yield self.dashboard.panel
            yield from self.inspector.widgets
        yield self.dashboard.strip
        yield self.prompt
        yield self.dashboard.keys

    @property
    def focus_chain(self) -> list[Widget]:
        """From the prompt on, Tab leads to the tree first."""
        return super().focus_chain[::-1]

    def on_mount(self) -> None:
        """Begin to draw."""
        self.dashboard.header.settings = self.settings
        self.dashboard.header.status = "loading"
        self.prompt.focus()
        self.set_interval(DRAIN_SECONDS, self._tick)
        self.set_interval(DRAIN_SECONDS, self._go_on_drawing)
        self.keeping.start()

    @property
    def answer(self) -> Answer | None:
        """The answer under way, or the last one."""
        return self._entry.answer if self._entry is not None else None

    @property
    def answerer(self) -> str:
        """The name over an answer."""
        return self.pair.target if self.pair else "Answer"

    @property
    def busy(self) -> bool:
        """Whether an answer is under way."""
        return self.answer is not None and not self.answer.done

    # What the decode thread reports

    def _tick(self) -> None:
        # draws nothing: what is recorded must not wait for pictures
        for report in self.decoder.drain():
            take(self, report)
            self.drawing.changed()
        self.app.rests.go_on(idle=not self._decoding)

    async def _go_on_drawing(self) -> None:
        await self.drawing.go_on(running=self._decoding and not self.decoder.paused)

    @property
    def _decoding(self) -> bool:
        return self.busy or (self.race is not None and not self.race.ended)

    def _draw_text(self) -> None:
        self.prompt.walks = self.inspector.walks
        paused = self.busy and self.decoder.paused
        self.prompt.held = paused or self.inspector.walk.at is not None
        self.inspector.draw()
        self.transcript.redraw()

    def _draw_tree(self) -> None:
        self.dashboard.show_tree(self.inspector.walk, self._activity)

    def _draw_figures(self) -> None:
        self.dashboard.show_figures(self.inspector.walk, self.chosen, self._activity)
        self._draw_status()

    def _draw_status(self) -> None:
        self.prompt.steps_on_space = self.decoder.paused
        editing = self.branching.editing
        self.dashboard.show_activity(self.inspector.walk, self._activity, editing=editing)
        self.dashboard.keys.way_back = self._way_back

    @property
    def _way_back(self) -> str:
        """What the key of the tree does next where the tree is on show instead of the chat."""
        if not (self.has_class("-narrow") and self.has_class("-tree-shown")):
            return ""
        return "chat" if self.has_class("-heat") else "map, chat"

    @property
    def _activity(self) -> Activity:
        return Activity(self.pair is not None, self.busy, self.decoder.paused)

    # What a person asks for

    @on(Prompt.Submitted)
    def _submit(self, message: Prompt.Submitted) -> None:
        text = message.text.strip()
        if not text:
            self.prompt.hint("the prompt is empty: type a message, or /? for help")
        elif is_command(text):
            self._run_command(text, message.typed)
        elif self.busy:
            self.prompt.hint(self.app.keys.shown(ANSWERING))
        else:
            self.prompt.accept(message.typed)
            self.ask(text)

    @on(Prompt.HintCut)
    def _hint_cut(self, message: Prompt.HintCut) -> None:
        self.note(message.text)

    def ask(self, text: str, beside: Exchange | None = None) -> None:
        """Send a prompt.

        Args:
            text: of the prompt.
            beside: the exchange it is to be a sibling of; else it follows what is on show, or is
                a sibling of the message that is edited.
        """
        self.look_at(self.branching.begin(text, beside))
        self.keeping.begin(self.branching.last)
        self.decoder.submit(Ask(text, self.settings.sampling()), self.keeping.tell())

    def look_at(self, entry: AnswerEntry | None) -> None:
        """Show the steps of another answer, or of none."""
        self._entry = entry
        self.inspector.look_at(entry)
        self._draw_text()
        self.drawing.changed(urgent=True)

    def _run_command(self, text: str, typed: str) -> None:
        try:
            run_command(self, text)
        except SequoiaError as error:
            self.prompt.hint(self.app.keys.shown(str(error)))
        else:
            self.prompt.accept(typed)
            if typed:
                self.branching.put_back()

    def note(self, text: str, *, error: bool = False) -> None:
        """Say something in the chat that is nobody's message."""
        self.branching.pages.note(text, error=error)

    def forget(self) -> None:
        """Empty the screen as the engine empties the conversation."""
        self.keeping.recorder.clear()
        self.branching.clear()
        self.transcript.clear()
        self.look_at(None)

    def change_settings(self, settings: Settings) -> None:
        """Use other settings from the next answer on."""
        self.settings = settings
        self.dashboard.header.settings = settings

    def action_page(self, direction: int) -> None:
        """Scroll the transcript a page up (-1) or down (1)."""
        self.transcript.scroll_relative(y=self.transcript.size.height * direction, animate=False)

    def action_stop(self) -> None:
        """Close what explains a node; else end the answer under way; what there is stays."""
        if self.inspector.explain(explains=False):
            pass
        elif self.busy:
            self.decoder.cancel()
        elif self.branching.editing:
            self.branching.leave_editing()
            self._draw_status()
        elif self.inspector.walk.at is not None:
            self.action_walk("live")
        elif self._way_back:
            self.set_class(False, "-tree-shown", "-heat")
        self.prompt.focus()
        self._draw_status()

    def action_pause(self) -> None:
        """Pause or resume the decoding; while idle, the next answer pauses at its first step."""
        if self.decoder.paused:
            self.decoder.resume()
        else:
            self.decoder.pause()
        self.drawing.now()

    def action_single_step(self) -> None:
        """One step, while paused; looking back ends, so that the step is seen."""
        if not self.decoder.paused:
            return
        if self.busy:
            self.inspector.go("live")
            self.decoder.single_step()
        else:
            self.prompt.hint("nothing to step: send a message first")
        self.drawing.now()

    def action_walk(self, where: str) -> None:
        """Look at another step of the chat; `where` is as in `Inspector.go`."""
        self.inspector.go(where)
        if where == "live":
            self.transcript.follow()
        self.drawing.now()

    def action_tree(self) -> None:
        """Tree, heat map or neither; where there is no room beside the chat, instead of it."""
        self.inspector.next_view()
        self._draw_status()

    def action_why(self) -> None:
        """Explain the node pointed at in the tree, which takes the keys."""
        self.inspector.ask_why()
        self._draw_status()

    def action_tint(self) -> None:
        """Tint each token by where it came from, or go back to Markdown."""
        self._tinted = not self._tinted
        self.inspector.tint(self._tinted)

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys that mean nothing for now are what they write."""
        if action == "single_step":
            return self.decoder.paused
        if action == "walk":
            return self.inspector.walks
        return super().check_action(action, parameters)

    @on(events.DescendantFocus)
    @on(events.Resize)
    def _focus_moved(self) -> None:
        self._draw_status()

    @on(TreeView.Pointed)
    def _node_pointed(self, message: TreeView.Pointed) -> None:
        self.inspector.pointed(asked=message.asked)

    def action_copy_answer(self) -> None:
        """Copy the last answer."""
        self.run_line("/copy")

    def action_race(self) -> None:
        """Race what stands in the prompt, or the last prompt of the chat."""
        words = self.prompt.text.strip()
        self.run_line(f"/race {'' if is_command(words) else words}")

    def action_branch(self, what: str) -> None:
        """Edit a message, ask again, or go to another branch; `what` is as in `Branching.act`."""
        self.branching.act(what)
        self.prompt.focus()
        self._draw_status()

    def action_sessions(self) -> None:
        """Continue the chat that was cut off, if that is offered, or choose a session."""
        self.run_line("/continue")

    def action_settings(self) -> None:
        """Show and change the settings."""
        open_settings(self)

    def action_help(self) -> None:
        """Show keys and commands."""
        self.app.push_screen(HelpScreen())

    def run_line(self, text: str) -> None:
        """Carry out a slash command that was chosen from the palette."""
        self._run_command(text, "")
