"""Fixtures shared by the app's tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def config_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty configuration folder in place of the user's, and none of the user's settings."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    for name in [name for name in os.environ if name.upper().startswith("SEQUOIA_")]:
        monkeypatch.delenv(name)
    folder = tmp_path / "config" / "sequoia"
    folder.mkdir(parents=True)
    return folder
