"""Walking through the steps of all answers on the branch; old steps are read from the record."""

from collections import deque
from collections.abc import Callable, Sequence

from ...state.chat_session import ChatSession
from ...state.history import Exchange
from ...state.step_cursor import StepCursor
from ...widgets.entries import AnswerEntry
from .step_loader import StepLoader
from .transcript_pages import TranscriptPages

NOT_RECORDED = "the steps of the answer {} of {} are not on record"


class StepInspector:
    """Moves a cursor through the steps of a chat.

    Args:
        session: the chat.
        pages: highlights the tokens of the step on show.
        loader: reads the steps of old answers.
        hint: shows why the cursor does not move.
        moved: called when the cursor moved after steps were read.

    Attributes:
        cursor: the step on show.
    """

    def __init__(
        self,
        session: ChatSession,
        pages: TranscriptPages,
        loader: StepLoader,
        hint: Callable[[str], None],
        moved: Callable[[], None],
    ) -> None:
        self._session, self._pages, self._loader = session, pages, loader
        self._hint, self._moved = hint, moved
        self.cursor = StepCursor()
        self._entry: AnswerEntry | None = None
        self._keys: deque[str] = deque()
        self._missing: set[str] = set()

    @property
    def reading(self) -> bool:
        """Whether steps are being read from the record."""
        return self._loader.reading

    @property
    def has_steps(self) -> bool:
        """Whether there are steps to walk through."""
        return self.cursor.step is not None or any(
            exchange.answer.statistics for exchange in self._session.history.branch
        )

    def show_last(self) -> None:
        """Go to the last answer, live; the steps of an old one are read first."""
        self._drop_keys()
        self._go_live()
        self.cursor.reading = self.reading

    def go(self, where: str) -> None:
        """Walk through the steps of all answers on the branch.

        While steps are read from the record, keys wait, and are then carried out in their order;
        live does not wait, and drops those that do.

        Args:
            where: back, forward, first or live. Back from the first step of an answer leads to
                the last one of the answer before, first to its first, forward from the last step
                to the first of the next answer.
        """
        if where == "live":
            self._drop_keys()
        elif not self._keys and not self.reading:
            self._missing.clear()  # the disk may be back
        self._keys.append(where)
        self._go_on()

    def highlight(self) -> None:
        """Highlight the tokens of the step on show."""
        if self._entry is not None:
            self._entry.walked_step = self.cursor.highlighted

    def _go_on(self) -> None:
        while self._keys and not self.reading:
            self._go(self._keys.popleft())
        self.cursor.reading = self.reading

    def _go(self, where: str) -> None:
        branch = self._session.history.branch
        at = next((i for i, e in enumerate(branch) if e.answer is self.cursor.answer), None)
        if at is None:
            return
        if where == "live":
            self._go_live()
            return
        if self._waits(where, branch[at]):
            return
        steps = len(branch[at].answer.steps)
        here = self.cursor.at if self.cursor.at is not None else steps - 1
        if where in ("back", "first") and (here <= 0 or not steps):
            self._go_to_answer(branch, at - 1, where)
        elif where == "forward" and at < len(branch) - 1 and here >= steps - 1:
            self._go_to_answer(branch, at + 1, where)
        else:
            self.cursor.go(where)

    def _go_live(self) -> None:
        last = self._session.last
        self._enter(last)
        self.cursor = StepCursor(self._session.answer)
        if last is not None and self._to_be_read(last):
            self._loader.load(last, self._loaded)

    def _go_to_answer(self, branch: Sequence[Exchange], at: int, where: str) -> None:
        """Go to the last step of another answer if `where` is back, else to its first."""
        if at < 0:
            self._hint("that is the first step of the chat")
            return
        exchange = branch[at]
        if self._waits(where, exchange):
            return
        steps = exchange.answer.steps
        if not steps:
            self._hint(NOT_RECORDED.format(at + 1, len(branch)))
            return
        self._enter(exchange)
        place = f", answer {at + 1} of {len(branch)}" if at < len(branch) - 1 else ""
        self.cursor = StepCursor(exchange.answer, len(steps) - 1 if where == "back" else 0, place)

    def _enter(self, exchange: Exchange | None) -> None:
        """Highlight in another answer; free the steps of all but it and the last one."""
        entry = self._pages.answer(exchange) if exchange is not None else None
        if self._entry is not None and self._entry is not entry:
            self._entry.walked_step = None
        self._entry = entry
        used = (exchange, self._session.last)
        self._loader.keep_only(*(each.answer for each in used if each is not None))

    # Steps that are only in the record

    def _waits(self, where: str, exchange: Exchange) -> bool:
        """Let a key wait until the steps of an answer are read, if they have to be."""
        if not self._to_be_read(exchange):
            return False
        self._keys.appendleft(where)
        self._loader.load(exchange, self._loaded)
        return True

    def _to_be_read(self, exchange: Exchange) -> bool:
        answer = exchange.answer
        return answer.done and not answer.steps and exchange.id not in self._missing

    def _loaded(self, exchange: Exchange) -> None:
        if not exchange.answer.steps:
            self._missing.add(exchange.id)
        self._go_on()
        self._moved()

    def _drop_keys(self) -> None:
        self._loader.cancel()
        self._keys.clear()
        self._missing.clear()
