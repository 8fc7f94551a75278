"""Pictures of the replay that a person has looked at; see `test_snapshots`."""

from pathlib import Path
from typing import Any

import pytest
from textual.pilot import Pilot

from app.messages import ChatSettings
from app.replay import Loading, Player
from app.replay_app import ReplayApp
from sequoia_core.trace_file import TraceReader
from tests.app.picturing import Compare
from tests.app.test_replay import recording

STEP = "right_square_bracket"


@pytest.mark.parametrize(
    ("name", "keys", "theme", "size"),
    [
        ("paused", (STEP,) * 12, "sequoia", (160, 50)),
        ("explained", (*(STEP,) * 12, "tab", "down", "enter"), "midnight", (160, 50)),
        ("branch", ("end",), "sequoia-light", (80, 24)),
        ("tree", (*(STEP,) * 12, "f4"), "high-contrast", (60, 20)),
        ("help", ("f1",), "sequoia", (80, 24)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_replay(
    snap_compare: Compare,
    tmp_path: Path,
    name: str,
    keys: tuple[str, ...],
    theme: str,
    size: tuple[int, int],
) -> None:
    reader = TraceReader(recording(tmp_path))
    loading = Loading(reader)
    settings = ChatSettings(theme=theme)
    app = ReplayApp(loading, reader.description, Player(loading.timeline), settings)

    async def before(pilot: Pilot[Any]) -> None:
        while not loading.done:
            await pilot.pause(0.01)
        await pilot.press(*keys)
        await pilot.pause()

    assert snap_compare(app, terminal_size=size, run_before=before)
