"""What stays in view: the walked step's text, the keys that matter; and a picture of it all."""

from pathlib import Path

import pytest

from app.widgets.key_bar import KeyBar
from app.widgets.transcript import Transcript
from tests.app.driving import driving
from tests.fakes import make_answer, replay


async def test_the_text_of_the_walked_step_is_brought_into_view() -> None:
    text = " ".join(f"word{at}" for at in range(400))
    async with driving(replay(make_answer(text)), size=(80, 16)) as chat:
        await chat.ask()
        await chat.until(lambda: not chat.app.chat.busy)
        transcript = chat.app.chat.query_one(Transcript)
        await chat.until(lambda: transcript.scroll_offset.y == transcript.max_scroll_y > 0)
        await chat.pilot.press("home")
        await chat.until(lambda: transcript.scroll_offset.y == 0)
        await chat.pilot.press("end")
        await chat.until(lambda: transcript.scroll_offset.y == transcript.max_scroll_y)


async def test_a_picture_is_saved_where_one_works_and_its_place_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with driving() as chat:
        chat.app.save_picture()
        (picture,) = tmp_path.glob("sequoia-*.svg")
        assert "<svg" in picture.read_text()


@pytest.mark.parametrize("width", [30, 60, 160])
async def test_help_and_quit_are_the_last_keys_to_go(width: int) -> None:
    async with driving(size=(width, 20)) as chat:
        keys = chat.app.chat.query_one(KeyBar).render().plain
        assert "f1 help" in keys
        assert "^q quit" in keys
