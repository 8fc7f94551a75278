"""Fixtures shared by the app's tests."""

import asyncio
import os
import time
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.app.picturing import SIZES, Stage

IDLE_SECONDS = 0.01
ROUNDS = 10  # of the event loop


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration folder, none of the user's settings, and a terminal of all colours."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("OLLAMA_MODELS", str(tmp_path / "ollama"))
    for name in [name for name in os.environ if name.upper().startswith("SEQUOIA_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.delenv("NO_COLOR", raising=False)
    folder = tmp_path / "config" / "sequoia"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(autouse=True)
def nobody_waits_for_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the parts of a picture."""
    monkeypatch.setattr("app.screens.chat.redraw.KEY_SECONDS", 0)


async def until_idle(_min_sleep: float = 0.0, max_sleep: float = 1.0) -> None:
    """Instead of Textual's `wait_for_idle`: in half its time, and on a machine that is busy too.

    There a process that waits for the processor looks idle. So what has become ready is done
    first, and a sleep that took much longer than it should does not count.
    """
    began = time.monotonic()
    while time.monotonic() - began < max_sleep:
        slept, used = time.monotonic(), time.process_time()
        await asyncio.sleep(IDLE_SECONDS)
        for _ in range(ROUNDS):
            await asyncio.sleep(0)
        idle = time.process_time() - used < IDLE_SECONDS / 20
        if idle and time.monotonic() - slept < 1.5 * IDLE_SECONDS:
            return


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("app", "pilot"):
        monkeypatch.setattr(f"textual.{module}.wait_for_idle", until_idle)


@pytest.fixture(params=SIZES, ids=lambda size: "x".join(map(str, size)))
def stage(
    request: pytest.FixtureRequest, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> Stage:
    """Where a screen is brought about and pictured; makes a test one for each size."""
    monkeypatch.setattr(
        "app.screens.chat.redraw.SHARE", 1e6
    )  # nothing is decoded that drawing could slow down
    return Stage(request.param, snapshot)
