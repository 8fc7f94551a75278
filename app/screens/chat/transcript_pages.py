"""The transcript by exchange, so that another branch can be shown."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ...state.history import Exchange, History
from ...store.text_search import Term
from ...widgets.entries import AnswerEntry, Entry, TextEntry
from ...widgets.transcript import Transcript


@dataclass(slots=True)
class _Page:
    """The entries of one exchange; a note belongs to the exchange that it came after."""

    prompt: TextEntry
    answer: AnswerEntry
    notes: list[Entry] = field(default_factory=list)

    @property
    def entries(self) -> list[Entry]:
        return [self.prompt, self.answer, *self.notes]


class TranscriptPages:
    """Shows exchanges and notes in a transcript."""

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self._forget()

    def _forget(self) -> None:
        self._pages: dict[str, _Page] = {}
        self._notes: list[Entry] = []  # from before the first exchange
        self._stored_notes: dict[str, list[str]] = {}
        self._last: str | None = None

    def clear(self, notes: Iterable[tuple[str | None, str]] = ()) -> None:
        """Empty the transcript.

        Args:
            notes: of the exchanges that are shown next: id of the exchange that each belongs to,
                None for before the first; and its text.
        """
        self._forget()
        self._transcript.clear()
        for after, text in notes:
            if after is None:
                self.note(text)
            else:
                self._stored_notes.setdefault(after, []).append(text)

    def begin(self, exchange: Exchange, answer_name: str) -> None:
        """Add an exchange at the end; what is noted from now on belongs to it."""
        self._pages[exchange.id] = _Page(
            self._transcript.add_user(exchange.prompt),
            self._transcript.add_answer(exchange.answer, answer_name),
        )
        self._last = exchange.id
        for text in self._stored_notes.pop(exchange.id, ()):
            self.note(text)

    def name_answers(self, name: str) -> None:
        """Write another name above every answer."""
        for page in self._pages.values():
            page.answer.name = name

    def note(self, text: str, *, error: bool = False) -> None:
        """Add a line that is no message of the chat."""
        entry = self._transcript.add_note(text, error=error)
        notes = self._notes if self._last is None else self._pages[self._last].notes
        notes.append(entry)

    def show(self, branch: Sequence[Exchange], answer_name: str) -> None:
        """Show these exchanges and their notes only, scrolled to the end."""
        known = next((at for at, e in enumerate(branch) if e.id not in self._pages), len(branch))
        entries = [*self._notes]
        for exchange in branch[:known]:
            entries += self._pages[exchange.id].entries
        self._transcript.show(entries)
        self._last = branch[known - 1].id if known else None
        for exchange in branch[known:]:
            self.begin(exchange, answer_name)

    def remark(self, history: History, edited: Exchange | None) -> None:
        """Show next to each message which of its siblings it is, and which one is edited."""
        for exchange in history.branch:
            siblings = history.siblings(exchange)
            parts = [f"{siblings.index(exchange) + 1} of {len(siblings)}"][: len(siblings) - 1]
            parts += ["editing"] if exchange is edited else []
            self._pages[exchange.id].prompt.remark = " · ".join(parts)
        self._transcript.redraw()

    def scroll_to(self, exchange: Exchange, wanted: tuple[Term, ...] = ()) -> None:
        """Scroll to a message, or to the words of a search in it or its answer."""
        page = self._pages[exchange.id]
        if wanted:
            self._transcript.scroll_to_match((page.prompt, page.answer), wanted)
        else:
            self._transcript.scroll_to_entry(page.prompt)

    def scroll_to_end(self) -> None:
        """Scroll to the end, and follow the running answer."""
        self._transcript.follow()

    def answer(self, exchange: Exchange) -> AnswerEntry:
        """The entry of an exchange's answer."""
        return self._pages[exchange.id].answer
