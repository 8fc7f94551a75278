"""A chat as a tree of exchanges: another answer to a prompt, or to an edited one, is a sibling."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from uuid import uuid4

from sequoia_core.text.chat_template import Turn

from .answer import Answer


@dataclass(slots=True)
class Exchange:
    """One prompt and its one answer, which may be growing."""

    id: str  # unique, also in the record
    parent: str | None  # id of the exchange before it
    prompt: str
    answer: Answer
    started: float  # seconds since the epoch


class History:
    """The exchanges of a chat, by id in the order they were begun."""

    def __init__(self) -> None:
        self.exchanges: dict[str, Exchange] = {}
        self._children: dict[str | None, list[Exchange]] = {None: []}
        self._selected: dict[str | None, Exchange] = {}  # child on the branch, by parent
        self._branch: tuple[Exchange, ...] | None = None

    @property
    def branch(self) -> Sequence[Exchange]:
        """From the start to the selected leaf: what the transcript shows."""
        if self._branch is None:
            branch: list[Exchange] = []
            at = self._selected.get(None)
            while at is not None:
                branch.append(at)
                at = self._selected.get(at.id)
            self._branch = tuple(branch)
        return self._branch

    def begin(
        self, prompt: str, answer: Answer, started: float, path: Sequence[Exchange] | None = None
    ) -> Exchange:
        """Add an exchange after a path, the branch by default; it becomes the end of the branch."""
        path = self.branch if path is None else path
        parent = path[-1].id if path else None
        exchange = Exchange(uuid4().hex, parent, prompt, answer, started)
        self.add(exchange)
        self.select(exchange)
        return exchange

    def add(self, exchange: Exchange) -> None:
        """Add an exchange as the last of its siblings, without selecting it."""
        self.exchanges[exchange.id] = exchange
        self._children[exchange.id] = []
        self._children[exchange.parent].append(exchange)
        self._selected.setdefault(exchange.parent, exchange)
        self._branch = None

    def copy(self) -> "History":
        """The same exchanges, for another thread: none is added to it."""
        copied = History()
        copied.exchanges, copied._selected = dict(self.exchanges), dict(self._selected)
        copied._children = {parent: [*children] for parent, children in self._children.items()}
        return copied

    def siblings(self, exchange: Exchange) -> Sequence[Exchange]:
        """All exchanges with the same parent, itself among them, the oldest first."""
        return tuple(self._children[exchange.parent])

    def select(self, exchange: Exchange) -> None:
        """Let the branch run through an exchange, down to the leaf last visited below it."""
        for each in (*self.before(exchange), exchange):
            self._selected[each.parent] = each
        self._branch = None

    def before(self, exchange: Exchange) -> Sequence[Exchange]:
        """The path to an exchange, from the start, without itself."""
        path: list[Exchange] = []
        parent = exchange.parent
        while parent is not None:
            path.append(self.exchanges[parent])
            parent = path[-1].parent
        return tuple(reversed(path))


def turns(exchanges: Iterable[Exchange]) -> tuple[Turn, ...]:
    """What the engine remembers of exchanges: those that were answered, at least in part."""
    return tuple(
        Turn(each.prompt, each.answer.verbatim, each.answer.known_ids)
        for each in exchanges
        if each.answer.verbatim or each.answer.token_ids
    )
