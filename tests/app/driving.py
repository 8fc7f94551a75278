"""Drives the app in tests: waits for what should happen, never for a length of time."""

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from textual.pilot import Pilot

from app.app import SequoiaApp, Settings
from app.state.chat_session import ChatSession
from app.store.recorder import Recorder
from app.widgets.entries import AnswerEntry
from app.widgets.prompt import Prompt
from app.widgets.transcript import Transcript
from app.widgets.tree_view import TreeView
from sequoia_core.chat.interface import ChatEngine
from tests.fakes import replay

PATIENCE_SECONDS = 20.0  # generous: only a test that fails waits so long


@dataclass
class Driver:
    """A running app, and short names for its parts."""

    app: SequoiaApp
    pilot: Pilot[None]

    @property
    def session(self) -> ChatSession:
        return self.app.chat.session

    @property
    def prompt(self) -> Prompt:
        return self.app.chat.query_one(Prompt)

    @property
    def tree(self) -> TreeView:
        return self.app.chat.query_one(TreeView)

    @property
    def hint(self) -> str:
        return self.prompt.border_subtitle or ""

    @property
    def steps(self) -> int:
        answer = self.session.answer
        return len(answer.steps) if answer else 0

    @property
    def transcript(self) -> str:
        """The whole chat as it is shown."""
        return "\n".join(self.app.chat.query_one(Transcript).text())

    @property
    def entry(self) -> AnswerEntry:
        last = self.app.chat.session.last
        assert last is not None
        return self.app.chat.pages.answers[last.id]

    def screen_text(self) -> str:
        """What the terminal shows."""
        strips = self.app.screen._compositor.render_strips()
        return "\n".join(strip.text for strip in strips)

    async def until(self, done: Callable[[], bool]) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < deadline:
            if done():
                await self.pilot.pause()
                return
            await self.pilot.pause(0.01)
        raise AssertionError(f"never happened; the screen:\n{self.screen_text()}")

    async def ready(self) -> None:
        """Wait until the models are there and the header says so, which is a moment later."""
        await self.until(lambda: self.session.pair is not None and self.app.chat.redraw.done)
        await self.until(lambda: "loading" not in self.screen_text().partition("\n")[0])

    async def type(self, text: str, *keys: str) -> None:
        self.prompt.insert(text)
        await self.pilot.press(*keys)

    async def finish(self) -> None:
        await self.until(lambda: self.session.answer is not None and not self.session.busy)
        await self.until(lambda: self.app.chat.redraw.done)

    async def ask(self, text: str = "Why is the sky blue?") -> None:
        await self.type(text, "enter")
        await self.finish()

    async def walk(self, *keys: str) -> None:
        """Press keys, and wait until the steps they lead to are there."""
        await self.pilot.press(*keys)
        await self.until(lambda: self.app.chat.inspector.reader is None)

    async def pause_at(self, steps: int) -> None:
        """Ask while paused, and run so many steps."""
        await self.pilot.press("f2")
        await self.type("Why is the sky blue?", "enter")
        for count in range(1, steps + 1):
            await self.until(lambda count=count: self.steps == count)  # type: ignore[misc]
            if count < steps:
                await self.pilot.press("space")
        await self.until(lambda: self.app.chat.redraw.done)


@asynccontextmanager
async def driving(
    engine: ChatEngine | None = None,
    settings: Settings | None = None,
    size: tuple[int, int] = (120, 44),
    recorder: Recorder | None = None,
) -> AsyncIterator[Driver]:
    """The app with an engine that is ready."""
    app = SequoiaApp(lambda progress: engine or replay(), settings or Settings(), recorder)
    async with app.run_test(size=size) as pilot:
        driver = Driver(app, pilot)
        await driver.ready()
        yield driver
