"""Fixtures shared by the app's tests."""

import os
from pathlib import Path

import pytest
from syrupy.assertion import SnapshotAssertion

from tests.app.picturing import SIZES, Stage


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


@pytest.fixture(params=SIZES, ids=lambda size: "x".join(map(str, size)))
def stage(
    request: pytest.FixtureRequest, snapshot: SnapshotAssertion, monkeypatch: pytest.MonkeyPatch
) -> Stage:
    """Where a screen is brought about and pictured; makes a test one for each size."""
    monkeypatch.setattr(
        "app.screens.chat.redraw.SHARE", 1e6
    )  # nothing is decoded that drawing could slow down
    return Stage(request.param, snapshot)
