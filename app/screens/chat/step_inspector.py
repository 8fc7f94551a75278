"""Walking through the steps of all answers on the branch; old steps are read from the record."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

from textual.worker import Worker, get_current_worker

from sequoia_core.events import Step

from ...state.answer import Statistics
from ...state.chat_session import ChatSession
from ...state.history import Exchange
from ...state.step_cursor import StepCursor
from ...state.summary import summary_of
from ...store.database import StoreError
from ...store.recorder import Recorder
from ...widgets.prompt import Prompt
from .branches import TranscriptPages

READING = "reading the steps ..."
NO_BEST = "no best step yet: it is known when an answer with a tree is finished"
NOT_RECORDED = "the steps of the answer {} of {} are not on record"


@dataclass(slots=True)
class StepInspector:
    """Moves a cursor through the steps of a chat.

    While those of an old answer are read, keys wait; then they are carried out in their order.
    """

    session: ChatSession
    pages: TranscriptPages
    recorder: Recorder
    prompt: Prompt
    moved: Callable[[], None]  # called after that
    cursor: StepCursor = field(default_factory=StepCursor)
    _keys: deque[str] = field(default_factory=deque)
    reader: Worker[None] | None = None  # of the steps of an old answer
    _read: list[Exchange] = field(default_factory=list)
    _missing: set[str] = field(default_factory=set)  # ids of those whose steps are not on record

    @property
    def has_steps(self) -> bool:
        return self.cursor.step is not None or any(
            exchange.answer.statistics for exchange in self.session.history.branch
        )

    def title(self, *, paused: bool) -> str:
        return READING if self.reader is not None else self.cursor.title(paused=paused)

    def show_last(self) -> None:
        """Go to the last answer, live; the steps of an old one are read first."""
        if self.reader is not None:
            self.reader.cancel()
            self.reader = None
        self._keys.clear()
        self._missing.clear()
        last = self.session.last
        self._free_all_but(last)
        self.cursor = StepCursor(self.session.answer)
        if last is not None:
            self._reads(last)

    def go(self, where: str) -> None:
        """Walk back, forward, first or live through the steps of all answers on the branch.

        From the end of an answer it goes on in the next one. Live waits for no steps to be read.
        """
        if where == "live":
            self.show_last()
            return
        if not self._keys and self.reader is None:
            self._missing.clear()  # the disk may be back
        self._keys.append(where)
        self._go_on()

    def go_to_best(self) -> None:
        """Go to the step of the answer on show that gave the most tokens."""
        summary = summary_of(self.cursor.answer)
        if summary is not None:
            self.cursor.at = summary.best
        else:
            self.prompt.hint(READING if self.reader is not None else NO_BEST)

    def highlight(self) -> None:
        for entry in self.pages.answers.values():
            here = entry.answer is self.cursor.answer
            entry.walked_step = self.cursor.highlighted if here else None

    def _go_on(self) -> None:
        while self._keys and self.reader is None:
            self._go(self._keys.popleft())

    def _go(self, where: str) -> None:
        branch = self.session.history.branch
        at = next((i for i, e in enumerate(branch) if e.answer is self.cursor.answer), None)
        if at is None:
            return
        if self._reads(branch[at]):
            self._keys.appendleft(where)
            return
        steps = len(branch[at].answer.steps)
        here = self.cursor.reached
        if where in ("back", "first") and here <= 0:
            self._go_to_answer(branch, at - 1, where)
        elif where == "forward" and at < len(branch) - 1 and here >= steps - 1:
            self._go_to_answer(branch, at + 1, where)
        else:
            self.cursor.go(where)

    def _go_to_answer(self, branch: Sequence[Exchange], at: int, where: str) -> None:
        """Go to the last step of another answer if `where` is back, else to its first."""
        if at < 0:
            self.prompt.hint("that is the first step of the chat")
            return
        exchange = branch[at]
        steps = exchange.answer.steps
        if self._reads(exchange):
            self._keys.appendleft(where)
        elif not steps:
            self.prompt.hint(NOT_RECORDED.format(at + 1, len(branch)))
        else:
            self._free_all_but(exchange)
            place = f", answer {at + 1} of {len(branch)}" if at < len(branch) - 1 else ""
            step = len(steps) - 1 if where == "back" else 0
            self.cursor = StepCursor(exchange.answer, step, place)

    def _free_all_but(self, exchange: Exchange | None) -> None:
        """Free the steps that were read, except of one answer and of the last one."""
        dropped: list[Step] = []
        for each in self._read:
            if each is not exchange and each is not self.session.last:
                dropped += each.answer.steps
                each.answer.forget_steps()
        self._read = [each for each in self._read if each.answer.steps]
        if dropped:
            self.prompt.run_worker(partial(_free, dropped), thread=True)

    # Steps that are only in the record

    def _reads(self, exchange: Exchange) -> bool:
        """Begin to read the steps of an answer if only the record has them; whether it may."""
        answer = exchange.answer
        if not answer.done or answer.steps or exchange.id in self._missing:
            return False
        self.reader = self.prompt.run_worker(partial(self._read_steps, exchange))
        return True

    async def _read_steps(self, exchange: Exchange) -> None:
        reader: Worker[None] = get_current_worker()
        steps = await asyncio.to_thread(self._recorded, exchange.id, reader)
        self.reader = None
        if steps:
            exchange.answer.recall(steps)
            self._read.append(exchange)
        else:
            self._missing.add(exchange.id)
        self._go_on()
        self.moved()

    def _recorded(self, exchange: str, reader: Worker[None]) -> list[tuple[Step, Statistics]]:
        """All steps, each with the statistics after it; none if they are not on record."""
        steps, statistics = list[tuple[Step, Statistics]](), Statistics()
        try:
            for step in self.recorder.steps(exchange):
                if reader.is_cancelled:
                    return []
                statistics = statistics.plus(step)
                steps.append((step, statistics))
        except StoreError:  # another version of the program wrote them
            return []
        return steps


def _free(steps: list[Step]) -> None:
    """One by one: freed at once they would block every thread until the last node is gone."""
    while steps:
        steps.pop()
