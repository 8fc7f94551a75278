"""Branches of the chat on the screen: edit an earlier message, show another branch."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...engine.messages import Clear, Restore, SetSystem, Start
from ...state.attachments import Folds
from ...state.chat_session import UNNAMED, ChatError, ChatSession, MessageEdit
from ...state.history import Exchange, History
from ...store.recorder import Recorder
from ...store.text_search import Term
from ...widgets.entries import AnswerEntry, Entry, MessageEntry, TextEntry, note_entry
from ...widgets.prompt import Prompt
from ...widgets.transcript import Transcript

EDITING = "prompt.send sends it as a new version, chat.stop cancels"
EDITING_ANSWER = (
    "prompt.send keeps it as a new version, chat.continue_answer lets the model go on, "
    "chat.stop cancels"
)
StoredNotes = Mapping[str | None, Sequence[str]]
"""Texts of notes by the id of the exchange that they came after, None for before the first."""


class TranscriptPages:
    """Shows the exchanges of a session in a transcript, each with the notes that came after it."""

    def __init__(self, session: ChatSession, transcript: Transcript, folds: Folds) -> None:
        self._session, self.transcript, self._folds = session, transcript, folds
        self._prompts: dict[str, TextEntry] = {}
        self.answers: dict[str, AnswerEntry] = {}  # by id of the exchange
        self._notes: dict[str | None, list[Entry]] = {}
        self._by_topic: dict[str, Entry] = {}  # the note that the next one of its topic replaces
        self._last: str | None = None

    def clear(self, notes: StoredNotes) -> None:
        """Empty the transcript; the notes are of the exchanges that are shown next."""
        self._prompts, self.answers, self._last = {}, {}, None
        self._notes = {after: [*map(note_entry, texts)] for after, texts in notes.items()}
        self._by_topic = {}
        self.transcript.show(self._notes.get(None, ()))

    def begin(self, exchange: Exchange) -> None:
        """Add an exchange at the end; what is noted from now on belongs to it."""
        self.transcript.begin(*self._entries(exchange))
        self._last = exchange.id

    def name_answers(self) -> None:
        """Name the answers that were asked for while the models loaded."""
        for answer in self.answers.values():
            if answer.name == UNNAMED:
                answer.name = self._session.answer_name

    def note(self, text: str, *, error: bool = False, topic: str = "", hang: int = 0) -> None:
        """Add a line that is no message of the chat; of each `topic` only the last one stays."""
        entry = note_entry(text, error=error, hang=hang)
        if topic:
            if (before := self._by_topic.get(topic)) is not None:
                for notes in self._notes.values():
                    notes[:] = [each for each in notes if each is not before]
                self.transcript.take_out(before)
            self._by_topic[topic] = entry
        self.transcript.add(entry)
        self._notes.setdefault(self._last, []).append(entry)

    def show(self, branch: Sequence[Exchange]) -> None:
        """Show these exchanges and their notes only, scrolled to the end."""
        entries = [*self._notes.get(None, ())]
        for exchange in branch:
            entries += self._entries(exchange)
        self.transcript.show(entries)
        self._last = branch[-1].id if branch else None

    def _entries(self, exchange: Exchange) -> Sequence[Entry]:
        known = exchange.id
        if known not in self._prompts:
            self._prompts[known] = MessageEntry(self._folds.shown(exchange.prompt))
            self.answers[known] = AnswerEntry(exchange.answer, self._session.answer_name)
        return self._prompts[known], self.answers[known], *self._notes.get(known, ())

    def remark(self) -> None:
        """Show next to each message which of its siblings it is, and which one is edited."""
        history, edit = self._session.history, self._session.edit
        for exchange in history.branch:
            siblings = history.siblings(exchange)
            parts = []
            if len(siblings) > 1:
                parts.append(f"{siblings.index(exchange) + 1} of {len(siblings)}")
            if edit is not None and exchange is edit.exchange:
                parts.append("editing the answer" if edit.of_answers else "editing")
            self._prompts[exchange.id].remark = " · ".join(parts)
        self.transcript.redraw()

    def scroll_to(self, exchange: Exchange, wanted: tuple[Term, ...] = ()) -> None:
        """Scroll to a message, or to the words of a search in it or its answer."""
        entries = (self._prompts[exchange.id], self.answers[exchange.id])
        self.transcript.scroll_to_match(entries, wanted)


@dataclass(frozen=True, slots=True)
class Branches:
    """Changes the branch of a session, on the screen, in the record and in the engine."""

    session: ChatSession
    pages: TranscriptPages
    prompt: Prompt  # holds the edited message
    recorder: Recorder
    submit: Callable[[Start], None]
    shown: Callable[[], None]  # called after another branch was shown

    # Which branch

    def begin(self, prompt: str, sibling_of: Exchange | None = None) -> Exchange:
        """Begin an exchange, on the screen and in the engine.

        It is another version of `sibling_of` or the edited one, or else follows the branch.
        """
        session = self.session
        path = session.path(sibling_of or session.edited)
        self.leave_editing(self.prompt.whole)
        if len(path) < len(session.history.branch):
            self.pages.show(path)
        self._restore(path)
        exchange = session.begin(prompt, path)
        self.pages.begin(exchange)
        self.pages.remark()
        self.shown()
        return exchange

    def clear(self, request: Start | None = None) -> None:
        """Start a new chat; `request` clears the engine's conversation, `Clear` by default."""
        self.submit(request or Clear())
        self.leave_editing()
        self.recorder.clear()
        self.session.clear()
        self.pages.clear({})
        self.shown()

    def open(self, history: History, system: str | None, notes: StoredNotes) -> None:
        """Show a stored chat with its system prompt and notes."""
        session = self.session
        self.leave_editing()
        self.recorder.clear()
        before = session.settings.system
        if system != before:
            self.submit(SetSystem(system, before))
            session.settings = replace(session.settings, system=system)
        session.open(history)
        self.pages.clear(notes)
        self._show()

    def select(self, exchange: Exchange) -> None:
        """Show the branch through an exchange, down to where it was left."""
        self.session.history.select(exchange)
        self._show()
        last = self.session.history.branch[-1]
        self.recorder.select(last.id)
        if exchange is not last:
            self.pages.scroll_to(exchange)

    def turn(self, by: int) -> None:
        """Show the sibling before (-1) or after (1): of the edited message, or at the last fork.

        Raises `ChatError` if there is none, or an answer is running.
        """
        sibling, edit = self.session.sibling(by), self.session.edit
        self.select(sibling)
        if edit is not None:
            edit.turn_to(self.session.history.branch, sibling, self.prompt.whole)
            self._show_edit(edit)

    def catch_up(self) -> None:
        """Show the end of the branch, which the engine did not decode, and take it there."""
        self.session.leave_engine()
        self._restore(self.session.history.branch)
        self.pages.remark()

    def _restore(self, path: Sequence[Exchange]) -> None:
        turns = self.session.turns_to_restore(path)
        if turns is not None:
            self.submit(Restore(turns))

    def _show(self) -> None:
        branch = self.session.history.branch
        self.pages.show(branch)
        self.pages.remark()
        self._restore(branch)
        self.shown()

    # Editing

    def edit(self, by: int, *, answers: bool | None = None, typed: str | None = None) -> None:
        """Put the last message into the prompt; while editing, the one before (-1) or after (1).

        Past the last one the editing ends. With `answers` it is an answer, without it a message,
        by default what is edited already. `typed` is what was in the prompt, if it is no longer.
        Raises `ChatError` if there is no such message.
        """
        session, typed = self.session, self.prompt.whole if typed is None else typed
        if answers:
            session.check_idle()
        if session.edit is None:
            if not session.history.branch:
                raise ChatError("nothing to edit yet: send a message first")
            session.edit = MessageEdit(session.history.branch, typed, of_answers=bool(answers))
        elif answers is not None and answers != session.edit.of_answers:
            session.edit.keep(typed)
            session.edit.of_answers = answers
        elif not session.edit.move(by, typed):
            if by < 0:
                what = "answer" if session.edit.of_answers else "message"
                raise ChatError(f"that is the first {what}")
            self.leave_editing()
            return
        self._show_edit(session.edit)

    def leave_editing(self, typed_since: str = "") -> None:
        """If a message is edited, put the draft back into the prompt, before what was typed."""
        edit, self.session.edit = self.session.edit, None
        if edit is None:
            return
        self.prompt.edits = False
        self.prompt.retitle(self.prompt.TITLE)
        self.prompt.put(edit.draft + typed_since)
        self.pages.remark()
        self.pages.transcript.follow()

    def _show_edit(self, edit: MessageEdit) -> None:
        self.prompt.edits = True
        self.prompt.put(edit.text, literal=edit.literal)
        what = "answer" if edit.of_answers else "message"
        self.prompt.retitle(f"edit {what} {edit.at + 1} of {len(edit.branch)}")
        self.prompt.hint(EDITING_ANSWER if edit.of_answers else EDITING, passing=edit.of_answers)
        self.pages.remark()
        self.pages.scroll_to(edit.exchange)
