"""The chat screen: sends prompts to the decode thread and draws what it reports.

Reports are taken in 20 times a second, and drawn at a pace of their own, so that a burst of steps
costs one picture.
"""

from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal
from textual.widget import Widget

from sequoia_core.errors import SequoiaError

from ...config.actions import bindings
from ...config.preferences import Preferences
from ...config.settings import Settings
from ...engine.decode_thread import Decoder
from ...engine.messages import Ask, LoadFailed, Race
from ...present.settings_summary import describe, value_text
from ...state.chat_session import ChatError, ChatSession
from ...state.history import Exchange
from ...state.slash_commands import Command, is_command, parse_command, parse_copy, parse_set
from ...store.recorder import Recorder
from ...ui.base_app import BaseApp
from ...widgets.prompt import Prompt
from ...widgets.transcript import Transcript
from ...widgets.tree_view import TreeView
from ..help import HelpScreen
from ..prompted import PromptedScreen
from ..race import RaceScreen
from ..redraw import Redraw
from ..settings import SettingsScreen
from ..step_views import StepViews
from .apply_settings import SettingsChanger
from .branches import Branches
from .engine_reports import EngineReports
from .output import export_chat, export_file, requested_copy
from .panels import Panels
from .recording import Recording
from .session_actions import SessionActions
from .step_inspector import StepInspector
from .step_loader import StepLoader
from .transcript_pages import TranscriptPages

DRAIN_SECONDS = 1 / 20


class ChatScreen(PromptedScreen):
    """Transcript, tree, step bar, statistics and prompt.

    Args:
        decoder: the decode thread.
        settings: of the first answer.
        recorder: records the chat; by default nothing does.
        preferences: the settings of the next start.

    Attributes:
        session: the state of the chat.
    """

    app: BaseApp
    BINDINGS: ClassVar[list[BindingType]] = bindings("chat")

    def __init__(
        self,
        decoder: Decoder,
        settings: Settings,
        recorder: Recorder | None = None,
        preferences: Preferences | None = None,
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.session = session = ChatSession(settings)
        self._preferences = preferences or Preferences()
        self.recorder = recorder = recorder or Recorder()
        self.transcript = Transcript()
        self.panels = Panels(session, decoder)
        self.views = StepViews(self.panels.decoding, self.transcript)
        self.pages = TranscriptPages(self.transcript)
        self.redraw = Redraw(
            self,
            (self._draw_text, self._draw_tree, self._draw_figures),
            lambda seconds: self.app.collections.input_within(seconds),
        )
        self.recording = Recording(session, recorder)
        self.branches = Branches(
            session, self.pages, self.prompt, recorder, decoder.submit, self._branch_shown
        )
        self.inspector = StepInspector(
            session,
            self.pages,
            StepLoader(recorder.steps, self.run_worker),
            self.prompt.hint,
            self.redraw.now,
        )
        self.sessions = SessionActions(session, recorder, self.branches, self.pages, self.prompt)
        self.reports = EngineReports(session, self.recording, self.pages, self.prompt, decoder)
        self._changer: SettingsChanger

    def compose(self) -> ComposeResult:
        """Header over transcript and tree over prompt over keys."""
        yield self.panels.header
        with Horizontal(id="body"):
            yield self.transcript
            yield self.panels.decoding
            yield from self.views.widgets
        yield self.panels.strip
        yield self.prompt
        yield self.panels.keys

    @property
    def focus_chain(self) -> list[Widget]:
        """Tab leads from the prompt to the tree first."""
        return super().focus_chain[::-1]

    def on_mount(self) -> None:
        """Begin to draw."""
        self._changer = SettingsChanger(
            self.session, self.app, self.branches, self.decoder.submit, self._settings_changed
        )
        for problem in self._changer.key_problems:
            self.pages.note(problem, error=True)
        self.panels.header.status = "loading"
        self.prompt.focus()
        self.set_interval(DRAIN_SECONDS, self._take_reports)
        self.set_interval(DRAIN_SECONDS, self._go_on_drawing)
        self.sessions.start()

    # Reports and drawing

    def _take_reports(self) -> None:
        # draws nothing: what is recorded must not wait for pictures
        session = self.session
        loading, busy = session.pair is None, session.busy
        for report in self.decoder.drain():
            if isinstance(report, LoadFailed):
                self.app.fail(report.message)
            self.reports.take(report)
            self.redraw.changed()
        if loading and session.pair is not None:
            self.panels.header.pair = session.pair
            self.app.collections.answer_ended()
        elif busy and not session.busy:
            self.app.collections.answer_ended()
        self.app.collections.collect_if_due(idle=not session.decoding)

    async def _go_on_drawing(self) -> None:
        await self.redraw.go_on(running=self.session.decoding and not self.decoder.paused)

    def _draw_text(self) -> None:
        self.prompt.walks = self.inspector.has_steps
        paused = self.session.busy and self.decoder.paused
        self.prompt.held = paused or self.inspector.cursor.at is not None
        self.inspector.highlight()
        self._draw_views()
        self.transcript.redraw()

    def _draw_views(self) -> None:
        cursor = self.inspector.cursor
        title = cursor.title(paused=self.decoder.paused)
        self.views.draw(cursor.step, title, cursor.answer, cursor.at, cursor.chosen)

    def _draw_tree(self) -> None:
        self.panels.show_tree(self.inspector.cursor)

    def _draw_figures(self) -> None:
        self.panels.show_figures(self.inspector.cursor)
        self._draw_status()

    def _draw_status(self) -> None:
        self.prompt.steps_on_space = self.decoder.paused
        self.panels.show_status(self.inspector.cursor)
        self.panels.keys.way_back = self.views.way_back

    def _branch_shown(self) -> None:
        self.inspector.show_last()
        self._draw_text()
        self.redraw.changed(urgent=True)

    def _settings_changed(self) -> None:
        self.panels.header.settings = self.session.settings
        self.panels.keys.keys = self.app.keys
        self.prompt.use_keys(self.app.keys)
        self.transcript.use_keys(self.app.keys)
        self.redraw.changed()

    @on(events.DescendantFocus)
    @on(events.Resize)
    def _focus_moved(self) -> None:
        self._draw_status()

    # Prompts and commands

    @on(Prompt.Submitted)
    def _submit(self, message: Prompt.Submitted) -> None:
        text = message.text.strip()
        if is_command(text):
            self.run_line(text, message.typed)
            return
        try:
            if not text:
                raise ChatError("the prompt is empty: type a message, or /? for help")
            self.session.check_idle()
        except ChatError as error:
            self.prompt.hint(str(error))
        else:
            self.prompt.accept(message.typed)
            self._ask(text)

    @on(Prompt.HintCut)
    def _hint_cut(self, message: Prompt.HintCut) -> None:
        self.pages.note(message.text)

    def _ask(self, text: str, sibling_of: Exchange | None = None) -> None:
        exchange = self.branches.begin(text, sibling_of)
        self.sessions.withdraw_offer()
        record = self.recording.begin(exchange)
        self.decoder.submit(Ask(text, self.session.settings.sampling()), record)

    def run_line(self, text: str, typed: str = "") -> None:
        """Carry out a slash command.

        Args:
            text: the command.
            typed: the text of the prompt, if it was typed there: it is kept if that fails.
        """
        try:
            self._run(parse_command(text))
        except SequoiaError as error:
            self.prompt.hint(str(error))
        else:
            self.prompt.accept(typed)
            if typed:
                self.branches.put_back()

    def _run(self, command: Command) -> None:
        session, words = self.session, command.words
        match command.name:
            case "set":
                name, settings = parse_set(words, session.settings)
                self._changer.change(name, settings)
                self.pages.note(f"{name} is now {value_text(settings, name)}")
            case "show":
                self.pages.note(describe(session.settings, session.pair, session.tree))
            case "clear":
                session.check_idle()
                self.branches.clear()
            case "race":
                self._race(words)
            case "export":
                self._export(words)
            case "copy":
                request = parse_copy(words)
                self.app.copy_text(*requested_copy(request, session, self.get_selected_text()))
            case "settings":
                self.action_settings()
            case "bye":
                self.app.exit()
            case "?":
                self.action_help()
            case _:
                self.sessions.act(command.name, words)

    def _export(self, file: str) -> None:
        path = export_file(file, self.session)
        if path.suffix == ".svg":  # once the command is no longer in the prompt
            self.call_after_refresh(self.app.save_picture, path)
        else:
            export = export_chat(path, self.session, self.recorder.steps, self.pages.note)
            self.run_worker(export, group="export", exit_on_error=False)

    def _race(self, words: str) -> None:
        question = self.session.race_question(words)
        race = Race(question.turns, question.prompt, self.session.settings.sampling())
        screen = RaceScreen(self.session, self.decoder, race, question.exchange)
        self.app.push_screen(screen, lambda _: self.redraw.now())

    # Actions

    def action_run_line(self, text: str) -> None:
        """Carry out a slash command of the palette."""
        self.run_line(text)

    def action_page(self, direction: int) -> None:
        """Scroll the transcript a page up (-1) or down (1)."""
        self.transcript.scroll_relative(y=self.transcript.size.height * direction, animate=False)

    def action_stop(self) -> None:
        """Close or end the first of: explanation, answer, editing, walk, the tree over the chat."""
        if self.views.explains:
            self.views.explain(False)
        elif self.session.busy:
            self.decoder.cancel()
        elif self.session.edit is not None:
            self.branches.leave_editing()
        elif self.inspector.cursor.at is not None:
            self.action_walk("live")
        else:
            self.views.uncover_chat()
        self.prompt.focus()
        self._draw_status()

    def action_pause(self) -> None:
        """Pause or resume the decoding; while idle, the next answer pauses at its first step."""
        self.decoder.toggle_pause()
        self.redraw.now()

    def action_single_step(self) -> None:
        """One step, while paused; the cursor goes live, so that the step is seen."""
        if not self.decoder.paused:
            return
        if self.session.busy:
            self.inspector.go("live")
            self.decoder.single_step()
        else:
            self.prompt.hint("nothing to step: send a message first")
        self.redraw.now()

    def action_walk(self, where: str) -> None:
        """Show another step of the chat; `where` is as in `StepInspector.go`."""
        self.inspector.go(where)
        if where == "live":
            self.transcript.follow()
        self.redraw.now()

    def action_tree(self) -> None:
        """Tree, acceptance map or neither; on a narrow screen in place of the transcript."""
        self.views.next_view()
        self._draw_views()
        self._draw_status()

    def action_why(self) -> None:
        """Focus the tree, and explain the node under its cursor."""
        if not self.views.explain_tree():
            self.prompt.hint("no tree yet: send a message first")
        self._draw_status()

    @on(TreeView.Pointed)
    def _node_pointed(self, message: TreeView.Pointed) -> None:
        if message.asked:
            self.views.explain(not self.views.explains)
        self._draw_views()

    def action_tint(self) -> None:
        """Tint each token by where it came from, or go back to Markdown."""
        self.views.tint()

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """Keys of actions that mean nothing now are typed."""
        if action == "single_step":
            return self.decoder.paused
        if action == "walk":
            return self.inspector.has_steps
        return super().check_action(action, parameters)

    def action_copy_answer(self) -> None:
        """Copy the last answer."""
        self.run_line("/copy")

    def action_race(self) -> None:
        """Race the text of the prompt, or the last prompt of the chat."""
        words = self.prompt.text.strip()
        self.run_line(f"/race {'' if is_command(words) else words}")

    def action_branch(self, what: str) -> None:
        """Edit a message, ask again, or show another branch.

        Args:
            what: edit (the last message; while editing, the one before), later (while editing, the
                one after), again (ask the last or the edited message once more), before or after
                (show the sibling before or after).
        """
        try:
            match what:
                case "edit" | "later":
                    self.branches.edit(-1 if what == "edit" else 1)
                case "before" | "after":
                    self.branches.turn(-1 if what == "before" else 1)
                case _:
                    self._ask_again()
        except ChatError as error:
            self.prompt.hint(str(error))
        self.prompt.focus()
        self._draw_status()

    def _ask_again(self) -> None:
        session = self.session
        exchange = session.edited or session.last
        if exchange is None:
            raise ChatError("nothing to ask again yet: send a message first")
        session.check_idle()
        self.branches.leave_editing()
        self._ask(exchange.prompt, exchange)
        if session.settings.temperature == 0.0:
            self.prompt.hint("with temperature 0, the same answer comes again")
        elif session.settings.seed is not None:
            self.prompt.hint("with a fixed seed, the same answer comes again")

    def action_sessions(self) -> None:
        """Continue the chat that was cut off, if that is offered, or choose a session."""
        self.run_line("/continue")

    def action_settings(self) -> None:
        """Show and change the settings."""
        self.app.push_screen(SettingsScreen(self._preferences, self._changer))

    def action_help(self) -> None:
        """Show keys and commands."""
        self.app.push_screen(HelpScreen())
