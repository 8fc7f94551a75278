"""Which entries of the transcript belong to which exchange, so that a branch can be shown again.

Owns the filing: a note belongs to the exchange it came after, and comes and goes with it. Knows
nothing of how entries look, nor which branch is the right one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ...state.history import Exchange
from ...widgets.entries import AnswerEntry, Entry, TextEntry
from ...widgets.transcript import Transcript


@dataclass(slots=True)
class _Page:
    """The entries of one exchange.

    Attributes:
        prompt: what the person wrote.
        answer: to it.
        notes: what was noted since.
    """

    prompt: TextEntry
    answer: AnswerEntry
    notes: list[Entry] = field(default_factory=list)

    @property
    def entries(self) -> list[Entry]:
        """All of them in order."""
        return [self.prompt, self.answer, *self.notes]


class Pages:
    """Puts exchanges and notes into a transcript.

    Args:
        transcript: shows them.
    """

    def __init__(self, transcript: Transcript) -> None:
        self._transcript = transcript
        self.clear()

    def clear(self) -> None:
        """Forget all pages; the transcript is somebody else's to empty."""
        self._pages: dict[str, _Page] = {}
        self._notes: list[Entry] = []  # from before the first exchange
        self._filed: dict[str, list[str]] = {}
        self._last: str | None = None

    def file(self, notes: Iterable[tuple[str | None, str]]) -> None:
        """Take in the notes of an earlier day, before there is any page.

        Args:
            notes: id of the exchange that each belongs to, None for before the first; and its text.
        """
        for after, text in notes:
            if after is None:
                self.note(text)
            else:
                self._filed.setdefault(after, []).append(text)

    def begin(self, exchange: Exchange, name: str) -> AnswerEntry:
        """Add an exchange at the end; what is noted from now on belongs to it.

        Args:
            exchange: not yet in the transcript.
            name: of who answers.
        """
        page = _Page(
            self._transcript.add_user(exchange.prompt),
            self._transcript.add_answer(exchange.answer, name),
        )
        self._pages[exchange.id], self._last = page, exchange.id
        for text in self._filed.pop(exchange.id, ()):
            self.note(text)
        return page.answer

    def name_answers(self, name: str) -> None:
        """Write another name over every answer."""
        for page in self._pages.values():
            page.answer.name = name

    def note(self, text: str, *, error: bool = False) -> None:
        """Add a line that is nobody's message."""
        entry = self._transcript.add_note(text, error=error)
        notes = self._notes if self._last is None else self._pages[self._last].notes
        notes.append(entry)

    def show(self, branch: Sequence[Exchange], name: str) -> None:
        """Show these exchanges and their notes instead of what is there; the end is in view."""
        known = next((at for at, e in enumerate(branch) if e.id not in self._pages), len(branch))
        entries = [*self._notes]
        for exchange in branch[:known]:
            entries += self._pages[exchange.id].entries
        self._transcript.show(entries)
        self._last = branch[known - 1].id if known else None
        for exchange in branch[known:]:
            self.begin(exchange, name)

    def answer(self, exchange: Exchange) -> AnswerEntry:
        """The entry of an exchange's answer."""
        return self._pages[exchange.id].answer

    def prompt(self, exchange: Exchange) -> TextEntry:
        """The entry of an exchange's prompt."""
        return self._pages[exchange.id].prompt
