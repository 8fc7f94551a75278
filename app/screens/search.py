"""Full text search over all sessions while a person types. It runs in a thread."""

import asyncio
import time
from typing import NamedTuple

from textual import events, on, work
from textual.content import Content
from textual.widgets import Input, OptionList

from sequoia_core.errors import counted

from ..config.actions import bindings
from ..present.words import when
from ..state.sanitize import fit, visible
from ..store.archive import SearchHit
from ..store.recorder import DatabaseRecorder
from ..store.text_search import Term, excerpt, terms
from ..ui.base_app import errors_shown
from .dialog import Dialog

MOST = 200  # hits that are shown
_PATIENCE_SECONDS = 0.12
_HIT = "bold underline $bonus"
_EXCERPT_MARGIN = 17  # cells around an excerpt: who wrote it, and the dots where it is cut


class Place(NamedTuple):
    """A place to open: a session, at one of its exchanges or else where it was left."""

    session: str
    exchange: str | None = None
    wanted: tuple[Term, ...] = ()  # what to find in the exchange


class SearchScreen(Dialog[Place | None, SearchHit]):
    """A search over the chat; ends with the place to open, or None."""

    BINDINGS = bindings("search")
    KEYS = "up down choose   enter open   search.close close"

    def __init__(self, record: DatabaseRecorder, words: str = "") -> None:
        super().__init__(
            "Search all sessions", placeholder='words or their beginnings; "in quotes" together'
        )
        self._record = record
        self._input.value = words
        self._list.can_focus = False
        self._wanted: tuple[Term, ...] = ()

    def on_mount(self) -> None:
        self._input.focus()

    def on_resize(self) -> None:
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
        wanted = terms(words)
        rows: list[tuple[SearchHit, Content]] = []
        with errors_shown(self._say):
            rows = await asyncio.to_thread(self._rows, wanted, self._room)
            self._say(_count(len(rows)) if wanted else "")
        self._wanted = wanted
        self._fill(rows[:MOST])

    def _rows(self, wanted: tuple[Term, ...], room: int) -> list[tuple[SearchHit, Content]]:
        return [
            (hit, _row(hit, wanted, room)) for hit in self._record.archive.search(wanted, MOST + 1)
        ]

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _open(self) -> None:
        hit = self._chosen
        if hit is not None:
            self.dismiss(Place(hit.session, hit.exchange, self._wanted))

    def action_move(self, how: str) -> None:
        """Move among the hits; the input keeps the focus."""
        getattr(self._list, f"action_{how}")()


def _count(hits: int) -> str:
    if hits > MOST:
        return f"the newest {MOST} hits"
    return counted(hits, "hit") if hits else "no hit"


def _row(hit: SearchHit, wanted: tuple[Term, ...], room: int) -> Content:
    date = f"  {when(hit.started, time.time())} "
    title = fit(f" {visible(hit.label)}", max(8, room - len(date)))
    lines = [Content.assemble((title, "bold"), (date, "$notice"))]
    for name, text in (("you", hit.prompt), ("answer", hit.answer)):
        part = excerpt(text, wanted, max(3, room - _EXCERPT_MARGIN))
        if part is not None:
            pieces = [(piece, _HIT if found else "") for piece, found in part]
            lines.append(Content.assemble((f"   {name:<7} ", "$notice"), *pieces))
    return Content("\n").join(lines)
