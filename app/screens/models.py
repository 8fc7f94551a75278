"""The list of models to switch to. It is read in a thread, row by row."""

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

from textual import on, work
from textual.content import Content
from textual.widgets import Input, OptionList
from typing_extensions import override

from sequoia_core.errors import counted
from sequoia_core.model.loading.memory_plan import size_text

from ..config.actions import bindings
from ..config.model_list import ModelKind, ModelRow, chosen
from ..config.settings import Settings
from ..state.sanitize import one_line
from ..ui.base_app import errors_shown
from .dialog import FilterDialog

_TITLES = {ModelKind.TARGET: "Models for this chat", ModelKind.DRAFT: "Drafts for this target"}
_SHOWN_EVERY = 0.2  # seconds, while rows are read
_WIDE_CELLS = 84
_STATE_CELLS, _SIZE_CELLS = 10, 11


class ChosenModels(NamedTuple):
    settings: Settings
    keep: bool  # from the next start too


class ModelsScreen(FilterDialog[ChosenModels | None, ModelRow | None]):
    """A list over the chat; ends with the choice, or None. What is typed filters it."""

    BINDINGS = bindings("models")
    KEYS = " enter use  models.keep use, from the next start too  models.close close"

    def __init__(
        self, kind: ModelKind, settings: Settings, rows: Callable[[], Iterator[ModelRow]]
    ) -> None:
        super().__init__(_TITLES[kind], placeholder="part of a name, or a hub id, folder or file")
        self._kind, self._settings, self._rows = kind, settings, rows
        self._found: list[ModelRow] = []
        self._reading = True
        self._moved = False  # until then, the one in use is chosen

    def on_mount(self) -> None:
        self._read()

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    @work(exclusive=True)
    async def _read(self) -> None:
        self._say("looking for models")
        rows = self._rows()
        with errors_shown(self._say):
            while more := await asyncio.to_thread(_some, rows):
                self._found += more
                self._show()
            self._say(counted(len(self._found), "model"))
        self._reading = False
        self._show()

    # Rows

    @on(Input.Changed)
    def _show(self) -> None:
        before, rows = self._chosen, list(self._wanted_rows())
        at = [at for at, (each, _) in enumerate(rows) if each is not None]
        same = [each for each in at if rows[each][0] == before]
        used = [each for each in at if (row := rows[each][0]) is not None and row.in_use]
        nothing = (None, Content(self._nothing))
        first = [*same, *used] if self._moved else [*used, *same]
        self._fill(rows or [nothing], next(iter([*first, *at]), None))
        self._describe()

    @property
    def _nothing(self) -> str:
        if self._reading:
            return "  looking for models"
        return "  no model is called so: enter takes what is typed as a hub id, folder or file"

    def _wanted_rows(self) -> Iterator[tuple[ModelRow | None, Content]]:
        wanted = self._input.value.casefold().split()
        found = [each for each in self._found if _matches(each, wanted)]
        for place, group in groupby(found, key=lambda each: each.place):
            yield None, self._line(Content(one_line(place)), "size", "memory", "")
            for each in sorted(group, key=lambda each: bool(each.problem)):
                yield each, self._row(each)

    def _row(self, row: ModelRow) -> Content:
        style = "$unreached" if row.problem else "bold" if row.in_use else ""
        name = Content.styled(f"  {one_line(row.name)}", style)
        size, needed = (size_text(each) if each else "-" for each in (row.size, row.needed))
        broken = row.problem if not row.needed else ""
        detail = Content.styled(f"  {one_line(broken or row.detail)}", "$notice")
        return self._line(name + detail, size, needed, _state(row))

    def _line(self, left: Content, size: str, needed: str, state: str) -> Content:
        right = f"{needed:>{_SIZE_CELLS}}  {state:<{_STATE_CELLS}}"
        if self._room >= _WIDE_CELLS:
            right = f"{size:>{_SIZE_CELLS}}{right}"
        room = max(8, self._room - len(right) - 1)
        return Content.assemble(
            left.truncate(room, ellipsis=True, pad=True), " ", (right, "$notice")
        )

    @on(OptionList.OptionHighlighted)
    def _describe(self) -> None:
        row = self._chosen
        self._help.show("" if row is None else f" {one_line(_description(row))}")

    # Choosing

    @on(Input.Submitted)
    @on(OptionList.OptionSelected)
    def _take(self) -> None:
        self._choose(keep=False)

    def action_keep(self) -> None:
        self._choose(keep=True)

    def _choose(self, *, keep: bool) -> None:
        row, typed = self._chosen, self._input.value.strip()
        if row is not None and row.problem:
            self._say(row.problem)
        elif row is not None:
            self.dismiss(ChosenModels(row.settings, keep))
        elif typed:
            with errors_shown(self._say):
                self.dismiss(ChosenModels(chosen(self._kind, self._settings, typed), keep))

    @override
    def action_move(self, how: str) -> None:
        self._moved = True
        super().action_move(how)


def _some(rows: Iterator[ModelRow]) -> Sequence[ModelRow]:
    """The next rows: those that are read within a moment, at least one; none at the end."""
    until, found = time.monotonic() + _SHOWN_EVERY, []
    for row in rows:
        found.append(row)
        if time.monotonic() > until:
            break
    return found


def _matches(row: ModelRow, words: Iterable[str]) -> bool:
    text = f"{row.place} {row.name} {row.detail}".casefold()
    return all(word in text for word in words)


def _state(row: ModelRow) -> str:
    if row.in_use:
        return "in use"
    if row.problem:
        return "too large" if row.needed else "unusable"
    return "" if row.here else "download"


def _description(row: ModelRow) -> str:
    if row.problem:
        return row.problem
    parts = [f"needs at least {size_text(row.needed)} of memory"] if row.needed else []
    if not row.here:
        parts.append(f"{size_text(row.size)} are downloaded first" if row.size else "is downloaded")
    return "; ".join([*parts, row.detail])
