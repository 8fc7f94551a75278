"""The state of one chat, without widgets and threads."""

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from sequoia_core.chat.race import PLAIN_AND_CHOSEN, RaceSide
from sequoia_core.errors import SequoiaError, counted
from sequoia_core.events import MemoryUse, PairDescription, TreeChosen
from sequoia_core.text.chat_template import Turn

from ..config.settings import Settings
from .answer import Answer
from .history import Exchange, History, turns
from .race_state import RaceState
from .slash_commands import is_command, parse_race

# Ids of actions in messages are shown as their keys.
STILL_ANSWERING = "Press chat.stop to stop the answer first"
UNNAMED = "Answer"  # the name of an answer whose model is not known yet
NO_SIBLING = "no other branch yet: chat.again regenerates, chat.edit edits a message"
NEARLY_FULL = 0.9  # of what a prompt may take of the context window
_WHAT_HELPS = (  # after what happens, which small terminals have room for
    "/clear begins a new chat; "
    "short messages, a smaller max_new_tokens or a larger window keep more"
)
_CHARACTERS_PER_TOKEN = 4  # about: the tokens of what is typed are not known before it is sent
NOTHING_TO_RACE = "nothing to race yet: type a prompt, then chat.race, or /race PROMPT"


class ChatError(SequoiaError):
    """Something cannot be done in the chat now."""


@dataclass(frozen=True, slots=True)
class RaceQuestion:
    turns: tuple[Turn, ...]  # before the prompt
    prompt: str
    exchange: str | None  # id of the exchange that asked it, or None for a new prompt
    sides: tuple[RaceSide, RaceSide] = PLAIN_AND_CHOSEN


@dataclass(slots=True)
class MessageEdit:
    """The editing of one message or answer of a branch; it starts with the last one."""

    branch: Sequence[Exchange]  # to choose from, at least one
    draft: str  # the text of the prompt before the editing
    at: int = -1  # index of the edited one
    of_answers: bool = False  # not of messages
    _texts: dict[tuple[bool, str], str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.at %= len(self.branch)

    @property
    def exchange(self) -> Exchange:
        return self.branch[self.at]

    @property
    def original(self) -> str:
        return self.exchange.answer.text if self.of_answers else self.exchange.prompt

    @property
    def texts(self) -> Collection[str]:
        """What comes back into the prompt later."""
        return self.draft, *self._texts.values()

    @property
    def literal(self) -> bool:
        """Whether the text is no command, whatever it begins with."""
        return self.of_answers or is_command(self.original)

    @property
    def text(self) -> str:
        """The text for the prompt: what was typed for this message last, or the message."""
        return self._texts.get(self._key, self.original)

    @property
    def _key(self) -> tuple[bool, str]:
        return self.of_answers, self.exchange.id

    def keep(self, typed: str) -> None:
        """Keep what is typed in the prompt for the message that is edited."""
        self._texts.pop(self._key, None)
        if typed != self.original:
            self._texts[self._key] = typed

    def move(self, by: int, typed: str) -> bool:
        """Choose the message before (-1) or after (1); whether there is one.

        What is `typed` in the prompt is kept for the message edited so far.
        """
        self.keep(typed)
        if not 0 <= self.at + by < len(self.branch):
            return False
        self.at += by
        return True

    def turn_to(self, branch: Sequence[Exchange], exchange: Exchange, typed: str) -> None:
        """Edit a message of another branch; text that was changed is taken along."""
        changed = typed != self.original
        self.branch, self.at = branch, branch.index(exchange)
        if changed:
            self._texts[self._key] = typed


@dataclass(slots=True)
class ChatSession:
    settings: Settings  # for the next answer
    pair: PairDescription | None = None  # None while the models load
    unready: str = "loading"  # what the header says while there is no pair
    tree: TreeChosen | None = None  # of the next answer; None until the engine reports it
    memory: MemoryUse | None = None  # as the engine reported it last
    race: RaceState | None = None  # that runs or ran last
    history: History = field(default_factory=History)
    edit: MessageEdit | None = None
    captions: dict[str, dict[int, str]] = field(default_factory=dict)
    """A person's own for `/record`: by id of the exchange, then by index of the step."""
    _engine_end: str | None = None  # id of the exchange the engine is at, "" if that is unknown

    @property
    def last(self) -> Exchange | None:
        """The end of the branch on show."""
        return self.history.branch[-1] if self.history.branch else None

    @property
    def answer(self) -> Answer | None:
        """The running answer, or the last one of the branch."""
        return self.last.answer if self.last is not None else None

    def exchange_of(self, answer: Answer | None) -> Exchange | None:
        """The exchange of the branch on show that has this answer."""
        return next((each for each in self.history.branch if each.answer is answer), None)

    @property
    def answer_name(self) -> str:
        return self.pair.target if self.pair else UNNAMED

    @property
    def busy(self) -> bool:
        """Whether an answer is running."""
        return self.answer is not None and not self.answer.done

    @property
    def racing(self) -> bool:
        return self.race is not None and not self.race.ended

    @property
    def decoding(self) -> bool:
        return self.busy or self.racing

    @property
    def context_tokens(self) -> int | None:
        """Tokens of the branch in the context window as measured last; None if nothing was."""
        measured = (each.answer.context_tokens() for each in reversed(self.history.branch))
        return next((tokens for tokens in measured if tokens is not None), None)

    def context_warning(self, typed: int = 0) -> str:
        """One line if the next message does not fit, or leaves out turns, or soon will; else "".

        `typed` are the characters of the next message so far.
        """
        if self.pair is None or self.busy:
            return ""
        window, message = self.pair.context_window, typed / _CHARACTERS_PER_TOKEN
        if message >= window:
            return (
                f"this message alone may be too long to be sent; shorten it: about {message:.0f} "
                f"tokens, and the context window holds {window}"
            )
        tokens = self.context_tokens
        if self.answer is None or tokens is None:
            return ""
        share = (tokens + message) / (window - self.settings.sampling().room(window))
        if self.answer.left_out:
            turns = counted(self.answer.left_out, "oldest turn")
            return f"context full: the model no longer reads the {turns}; {_WHAT_HELPS}"
        if share >= 1.0:
            return f"context full: the next message leaves out the oldest turns; {_WHAT_HELPS}"
        if share >= NEARLY_FULL:
            return f"context nearly full: the oldest turns will be left out soon; {_WHAT_HELPS}"
        return ""

    @property
    def edited(self) -> Exchange | None:
        """The exchange whose message is edited."""
        return self.edit.exchange if self.edit is not None else None

    def check_idle(self) -> None:
        """Raises ChatError while an answer is running."""
        if self.busy:
            raise ChatError(STILL_ANSWERING)

    # Asking

    def path(self, sibling_of: Exchange | None = None) -> Sequence[Exchange]:
        """What a new exchange follows: all before its sibling, or else the branch on show."""
        return self.history.branch if sibling_of is None else self.history.before(sibling_of)

    def begin(self, prompt: str, path: Sequence[Exchange]) -> Exchange:
        """Add an exchange after a path; it becomes the end of the branch.

        Steps of earlier answers are dropped to save memory.
        """
        for earlier in self.history.exchanges.values():
            earlier.answer.forget_steps()
        exchange = self.history.begin(prompt, Answer(prompt), time.time(), path)
        self._engine_end = exchange.id
        return exchange

    def race_question(self, words: str) -> RaceQuestion:
        """What to race. Raises SequoiaError if no race can start now.

        The words are sides and a prompt, as `parse_race` reads them. The prompt follows the branch
        or replaces the edited message; without one, it is the last prompt of the chat.
        """
        if self.pair is None:
            raise ChatError("the models are still loading: race in a moment")
        self.check_idle()
        if self.racing:
            raise ChatError("a race is running already")
        sides, prompt = parse_race(words, self.settings)
        if prompt:
            return RaceQuestion(turns(self.path(self.edited)), prompt, None, sides)
        if self.last is None:
            raise ChatError(NOTHING_TO_RACE)
        return RaceQuestion(turns(self.path(self.last)), self.last.prompt, self.last.id, sides)

    # Branches

    def sibling(self, by: int) -> Exchange:
        """The sibling before (-1) or after (1) the edited exchange, or the last with siblings.

        Raises ChatError if there is none, or an answer is running.
        """
        candidates = reversed(self.history.branch) if self.edited is None else (self.edited,)
        for exchange in candidates:
            siblings = self.history.siblings(exchange)
            if len(siblings) > 1:
                break
        else:
            raise ChatError(NO_SIBLING)
        self.check_idle()
        at = siblings.index(exchange) + by
        if not 0 <= at < len(siblings):
            raise ChatError(f"that is the {'first' if by < 0 else 'last'} of {len(siblings)}")
        return siblings[at]

    def clear(self) -> None:
        """Start a new chat; the engine's conversation is cleared too."""
        self.history, self.edit, self._engine_end = History(), None, None

    def open(self, history: History) -> None:
        """Continue another chat; the engine has to be restored."""
        self.history, self.edit, self._engine_end = history, None, ""

    # The engine's conversation

    def leave_engine(self) -> None:
        """What the engine goes on from is not the end of the branch, which it did not decode."""
        self._engine_end = ""

    def turns_to_restore(self, path: Sequence[Exchange]) -> tuple[Turn, ...] | None:
        """The turns to send to the engine so that it can continue a path; None if it has them."""
        end = path[-1].id if path else None
        if end == self._engine_end:
            return None
        self._engine_end = end
        return turns(path)
