"""The chat screen: sends prompts to the decode thread and draws what it reports."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from textual import events, on
from textual.widget import Widget
from textual.worker import Worker
from typing_extensions import override

from ...config.actions import bindings
from ...config.model_choice import tree_remark
from ...config.model_list import ModelKind, ModelLoader
from ...config.paths import working_folder
from ...config.preferences import Preferences
from ...config.settings import Settings
from ...engine.decode_thread import DecodeThread
from ...engine.messages import LoadFailed
from ...present.words import VALUE_COLUMN, describe, value_text
from ...state.attachments import attach
from ...state.chat_session import ChatError, ChatSession
from ...state.sanitize import one_line
from ...state.scenes import find_scene, open_scene
from ...state.slash_commands import (
    Command,
    is_command,
    parse_answer,
    parse_command,
    parse_copy,
    parse_set,
)
from ...store.recorder import Recorder
from ...ui.base_app import errors_shown
from ...widgets.prompt import Prompt
from ...widgets.welcome import STARTERS
from ..demo import DemoScreen
from ..explain import ExplainScreen
from ..help import HelpScreen
from ..race import RaceScreen
from ..settings import SettingsChanger, SettingsScreen
from ..step_screen import PromptedScreen
from .asking import Asking
from .branches import Branches, TranscriptPages
from .completion_sources import CompletionSources
from .copies import requested_copy
from .engine_reports import EngineReports
from .file_actions import FileActions
from .model_switch import ModelSwitch
from .preset_actions import PresetActions
from .redraw import Redraw
from .session_actions import SessionActions
from .step_inspector import StepInspector

DRAIN_SECONDS = 1 / 20
KEPT = "this was kept as the answer; for a command, leave the editing first (chat.stop)"


class ChatScreen(PromptedScreen):
    BINDINGS = bindings("chat")

    def __init__(
        self,
        decoder: DecodeThread,
        settings: Settings,  # of the first answer
        recorder: Recorder | None = None,
        preferences: Preferences | None = None,  # of the next start
        models: ModelLoader | None = None,  # None: those of the decoder cannot be changed
    ) -> None:
        super().__init__()
        self.decoder = decoder
        self.session = session = ChatSession(settings)
        self.recorder = recorder = recorder or Recorder()
        self._preferences = preferences or Preferences()
        self._changer: SettingsChanger
        self._files: FileActions
        self._reading: Worker[None] | None = None  # of files that a message names
        prompt = self.prompt
        prompt.elsewhere = lambda: session.edit.texts if session.edit is not None else ()
        self.pages = pages = TranscriptPages(session, self.transcript, prompt.folds)
        self.branches = Branches(
            session, pages, prompt, recorder, decoder.submit, self._branch_shown
        )
        self.inspector = StepInspector(session, pages, recorder, prompt, lambda: self.redraw.now())
        self.redraw = Redraw(self, session, decoder, self.inspector)
        self.sessions = SessionActions(session, recorder, self.branches, pages, prompt)
        self.reports = EngineReports(session, recorder, pages, prompt)
        self.asking = Asking(
            session, self.branches, self.reports, decoder, prompt, lambda: self._changer,
            self.sessions.forget_offer,
        )  # fmt: skip
        self.presets = PresetActions(
            session, prompt, lambda settings: self._changer.change("system", settings)
        )
        self.models = ModelSwitch(session, decoder, models, self._preferences, pages, prompt)

    @property
    @override
    def focus_chain(self) -> list[Widget]:
        """Tab leads from the prompt to the tree first."""
        return super().focus_chain[::-1]

    def on_mount(self) -> None:
        self._changer = SettingsChanger(
            self.session, self.app, self.decoder.submit, self.branches.clear,
            self._settings_changed, self.tree_room,
        )  # fmt: skip
        self._files = FileActions(
            self.session, self.app, self.inspector, self.recorder, self.pages, self.prompt
        )
        for problem in self._changer.key_problems:
            self.pages.note(problem, error=True)
        sources = CompletionSources(self.session, self.app, self.recorder)
        self.prompt.completions.sources = sources.table()
        self.header.status = "loading"
        self.set_class(not self.session.history.branch, "-empty")  # one may be opened already
        self.set_interval(DRAIN_SECONDS, self._take_reports)
        self.set_interval(DRAIN_SECONDS, self.redraw.go_on)
        self.sessions.start()
        self.open_prompt()

    # Reports and drawing

    def _take_reports(self) -> None:
        # draws nothing: what is recorded must not wait for pictures
        session, collections = self.session, self.app.collections
        loading, busy = session.pair is None, session.busy
        for report in self.decoder.drain():
            if isinstance(report, LoadFailed):
                self.app.fail(report.message)
            self.reports.take(report)
            self.models.take(report)
            self.redraw.changed()
        if loading and session.pair is not None:
            self.header.pair = session.pair
            collections.answer_ended()
        elif busy and not session.busy:
            collections.answer_ended()
        collections.collect_if_due(idle=not session.decoding)

    def _branch_shown(self) -> None:
        self.set_class(not self.session.history.branch, "-empty")
        self.inspector.show_last()
        self.redraw.text()
        self.redraw.changed(urgent=True)

    @override
    def view_changed(self) -> None:
        self.redraw.views()
        self.redraw.status()
        self.redraw.changed()  # once the parts have their sizes

    def _settings_changed(self) -> None:
        self.header.settings = self.session.settings
        self.key_bar.keys = self.app.keys
        self.prompt.use_keys(self.app.keys)
        self.transcript.use_keys(self.app.keys)
        self.redraw.changed()

    @on(events.DescendantFocus)
    @on(events.Resize)
    def _focus_moved(self) -> None:
        self.redraw.status()

    @on(events.Resize)
    def _resized(self) -> None:
        self.redraw.changed()  # titles are as long as there is room

    # Prompts and commands

    @override
    def submit(self, text: str, typed: str, command: bool) -> None:
        text = text.strip()
        if command:
            self.action_run_line(text, typed)
            return
        with errors_shown(self.prompt.hint):
            if not text:
                raise ChatError("the prompt is empty: type a message, or /? for help")
            self.session.check_idle()
            if self.session.edit is not None and self.session.edit.of_answers:
                self.asking.store_answer(self.session.edit, self.prompt.whole.rstrip())
                if is_command(text):
                    self.prompt.hint(KEPT)
                return
            self._with_files(text, partial(self._send, typed))

    @on(Prompt.Changed)
    def _typed(self) -> None:
        self.redraw.context_warning()

    def _with_files(self, text: str, then: Callable[[str], None]) -> None:
        """Go on with the text when what is folded in it and the files that it names are there."""
        if "@" not in text:
            then(self.prompt.folds.whole(text))
            return

        async def read() -> None:
            pair, chosen = self.session.pair, self.prompt.completions.taken
            window = pair.context_window if pair is not None else None
            with errors_shown(self.prompt.hint):
                whole = self.prompt.folds.whole
                then(await asyncio.to_thread(attach, text, working_folder(), chosen, window, whole))

        if self._reading is not None and not self._reading.is_finished:
            raise ChatError("the files of the message before are being read: chat.stop ends that")
        self._reading = self.run_worker(read, group="attach")

    def _send(self, typed: str, text: str) -> None:
        self.session.check_idle()  # again, after files were read
        self.prompt.accept(typed)
        self.asking.ask(text)

    def action_run_line(self, text: str, typed: str = "") -> None:
        """Carry out a slash command; what was `typed` for it stays in the prompt if that fails."""
        with errors_shown(self.prompt.hint):
            command = parse_command(text)

            def run(words: str) -> None:
                self._run(replace(command, words=words))
                if typed:
                    self.prompt.accept(typed)
                    if self.session.edit is not None:  # what it was typed over comes back
                        self.prompt.put(self.session.edit.text, literal=self.session.edit.literal)

            if command.name == "race":
                self._with_files(command.words, run)
            else:
                run(self.prompt.folds.whole(command.words))

    def _run(self, command: Command) -> None:
        session, words = self.session, command.words
        match command.name:
            case "set":
                name, settings = parse_set(words, session.settings)
                self._changer.change(name, settings)
                value = one_line(value_text(settings, name))
                value += tree_remark(name, settings)
                self.prompt.hint(f"{name} is now {value}", passing=True)
            case "show-tree":
                other = "off" if session.settings.show_tree else "on"
                self.prompt.hint("")  # by its key, what an answer left there would stay
                self._run(Command("set", f"show_tree {words or other}"))
                if session.settings.show_tree:
                    self.remove_class("-tree-hidden")
                    self.view_changed()
            case "show":
                shown = session.settings, session.pair, session.tree, session.answer
                text = describe(*shown, session.memory)
                self.pages.note(text, topic="show", hang=VALUE_COLUMN)
            case "clear":
                session.check_idle()
                self.branches.clear()
            case "race":
                question = session.race_question(words)
                screen = RaceScreen(session, self.decoder, question, self.prompt)
                self.app.push_screen(screen, lambda _: self.redraw.now())
            case "export":
                self._files.export(words)
            case "record":
                self._files.record(words)
            case "tour":
                self.run_worker(self._tour(find_scene(words or "1")), group="tour")
            case "copy":
                text, what = requested_copy(parse_copy(words), session, self.get_selected_text())
                self.app.copy_to_clipboard(text, what)
            case "settings":
                self.app.push_screen(SettingsScreen(self._preferences, self._changer))
            case "edit":
                typed = session.edit.text if session.edit is not None else ""
                self.branches.edit(-1, answers=parse_answer(words), typed=typed)
            case "continue" if words:
                parse_answer(words)
                self.asking.continue_answer(session.edited or session.last)
            case "again":
                self.asking.regenerate(words)
            case "preset":
                self.presets.act(words)
            case ModelKind.TARGET | ModelKind.DRAFT:
                self.models.act(ModelKind(command.name), words)
            case "bye":
                self.app.exit()
            case "?":
                self.app.push_screen(HelpScreen())
            case _:
                self.sessions.act(command.name, words)

    async def _tour(self, at: int) -> None:
        """Open the demonstration; a running answer goes on under it."""
        loading = await asyncio.to_thread(open_scene, at)
        screen = DemoScreen(at, loading, over_chat=True)
        self.app.push_screen(screen, lambda _: self.redraw.now())

    # Actions

    @override
    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        # keys of actions that mean nothing now are typed
        if action == "single_step":
            return self.decoder.paused
        if action == "walk":
            return self.inspector.has_steps
        return super().check_action(action, parameters)

    def action_starter(self, name: str) -> None:
        """Send one of the starter prompts; what is typed stays."""
        with errors_shown(self.prompt.hint):
            if self.session.history.branch:
                raise ChatError("starter prompts are for an empty chat: /clear begins one")
            self.asking.ask(STARTERS[name])

    def action_explain_screen(self) -> None:
        self.app.push_screen(ExplainScreen(self, self.prompt))

    def action_page(self, direction: int) -> None:
        self.transcript.scroll_relative(y=self.transcript.size.height * direction, animate=False)

    def action_stop(self) -> None:
        """Close or end the first of: explanation, answer, editing, walk, the tree over the chat."""
        if self.explains:
            self.explain(False)
        elif self._reading is not None and not self._reading.is_finished:
            self._reading.cancel()
        elif self.session.busy:
            self.decoder.cancel()
        elif self.models.loading:
            self.decoder.stop_switch()
        elif self.session.edit is not None:
            self.branches.leave_editing()
        elif self.inspector.cursor.at is not None:
            self.action_walk("live")
        elif self.covers_chat:
            self.remove_class("-tree-shown", "-heat")
        self.prompt.focus()
        self.redraw.status()

    def action_write(self, text: str) -> None:
        """Begin a command in the prompt, if nothing else is there."""
        self.prompt.focus()
        if self.prompt.text.strip():
            self.prompt.hint("the prompt is not empty: send or delete its text first")
        else:
            self.prompt.put("")
            self.prompt.write(text)
            self.prompt.completions.typed(opens=True)

    def action_pause(self) -> None:
        self.decoder.toggle_pause()
        self.redraw.now()

    def action_single_step(self) -> None:
        """One step; the cursor goes live, so that the step is seen."""
        if self.session.busy:
            self.inspector.go("live")
            self.decoder.single_step()
        else:
            self.prompt.hint("nothing to step: send a message first")
        self.redraw.now()

    def action_walk(self, where: str) -> None:
        self.inspector.go(where)
        if where == "live":
            self.transcript.follow()
        self.redraw.now()

    def action_best_step(self) -> None:
        self.inspector.go_to_best()
        self.redraw.now()

    def action_why(self) -> None:
        tree = self.token_tree
        if tree.step is None:
            self.prompt.hint("no tree yet: send a message first")
        else:
            self.remove_class("-heat", "-tree-hidden")
            self.set_class(self.has_class("-narrow"), "-tree-shown")
            tree.focus()
            if not self.explains:
                tree.action_explain()
        self.redraw.status()

    def action_race(self) -> None:
        words = self.prompt.text.strip()
        command = is_command(words) and not self.prompt.literal
        self.action_run_line("/race" if command else f"/race : {words}")

    def action_unfold(self) -> None:
        """Open what is folded in the prompt, or open or close it in the transcript."""
        if not self.prompt.unfold() and not self.transcript.unfold():
            self.prompt.hint("nothing here is folded")

    def action_branch(self, what: str) -> None:
        """Edit a message or, while editing, the one before or later; ask again; show a sibling."""
        with errors_shown(self.prompt.hint):
            match what:
                case "edit":
                    self.branches.edit(-1, answers=False)
                case "edit answer":
                    self.branches.edit(-1, answers=True)
                case "earlier" | "later":
                    self.branches.edit(-1 if what == "earlier" else 1)
                case "continue":
                    self.asking.go_on()
                case "before" | "after":
                    self.branches.turn(-1 if what == "before" else 1)
                case _:
                    self.asking.check_unchanged()
                    self.asking.regenerate()
        self.prompt.focus()
        self.redraw.status()
