"""Pictures of the chat that a person has looked at; `picturing` takes them."""

from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from app.app import SequoiaApp, Settings
from app.config.themes import ThemeFolders, packaged_folder
from tests.app.driving import Driver
from tests.app.insights import MemoryRecord, explained_answer
from tests.app.picturing import Stage
from tests.fakes import BrokenEngine, make_answer, replay

SHORT = "At dusk the blue has been scattered away; what is left is red."


async def test_loading(stage: Stage) -> None:
    app = SequoiaApp(stage.load, Settings())
    async with stage.shown(app) as pilot:
        chat = Driver(app, pilot)
        await chat.until(lambda: "loading the target 42%" in chat.hint)


async def test_welcome(stage: Stage) -> None:
    async with stage.chat():
        pass


async def decode(chat: Driver, steps: int = 17) -> None:
    """Ask an engine that stands still after so many steps."""
    await chat.type("Why is the sky blue?", "enter")
    await chat.until(lambda: chat.steps == steps and chat.app.chat.redraw.done)


async def test_decoding(stage: Stage) -> None:
    async with stage.chat(replay(before=stage.hold(17))) as chat:
        await decode(chat)


async def test_paused(stage: Stage) -> None:
    async with stage.chat(replay(before=stage.hold(17))) as chat:
        await decode(chat)
        await chat.pilot.press("f2")


async def test_paused_in_the_second_view(stage: Stage) -> None:
    """The acceptance map; where there is no room beside the chat, the tree in its place."""
    async with stage.chat(replay(explained_answer(), before=stage.hold(17))) as chat:
        await decode(chat)
        await chat.pilot.press("f2", "f4")


async def test_third_view(stage: Stage) -> None:
    """The chat alone; where there is no room beside it, the heat map in its place."""
    async with stage.chat(replay(explained_answer())) as chat:
        await chat.ask()
        await chat.pilot.press("f4", "f4")


async def test_finished(stage: Stage) -> None:
    async with stage.chat() as chat:
        await chat.ask()


async def test_walking(stage: Stage) -> None:
    async with stage.chat() as chat:
        await chat.ask()
        await chat.pilot.press(*["left"] * 8)


async def test_looking_back_at_the_answer_before(stage: Stage) -> None:
    engine = replay(make_answer(), make_answer(SHORT))
    async with stage.chat(engine, recorder=MemoryRecord()) as chat:
        await chat.ask()
        await chat.ask("And at dusk?")
        await chat.pilot.press("home", "home")
        await chat.until(
            lambda: "answer 1 of 2" in chat.app.chat.inspector.cursor.title(paused=False)
        )


async def test_tinted(stage: Stage) -> None:
    async with stage.chat(replay(explained_answer())) as chat:
        await chat.ask()
        await chat.pilot.press("f6")


async def test_told_and_refused(stage: Stage) -> None:
    async with stage.chat() as chat:
        await chat.type("/show", "enter")
        await chat.type("/set temprature 1", "enter")


async def test_failed(stage: Stage) -> None:
    async with stage.chat(BrokenEngine(RuntimeError("out of memory"))) as chat:
        await chat.ask()


async def test_exported(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    async with stage.chat() as chat:
        await chat.ask()
        for name in ("chat.md", "chat.jsonl", "chat.svg"):
            await chat.type(f"/export {name}", "enter")
            await chat.until(lambda name=name: f": {name}" in chat.transcript)  # type: ignore[misc]
        await chat.type("/export chat.txt", "enter")


async def test_help(stage: Stage) -> None:
    async with stage.chat() as chat:
        await chat.ask()
        await chat.pilot.press("f1")


async def test_end_of_help(stage: Stage) -> None:
    async with stage.chat() as chat:
        await chat.pilot.press("f1", "end")


async def test_palette(stage: Stage) -> None:
    async with stage.chat() as chat:
        await chat.ask()
        await chat.pilot.press("ctrl+p")
        await chat.until(lambda: "Best step" in chat.screen_text())


async def test_every_theme(snapshot: SnapshotAssertion) -> None:
    themes = [theme.name for theme in ThemeFolders([packaged_folder()]).changes().themes]
    async with Stage((100, 30), snapshot, themes).chat(replay(explained_answer())) as chat:
        await chat.ask()
        await chat.pilot.press("f6", "left", "left")  # to a step with rejections
