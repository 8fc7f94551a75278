"""Pictures of a demo's scene that a person has looked at, by recordings of the fakes."""

from pathlib import Path

import pytest

from app.config.settings import Settings
from app.screens.demo import DemoScreen
from app.screens.replay import ReplayApp
from app.state import scenes
from sequoia_core.events import Step
from sequoia_core.recording.trace_file import SceneInfo
from tests.app.insights import with_insight
from tests.app.picturing import Stage
from tests.app.screens.test_replay import captioned, written

STOP = ("space", "home")


@pytest.mark.parametrize(
    "keys",
    [
        STOP,
        (*STOP, *["right"] * 2),
        (*STOP, *["right"] * 4),
        (*STOP, "end", "enter"),
        (*STOP, "f1"),
    ],
    ids=["beginning", "captioned", "explained", "end", "help"],
)
async def test_demo(
    stage: Stage, keys: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entries = [with_insight(each) if isinstance(each, Step) else each for each in captioned()]
    path = tmp_path / "1-name.jsonl.gz"
    scene = SceneInfo("What a tree is", "AMD EPYC 9R14", 1_700_000_000.0)
    path.write_text(written(entries, scene), encoding="utf-8")
    monkeypatch.setattr(scenes, "FILES", (path,))
    app = ReplayApp(DemoScreen(0, scenes.open_scene(0)), Settings())
    async with stage.shown(app) as pilot:
        await pilot.press(*keys)
