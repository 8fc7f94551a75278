"""Pictures come in parts, and a key goes first."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from textual._compositor import ChopsUpdate
from textual.screen import Screen

from app.screens.chat.redraw import Redraw
from tests.app.driving import Driver, driving
from tests.fakes import replay


class Canvas:
    """A screen that is painted as soon as it is asked; or never."""

    def __init__(self, typed: list[bool], *, paints: bool = True) -> None:
        self._paints = paints
        keys = SimpleNamespace(input_within=lambda _seconds: bool(typed and typed.pop()))
        self.app = SimpleNamespace(collections=keys)

    def call_after_refresh(self, callback: Callable[[], object]) -> None:
        if self._paints:
            callback()


class Sketch(Redraw):
    """Notes the parts that are drawn."""

    def __init__(self, canvas: Canvas, *, running: bool = False) -> None:
        state: Any = SimpleNamespace(decoding=running, paused=False)
        screen: Any = canvas
        super().__init__(screen, state, state, state)
        self.drawn: list[str] = []

    def text(self) -> None:
        self.drawn.append("text")

    def tree(self) -> None:
        self.drawn.append("tree")

    def figures(self) -> None:
        self.drawn.append("figures")


async def test_each_part_is_painted_before_the_next() -> None:
    drawing = Sketch(Canvas([]))
    drawing.changed()
    seen: list[int] = []

    async def watch() -> None:
        while not drawing.done:
            seen.append(len(drawing.drawn))
            await asyncio.sleep(0)

    await asyncio.gather(drawing.go_on(), watch())
    assert drawing.drawn == ["text", "tree", "figures"]
    assert {1, 2, 3} <= {*seen}


async def test_a_key_is_shown_before_the_next_part() -> None:
    drawing = Sketch(Canvas([True]))
    drawing.changed()
    task = asyncio.create_task(drawing.go_on())
    await asyncio.sleep(0)
    assert drawing.drawn == []
    await task
    assert len(drawing.drawn) == 3


async def test_what_happens_is_taken_in_while_a_picture_is_drawn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.screens.chat.redraw.KEY_SECONDS", 1.0)
    async with driving(replay()) as chat:
        await chat.type("Why is the sky blue?", "enter")
        await chat.until(lambda: chat.session.answer is not None and not chat.session.busy)
        assert not chat.app.chat.redraw.done


async def test_it_ends_when_it_is_cancelled_just_as_a_part_is_painted() -> None:
    painted: list[Callable[[], object]] = []

    class Slow(Canvas):
        def call_after_refresh(self, callback: Callable[[], object]) -> None:
            painted.append(callback)

    drawing = Sketch(Slow([]))
    drawing.changed()
    task = asyncio.create_task(drawing.go_on())
    while not painted:
        await asyncio.sleep(0)
    painted[0]()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert drawing.drawn == ["text"]


async def test_nothing_new_draws_nothing() -> None:
    drawing = Sketch(Canvas([]))
    await drawing.go_on()
    assert drawing.drawn == []
    assert drawing.done


async def test_while_running_the_pace_decides_but_for_what_is_urgent() -> None:
    drawing = Sketch(Canvas([]), running=True)
    drawing.changed()
    await drawing.go_on()  # the first picture is always due
    sum(range(300_000))  # what was spent has to be earned by waiting
    drawing.changed()
    await drawing.go_on()
    assert len(drawing.drawn) == 3
    assert not drawing.done
    drawing.changed(urgent=True)
    await drawing.go_on()
    assert len(drawing.drawn) == 6
    assert drawing.done


async def test_a_screen_that_is_not_painted_does_not_stop_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("app.screens.chat.redraw.PAINTING_SECONDS", 0.01)
    drawing = Sketch(Canvas([], paints=False))
    drawing.changed()
    await drawing.go_on()
    assert len(drawing.drawn) == 3


def watch_painting(chat: Driver, monkeypatch: pytest.MonkeyPatch) -> list[object]:
    """Whether each update that is painted from now on shows lines of the prompt, and others."""
    painted: list[object] = []
    lines = chat.app.chat.prompt.region.line_range

    def display(screen: Screen[object], update: object) -> None:
        if isinstance(update, ChopsUpdate):
            painted.append({y in lines for y, _, _ in update.spans})

    monkeypatch.setattr(chat.app, "_display", display)
    return painted


async def test_what_is_typed_is_painted_before_all_else_that_changed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with driving(replay()) as chat:
        await chat.ask()
        screen, happened = chat.app.chat, watch_painting(chat, monkeypatch)
        screen.transcript.refresh()
        screen.prompt.refresh()
        screen.call_after_refresh(lambda: happened.append("all painted"))
        await chat.until(lambda: "all painted" in happened)
        assert happened == [{True}, {False}, "all painted"]


async def test_however_fast_somebody_types_the_rest_is_painted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with driving(replay()) as chat:
        await chat.ask()
        screen, happened = chat.app.chat, watch_painting(chat, monkeypatch)
        screen.transcript.refresh()
        while len(happened) < 2:
            screen.prompt.refresh()
            await asyncio.sleep(0)
        assert happened == [{True}, {True, False}]
