"""Fixtures shared by the tests of the record."""

from pathlib import Path

import pytest

from app.store import database, writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Of the database, in a folder that is not there yet."""
    return tmp_path / "data" / "sessions.db"


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that failed is tried again soon."""
    monkeypatch.setattr(writer, "RETRY_SECONDS", 0.02)
    monkeypatch.setattr(database, "WRITE_PATIENCE_SECONDS", 0.02)
    monkeypatch.setattr(database, "READ_PATIENCE_SECONDS", 0.02)
