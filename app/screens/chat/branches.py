"""Branches of the chat: edit an earlier message, ask again, go to another answer.

Owns the chat's history, which branch of it is on show, and the editing of a message. The engine is
told of another branch before anything is asked on it. Drawing and asking are the chat screen's.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

from ...engine.messages import Restore
from ...state.answer import Answer
from ...state.history import Exchange, History, turns
from ...state.message_edit import Editing
from ...store.text_search import Term
from ...widgets.entries import AnswerEntry
from .transcript_pages import Pages

if TYPE_CHECKING:
    from .screen import ChatScreen

BRANCH_COMMANDS = (
    ("Edit a message", "Change an earlier message; the old branch stays (chat.edit)", "edit"),
    ("Ask again", "Another answer beside the one there is (chat.again)", "again"),
    ("Branch before", "At the last message that has several (chat.branch_before)", "before"),
    ("Branch after", "At the last message that has several (chat.branch_after)", "after"),
)
"""For the command palette: name, what it does, and what it is for `Branching.act`."""

ANSWERING = "still answering: chat.stop stops it, then this works"
NO_SIBLING = "no other branch: chat.again asks again, chat.edit edits a message"
EDITING = "prompt.send sends it as another branch, chat.stop leaves it"


class Branching:
    """The branches of one chat screen.

    Args:
        chat: the screen.

    Attributes:
        history: every exchange of the chat.
        pages: shows exchanges and notes.
    """

    def __init__(self, chat: "ChatScreen") -> None:
        self._chat = chat
        self.history = History()
        self.pages = Pages(chat.transcript)
        self._editing: Editing | None = None
        self._engine_after: str | None = None
        self._engine_out_of_sync = False

    @property
    def last(self) -> Exchange | None:
        """The end of the branch on show."""
        return self.history.branch[-1] if self.history.branch else None

    @property
    def editing(self) -> bool:
        """Whether the prompt holds an earlier message."""
        return self._editing is not None

    @property
    def edited(self) -> Exchange | None:
        """The exchange whose message the prompt holds."""
        return self._editing.exchange if self._editing is not None else None

    def clear(self) -> None:
        """Begin a new chat; the engine is told by whoever asks for it."""
        self.leave_editing()
        self.history = History()
        self.pages.clear()
        self._engine_after = None

    def open(self, history: History, notes: Iterable[tuple[str | None, str]] = ()) -> None:
        """Go on with a chat of an earlier day, where it was left.

        Args:
            history: the chat.
            notes: as `Pages.file` takes them.
        """
        self.clear()
        self._chat.forget()
        self.pages.file(notes)
        self.history = history
        self._show()

    # Asking

    def begin(self, prompt: str, beside: Exchange | None = None) -> AnswerEntry:
        """Begin an exchange; the engine is on the right branch when it is asked after this.

        Args:
            prompt: of the exchange.
            beside: makes it a sibling of this one; else of the one whose prompt is edited, or
                else it follows the end of the branch.
        """
        beside = beside or self.edited
        typed_since = self._chat.prompt.text if self.editing else ""
        self.leave_editing()
        if typed_since:
            self._chat.prompt.put(self._chat.prompt.text + typed_since)
        for earlier in self.history.exchanges.values():
            earlier.answer.forget_steps()
        return self._begin(prompt, beside)

    def _begin(self, prompt: str, beside: Exchange | None) -> AnswerEntry:
        history = self.history
        path = history.branch if beside is None else history.before(beside)
        parent = path[-1].id if path else None
        if len(path) < len(history.branch):
            self.pages.show(path, self._chat.answerer)
        self._tell_engine(path)
        exchange = history.begin(prompt, Answer(prompt), time.time(), parent=parent)
        self._engine_after = exchange.id
        entry = self.pages.begin(exchange, self._chat.answerer)
        self._remark()
        return entry

    def _tell_engine(self, path: Sequence[Exchange]) -> None:
        end = path[-1].id if path else None
        if end != self._engine_after or self._engine_out_of_sync:
            self._chat.decoder.submit(Restore(turns(path)))
            self._engine_after, self._engine_out_of_sync = end, False

    def engine_out_of_sync(self) -> None:
        """The engine could not follow; it is told again before anything is asked."""
        self._engine_out_of_sync = True

    # What a person asks for

    def act(self, what: str) -> None:
        """Carry out a key.

        Args:
            what: edit (the last message; while editing, the one before), later (while editing,
                the message after), again (ask the same once more), before or after (go to the
                sibling before or after).
        """
        acts: dict[str, Callable[[], None]] = {
            "edit": lambda: self.edit(-1),
            "later": lambda: self.edit(1),
            "again": self.ask_again,
            "before": lambda: self._turn(-1),
            "after": lambda: self._turn(1),
        }
        acts[what]()

    def edit(self, by: int) -> None:
        """Put the last message into the prompt; while editing, the one before or after.

        Going past the last message ends the editing.
        """
        prompt, editing = self._chat.prompt, self._editing
        if editing is None:
            if not self.history.branch:
                self._hint("nothing to edit yet: send a message first")
                return
            self._editing = editing = Editing(self.history.branch, prompt.text)
        elif not editing.move(by, prompt.text):
            if by > 0:
                self.leave_editing()
            else:
                self._hint("that is the first message")
            return
        self._show_editing(editing)

    @property
    def waiting(self) -> str:
        """What was being typed before a message is edited; "" while none is."""
        return self._editing.draft if self._editing is not None else ""

    def leave_editing(self) -> None:
        """Back to what was being typed before."""
        editing, self._editing = self._editing, None
        if editing is None:
            return
        prompt = self._chat.prompt
        prompt.edits = False
        prompt.retitle(prompt.TITLE)
        prompt.put(editing.draft)
        self._remark()
        self._chat.transcript.follow()

    def put_back(self) -> None:
        """After a command was typed over it, the message that is edited."""
        if self._editing is not None:
            self._chat.prompt.put(self._editing.text)

    def ask_again(self) -> None:
        """Ask the last message, or the one that is edited, once more."""
        chat = self._chat
        exchange = self.edited or self.last
        if exchange is None:
            self._hint("nothing to ask again yet: send a message first")
        elif chat.busy:
            self._hint(ANSWERING)
        else:
            self.leave_editing()
            chat.ask(exchange.prompt, exchange)
            if chat.settings.temperature == 0.0 or chat.settings.seed is not None:
                what = "temperature 0" if chat.settings.temperature == 0.0 else "a fixed seed"
                self._hint(f"with {what}, the same answer comes again")

    # Siblings

    def _turn(self, by: int) -> None:
        """Go to the sibling before or after: of the message that is edited, or of the last fork."""
        chat, editing = self._chat, self._editing
        exchange = editing.exchange if editing is not None else self._last_fork()
        siblings = self.history.siblings(exchange) if exchange is not None else ()
        if exchange is None or len(siblings) < 2:
            self._hint(NO_SIBLING)
            return
        if chat.busy:
            self._hint(ANSWERING)
            return
        at = siblings.index(exchange) + by
        if not 0 <= at < len(siblings):
            self._hint(f"that is the {'first' if by < 0 else 'last'} of {len(siblings)}")
            return
        self.select(siblings[at])
        if editing is not None:
            branch = self.history.branch
            editing.turn_to(branch, branch.index(siblings[at]), chat.prompt.text)
            self._show_editing(editing)

    def select(self, exchange: Exchange) -> None:
        """Show the branch that runs through an exchange, down to where it was left."""
        self.history.select(exchange)
        self._show()
        if self.last is not None:
            self._chat.keeping.recorder.select(self.last.id)
        if exchange is not self.last:
            self._chat.transcript.scroll_to_entry(self.pages.prompt(exchange))

    def find(self, exchange: Exchange, wanted: tuple[Term, ...]) -> None:
        """Bring into view where the words of a search stand in an exchange on show.

        Args:
            exchange: on the branch.
            wanted: the words; where there are none, its prompt is revealed.
        """
        entries = self.pages.prompt(exchange), self.pages.answer(exchange)
        self._chat.transcript.scroll_to_match(entries, wanted)

    def _last_fork(self) -> Exchange | None:
        branch = self.history.branch
        return next((e for e in reversed(branch) if len(self.history.siblings(e)) > 1), None)

    # Showing

    def _show(self) -> None:
        branch = self.history.branch
        self.pages.show(branch, self._chat.answerer)
        self._remark()
        self._tell_engine(branch)
        last = self.last
        self._chat.look_at(self.pages.answer(last) if last is not None else None)

    def _show_editing(self, editing: Editing) -> None:
        prompt = self._chat.prompt
        prompt.edits = True
        prompt.put(editing.text)
        prompt.retitle(f"edit message {editing.at + 1} of {len(editing.branch)}")
        self._hint(EDITING)
        self._remark()
        self._chat.transcript.scroll_to_entry(self.pages.prompt(editing.exchange))

    def _hint(self, text: str) -> None:
        """Show a line at the prompt; ids of actions in it read as their keys."""
        self._chat.prompt.hint(self._chat.app.keys.shown(text))

    def _remark(self) -> None:
        """Say beside each message which of its siblings it is, and which one is edited."""
        edited = self.edited
        for exchange in self.history.branch:
            siblings = self.history.siblings(exchange)
            parts = [f"{siblings.index(exchange) + 1} of {len(siblings)}"][: len(siblings) - 1]
            parts += ["editing"] if exchange is edited else []
            self.pages.prompt(exchange).remark = " · ".join(parts)
        self._chat.transcript.redraw()
