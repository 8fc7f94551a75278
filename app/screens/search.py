"""Full text search over all sessions while a person types. It runs in a thread."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from textual import events, on, work
from textual.binding import BindingType
from textual.content import Content
from textual.message import Message
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from sequoia_core.errors import counted

from ..config.actions import bindings
from ..present.words import when
from ..state.sanitize import fit, visible
from ..store.archive import SearchHit
from ..store.database import StoreError
from ..store.recorder import DatabaseRecorder
from ..store.text_search import Excerpt, Term, excerpt, terms
from ..widgets.line import Line
from .dialog import Dialog, highlighted

MOST = 200
"""Hits that are shown."""

_PATIENCE_SECONDS = 0.12
_KEYS = "up down choose   enter open   search.close close"
_HIT = "bold underline $bonus"
_EXCERPT_MARGIN = 17
"""Cells around an excerpt: who wrote it, and the dots where it is cut."""


@dataclass(frozen=True, slots=True)
class Place:
    """A place to open.

    Attributes:
        session: id of the session.
        exchange: id of one of its exchanges, or None for where it was left.
        wanted: what to find in the exchange.
    """

    session: str
    exchange: str | None = None
    wanted: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True)
class _Hit:
    """An exchange, and where the words are in it."""

    found: SearchHit
    prompt: Excerpt | None
    answer: Excerpt | None


class SearchScreen(Dialog[Place | None]):
    """A search over the chat; ends with the place to open, or None.

    Args:
        record: the record of the chats.
        words: what to search for at first.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("search")
    DEFAULT_CSS = """
    SearchScreen {
        & > Vertical { width: 120; height: 94%; }
        & Input { margin: 0 0 1 0; }
        & OptionList { height: 1fr; }
        & Line { dock: bottom; }
    }
    """

    def __init__(self, record: DatabaseRecorder, words: str = "") -> None:
        self._input = Input(
            words,
            placeholder='words or their beginnings; "in quotes" together',
            select_on_focus=False,
        )
        self._list = OptionList(markup=False)
        self._list.can_focus = False
        self._keys = Line()
        super().__init__("Search all sessions", self._input, self._list, self._keys)
        self._record = record
        self._hits: list[_Hit] = []
        self._wanted: tuple[Term, ...] = ()

    def on_mount(self) -> None:
        """Search at once if there are words."""
        self._keys.show(self.app.keys.shown(_KEYS))
        self._input.focus()
        self._input.cursor_position = len(self._input.value)

    def on_resize(self) -> None:
        """Cut the excerpts to the width."""
        self.call_after_refresh(lambda: self._search(self._input.value))

    def on_key(self, event: events.Key) -> None:
        """Take what is typed before the input has the focus."""
        if event.is_printable and event.character:
            event.stop()
            self._input.value += event.character
            self._input.cursor_position = len(self._input.value)

    @on(Input.Changed)
    def _changed(self, message: Input.Changed) -> None:
        self._search(message.value)

    @work(exclusive=True)
    async def _search(self, words: str) -> None:
        await asyncio.sleep(_PATIENCE_SECONDS)  # a word that is still being typed
        wanted, room = terms(words), self._room
        try:
            hits = await asyncio.to_thread(self._look_for, wanted, room)
        except StoreError as error:
            self._hits = []
            self._say(str(error))
        else:
            self._hits, self._wanted = hits[:MOST], wanted
            self._say(self._count(len(hits)) if wanted else "")
        self._show(room)

    def _look_for(self, wanted: tuple[Term, ...], room: int) -> list[_Hit]:
        length = room - _EXCERPT_MARGIN
        return [
            _Hit(
                found,
                excerpt(found.prompt, wanted, length),
                excerpt(found.answer, wanted, length),
            )
            for found in self._record.archive.search(wanted, MOST + 1)
        ]

    @property
    def _room(self) -> int:
        return max(20, self._list.scrollable_content_region.width)

    @staticmethod
    def _count(count: int) -> str:
        if count > MOST:
            return f"the newest {MOST} hits"
        return counted(count, "hit") if count else "no hit"

    def _show(self, room: int) -> None:
        self._list.clear_options()
        self._list.add_options(Option(self._entry(hit, room)) for hit in self._hits)
        if self._hits:
            self._list.highlighted = 0

    def _entry(self, hit: _Hit, room: int) -> Content:
        date = f"  {when(hit.found.started, time.time())} "
        title = fit(f" {visible(hit.found.label)}", max(8, room - len(date)))
        lines = [Content.assemble((title, "bold"), (date, "$notice"))]
        for name, part in (("you", hit.prompt), ("answer", hit.answer)):
            if part is not None:
                pieces = [(piece, _HIT if hit else "") for piece, hit in part]
                lines.append(Content.assemble((f"   {name:<7} ", "$notice"), *pieces))
        return Content("\n").join(lines)

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _open(self, message: Message) -> None:
        message.stop()
        hit = highlighted(self._list, self._hits)
        if hit is not None:
            self.dismiss(Place(hit.found.session, hit.found.exchange, self._wanted))

    def action_move(self, how: str) -> None:
        """Move among the hits; the input keeps the focus."""
        moves: dict[str, Callable[[], object]] = {
            "down": self._list.action_cursor_down,
            "up": self._list.action_cursor_up,
            "page_down": self._list.action_page_down,
            "page_up": self._list.action_page_up,
        }
        moves[how]()

    def action_leave(self) -> None:
        """Close."""
        self.dismiss(None)
