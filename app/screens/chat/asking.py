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
from ...state.slash_commands import parse_again
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
        self.reports.store(exchange, AnswerStart(text=text, edited=True))
        self.branches.catch_up()

    def go_on(self) -> None:
        """Let the model continue the last answer, or the edited one as it is now in the prompt."""
        edit, text = self.session.edit, self.prompt.whole.rstrip()
        exchange = self.session.edited or self.session.last
        if edit is not None and text and text != edit.original.rstrip():
            if not edit.of_answers:
                raise ChatError("the message was changed: prompt.send sends it, chat.stop cancels")
            self.store_answer(edit, text)
            exchange = self.session.last
        self.continue_answer(exchange)

    def continue_answer(self, exchange: Exchange | None) -> None:
        """Begin another version of an answer: its text, and what the model adds to it."""
        if exchange is None:
            raise ChatError("nothing to continue yet: send a message first")
        self.session.check_idle()
        answer = exchange.answer
        if not answer.verbatim:
            raise ChatError("there is no text to continue: chat.again regenerates the answer")
        if answer.complete:
            raise ChatError("the model has ended this answer: chat.edit_answer edits it")
        edited = answer.start is not None and answer.start.edited
        self.branches.leave_editing()
        start = AnswerStart(text=answer.verbatim, token_ids=answer.known_ids, edited=edited)
        self.ask(exchange.prompt, exchange, start)
