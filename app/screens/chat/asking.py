"""Asks, regenerates and continues: each begins another exchange or another version of one."""

from collections.abc import Callable
from dataclasses import dataclass

from sequoia_core.events import AnswerStart
from sequoia_core.text.chat_template import Turn

from ...config.model_choice import tree_choice
from ...config.settings import Settings
from ...engine.decode_thread import DecodeThread
from ...engine.messages import Ask, ContinueAnswer
from ...state.chat_session import ChatError, ChatSession, MessageEdit
from ...state.history import Exchange
from ...state.slash_commands import parse_again, with_settings
from ...widgets.prompt import Prompt
from ..settings import SettingsChanger
from .branches import Branches
from .engine_reports import EngineReports


@dataclass(frozen=True, slots=True)
class Asking:
    """All but `ask` raise `ChatError` if that cannot be done now."""

    session: ChatSession
    branches: Branches
    reports: EngineReports
    decoder: DecodeThread
    prompt: Prompt
    changer: Callable[[], SettingsChanger]
    asked: Callable[[], None]  # called when a question was begun

    def ask(
        self,
        text: str,
        sibling_of: Exchange | None = None,
        start: AnswerStart | None = None,
        once: Settings | None = None,
    ) -> None:
        """Ask; `start` is what is special about the answer, `once` are settings for it alone."""
        usual = self.session.settings
        if once is not None:  # an error in them comes before anything begins
            self.changer().choose_tree(once)
        else:
            self.changer().fit_shown_tree()
        exchange = self.branches.begin(text, sibling_of)
        self.asked()
        record = self.reports.begin(exchange, start)
        params = (once or usual).sampling()
        if start is not None and start.text:
            turn = Turn(text, start.text, start.token_ids)
            self.decoder.submit(ContinueAnswer(turn, params), record)
        else:
            self.decoder.submit(Ask(text, params), record)
        if once is not None:
            self.changer().choose_tree(usual)

    def regenerate(self, words: str = "") -> None:
        """Ask the last or edited message again; `words` are settings for this answer alone."""
        session = self.session
        exchange = session.edited or session.last
        if exchange is None:
            raise ChatError("nothing to regenerate yet: send a message first")
        session.check_idle()
        changed, settings = parse_again(words, session.settings)
        tree_choice(settings)  # an error comes before the editing ends
        self.branches.leave_editing()
        if changed:
            self.ask(exchange.prompt, exchange, AnswerStart(settings=changed), settings)
            named = ", ".join(f"{name} {value}" for name, value in changed.items())
            self.prompt.hint(f"with {named} for this answer alone", passing=True)
            return
        self.ask(exchange.prompt, exchange)
        if session.settings.temperature == 0.0:
            self.prompt.hint("with temperature 0, the same answer comes again")
        elif session.settings.seed is not None:
            self.prompt.hint("with a fixed seed, the same answer comes again")

    def store_answer(self, edit: MessageEdit, text: str) -> None:
        """Add another version of the edited answer, from which the chat goes on."""
        self.session.check_idle()
        if text == edit.original.rstrip():
            raise ChatError("nothing was changed in this answer: chat.stop cancels")
        exchange = self.branches.begin(edit.exchange.prompt, edit.exchange)
        self.prompt.put(edit.draft)
        start = AnswerStart(_own_settings(edit.exchange), text, edited=True)
        self.reports.store(exchange, start)
        self.branches.catch_up()

    def go_on(self) -> None:
        """Let the model continue the last answer, or the edited one as it is now in the prompt."""
        edit = self.session.edit
        exchange = self.session.edited or self.session.last
        if edit is not None and edit.of_answers and self._changed:
            self.store_answer(edit, self.prompt.whole.rstrip())
            exchange = self.session.last
        self.check_unchanged()
        self.continue_answer(exchange)

    def check_unchanged(self) -> None:
        """Raises `ChatError` if the edited text was changed: it is not to be lost."""
        edit = self.session.edit
        if edit is not None and self._changed:
            what, does = ("answer", "keeps") if edit.of_answers else ("message", "sends")
            raise ChatError(f"the {what} was changed: prompt.send {does} it, chat.stop cancels")

    @property
    def _changed(self) -> bool:
        edit, text = self.session.edit, self.prompt.whole.rstrip()
        return edit is not None and bool(text) and text != edit.original.rstrip()

    def continue_answer(self, exchange: Exchange | None) -> None:
        """Begin another version of an answer: its text, and what the model adds to it.

        Settings that were for the answer alone hold for what is added.
        """
        if exchange is None:
            raise ChatError("nothing to continue yet: send a message first")
        self.session.check_idle()
        answer = exchange.answer
        if not answer.verbatim:
            raise ChatError("there is no text to continue: chat.again regenerates the answer")
        if answer.complete:
            raise ChatError("the model has ended this answer: chat.edit_answer edits it")
        own, once = _own_settings(exchange), None
        if own:
            once = with_settings(own, self.session.settings)
            tree_choice(once)  # an error comes before the editing ends
        edited = answer.start is not None and answer.start.edited
        self.branches.leave_editing()
        start = AnswerStart(own, answer.verbatim, answer.known_ids, edited)
        self.ask(exchange.prompt, exchange, start, once)


def _own_settings(exchange: Exchange) -> dict[str, str]:
    """What the answer was decoded with, where that was for it alone."""
    start = exchange.answer.start
    return start.settings if start is not None else {}
