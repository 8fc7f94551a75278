"""A chat as a tree of exchanges, and the branch of it that is on show. Pure.

Owns what follows what and which way was taken last at every fork. Nothing is ever lost from it:
another answer to the same prompt, or to an edited one, is a sibling. Knows nothing of screens, of
the engine, or of how a chat is kept.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import EllipsisType, MappingProxyType
from uuid import uuid4

from sequoia_core.errors import SequoiaError
from sequoia_core.text.chat_template import Turn

from .answer import Answer


class HistoryError(SequoiaError):
    """An exchange does not fit into the chat."""


@dataclass(slots=True)
class Exchange:
    """One prompt and its one answer.

    Attributes:
        id: names it for good, also in the record.
        parent: id of the exchange before it, or None at the start.
        prompt: what was asked.
        answer: may be growing.
        started: seconds since the epoch.
    """

    id: str
    parent: str | None
    prompt: str
    answer: Answer
    started: float


class History:
    """The exchanges of a chat.

    Args:
        exchanges: those of an earlier session, each after its parent and siblings in their order;
            the branch runs through the newest.

    Raises:
        HistoryError: as `add`.
    """

    def __init__(self, exchanges: Iterable[Exchange] = ()) -> None:
        self._exchanges: dict[str, Exchange] = {}
        self._children: dict[str | None, list[Exchange]] = {None: []}
        self._taken: dict[str | None, Exchange] = {}
        self._branch: tuple[Exchange, ...] | None = None
        for exchange in exchanges:
            self.add(exchange)
            self.select(exchange)

    @property
    def exchanges(self) -> Mapping[str, Exchange]:
        """All of them by id, in the order they were begun."""
        return MappingProxyType(self._exchanges)

    @property
    def branch(self) -> Sequence[Exchange]:
        """From the start to the selected leaf: what the transcript shows."""
        if self._branch is None:
            branch: list[Exchange] = []
            at = self._taken.get(None)
            while at is not None:
                branch.append(at)
                at = self._taken.get(at.id)
            self._branch = tuple(branch)
        return self._branch

    def begin(
        self,
        prompt: str,
        answer: Answer,
        started: float,
        *,
        parent: str | EllipsisType | None = ...,
    ) -> Exchange:
        """Add an exchange, which becomes the end of the branch.

        Args:
            prompt: what is asked.
            answer: will grow.
            started: seconds since the epoch.
            parent: id of the exchange it follows, None for the start; left out, the end of the
                branch.

        Raises:
            HistoryError: there is no such parent.
        """
        if isinstance(parent, EllipsisType):
            parent = self.branch[-1].id if self.branch else None
        exchange = Exchange(uuid4().hex, parent, prompt, answer, started)
        self.add(exchange)
        self.select(exchange)
        return exchange

    def add(self, exchange: Exchange) -> None:
        """Take in an exchange from elsewhere as the last of its siblings; selects nothing.

        Raises:
            HistoryError: its parent is not here, or an exchange of its id is.
        """
        if exchange.id in self._exchanges:
            raise HistoryError(f"exchange {exchange.id} is in this chat already")
        if exchange.parent not in self._children:
            raise HistoryError(
                f"exchange {exchange.id} follows {exchange.parent}, which is not in this chat"
            )
        self._exchanges[exchange.id] = exchange
        self._children[exchange.id] = []
        self._children[exchange.parent].append(exchange)
        self._taken.setdefault(exchange.parent, exchange)
        self._branch = None

    def siblings(self, exchange: Exchange) -> Sequence[Exchange]:
        """All exchanges with the same parent, itself among them, the oldest first."""
        return tuple(self._children[exchange.parent])

    def select(self, exchange: Exchange) -> None:
        """Let the branch run through an exchange, down to the leaf last visited below it."""
        at: Exchange | None = exchange
        while at is not None:
            self._taken[at.parent] = at
            at = self._exchanges[at.parent] if at.parent is not None else None
        self._branch = None

    def before(self, exchange: Exchange) -> Sequence[Exchange]:
        """What leads to an exchange, from the start, itself not among it."""
        path: list[Exchange] = []
        at = exchange.parent
        while at is not None:
            path.append(self._exchanges[at])
            at = self._exchanges[at].parent
        return tuple(reversed(path))


def turns(exchanges: Iterable[Exchange]) -> tuple[Turn, ...]:
    """What the engine remembers of exchanges: those that were answered, at least in part."""
    return tuple(
        Turn(each.prompt, each.answer.verbatim, tuple(each.answer.token_ids))
        for each in exchanges
        if each.answer.verbatim or each.answer.token_ids
    )
