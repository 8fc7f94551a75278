"""Pictures of what opens above the prompt, and of what is folded."""

from pathlib import Path

import pytest
from textual.events import Paste

from app.app import Settings
from tests.app.picturing import Stage
from tests.app.screens.test_prompt import LONG, typed


async def test_commands_listed(stage: Stage) -> None:
    async with stage.chat() as chat:
        await chat.ask()
        await typed(chat, "/", "/set ")
        await chat.pilot.press("down")


async def test_tree_shapes_listed(stage: Stage) -> None:
    async with stage.chat(settings=Settings(growmap="chain/4")) as chat:
        await typed(chat, "/set growmap ", "auto")
        await chat.pilot.press(*["down"] * 24)


async def test_folds_and_an_attached_file(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes.md").write_text("Remember.\nAnd forget.\n")
    monkeypatch.chdir(tmp_path)
    async with stage.chat() as chat:
        chat.prompt.post_message(Paste(LONG))
        await chat.until(lambda: bool(chat.prompt.text))
        await chat.ask(" compare with @notes.md")
        await chat.type("once more: ")
        chat.prompt.post_message(Paste(LONG))
        await chat.until(lambda: "pasted" in chat.prompt.text)
        await chat.pilot.press("pageup")
        await chat.pilot.press(*["pageup"] * 8)


async def test_a_long_error(stage: Stage) -> None:
    async with stage.chat() as chat:
        await chat.type("/set growmap " + "no-such-shape-" * 8, "enter")
        await chat.until(lambda: bool(chat.hint))
