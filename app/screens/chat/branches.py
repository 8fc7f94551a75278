"""Branches of the chat on the screen: edit an earlier message, show another branch."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from ...engine.messages import Clear, Restore, SetSystem, Start
from ...state.chat_session import ChatError, ChatSession, MessageEdit
from ...state.history import Exchange, History
from ...store.recorder import Recorder
from ...widgets.prompt import Prompt
from .transcript_pages import TranscriptPages

EDITING = "prompt.send sends it as another branch, chat.stop leaves it"


class Branches:
    """Changes the branch of a session, and shows it.

    Args:
        session: the chat.
        pages: shows the exchanges.
        prompt: holds the edited message.
        recorder: records which branch is on show.
        submit: sends a request to the engine, which follows the branch on show.
        shown: called after another branch was shown.
    """

    def __init__(
        self,
        session: ChatSession,
        pages: TranscriptPages,
        prompt: Prompt,
        recorder: Recorder,
        submit: Callable[[Start], None],
        shown: Callable[[], None],
    ) -> None:
        self._session, self._pages, self._prompt = session, pages, prompt
        self._recorder, self._submit, self._shown = recorder, submit, shown

    # Which branch

    def begin(self, prompt: str, sibling_of: Exchange | None = None) -> Exchange:
        """Begin an exchange; the engine is on its branch afterwards.

        Args:
            prompt: of the exchange.
            sibling_of: the exchange that it is another version of; by default the edited one, and
                without an edited one it follows the branch on show.
        """
        session = self._session
        sibling_of = sibling_of or session.edited
        typed_since = self._prompt.text if session.edit is not None else ""
        self.leave_editing()
        if typed_since:
            self._prompt.put(self._prompt.text + typed_since)
        path = session.path(sibling_of)
        if len(path) < len(session.history.branch):
            self._pages.show(path, session.answer_name)
        self._restore(path)
        exchange = session.begin(prompt, path)
        self._pages.begin(exchange, session.answer_name)
        self._remark()
        self._shown()
        return exchange

    def clear(self, request: Start | None = None) -> None:
        """Start a new chat.

        Args:
            request: clears the engine's conversation, `Clear` by default.
        """
        self._submit(request or Clear())
        self.leave_editing()
        self._recorder.clear()
        self._session.clear()
        self._pages.clear()
        self._shown()

    def open(
        self,
        history: History,
        system: str | None = None,
        notes: Iterable[tuple[str | None, str]] = (),
    ) -> None:
        """Show a stored chat.

        Args:
            history: its exchanges.
            system: its system prompt.
            notes: as in `TranscriptPages.clear`.
        """
        session = self._session
        self.leave_editing()
        self._recorder.clear()
        before = session.settings.system
        if system != before:
            self._submit(SetSystem(system, before))
            session.settings = replace(session.settings, system=system)
        session.open(history)
        self._pages.clear(notes)
        self._show()

    def select(self, exchange: Exchange) -> None:
        """Show the branch through an exchange, down to where it was left."""
        session = self._session
        session.history.select(exchange)
        self._show()
        if session.last is not None:
            self._recorder.select(session.last.id)
        if exchange is not session.last:
            self._pages.scroll_to(exchange)

    def turn(self, by: int) -> None:
        """Show the sibling before (-1) or after (1): of the edited message, or at the last fork.

        Raises:
            ChatError: there is none, or an answer is running.
        """
        sibling, edit = self._session.sibling(by), self._session.edit
        self.select(sibling)
        if edit is not None:
            edit.turn_to(self._session.history.branch, sibling, self._prompt.text)
            self._show_edit(edit)

    def _restore(self, path: Sequence[Exchange]) -> None:
        turns = self._session.turns_to_restore(path)
        if turns is not None:
            self._submit(Restore(turns))

    def _show(self) -> None:
        branch = self._session.history.branch
        self._pages.show(branch, self._session.answer_name)
        self._remark()
        self._restore(branch)
        self._shown()

    def _remark(self) -> None:
        self._pages.remark(self._session.history, self._session.edited)

    # Editing

    def edit(self, by: int) -> None:
        """Put the last message into the prompt; while editing, the one before (-1) or after (1).

        Going past the last message ends the editing.

        Raises:
            ChatError: there is no such message.
        """
        session, typed = self._session, self._prompt.text
        if session.edit is None:
            if not session.history.branch:
                raise ChatError("nothing to edit yet: send a message first")
            session.edit = MessageEdit(session.history.branch, typed)
        elif not session.edit.move(by, typed):
            if by < 0:
                raise ChatError("that is the first message")
            self.leave_editing()
            return
        self._show_edit(session.edit)

    def leave_editing(self) -> None:
        """Put the draft back into the prompt, if a message is edited."""
        edit, self._session.edit = self._session.edit, None
        if edit is None:
            return
        self._prompt.edits = False
        self._prompt.retitle(self._prompt.TITLE)
        self._prompt.put(edit.draft)
        self._remark()
        self._pages.scroll_to_end()

    def put_back(self) -> None:
        """Put the edited message back into the prompt after a command was typed over it."""
        if self._session.edit is not None:
            self._prompt.put(self._session.edit.text)

    def _show_edit(self, edit: MessageEdit) -> None:
        self._prompt.edits = True
        self._prompt.put(edit.text)
        self._prompt.retitle(f"edit message {edit.at + 1} of {len(edit.branch)}")
        self._prompt.hint(EDITING)
        self._remark()
        self._pages.scroll_to(edit.exchange)
