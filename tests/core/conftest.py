"""Fixtures shared by the engine's tests."""

from pathlib import Path

import pytest


@pytest.fixture
def reference_folder() -> Path:
    """Files of the reference code, which do not travel with the repository."""
    folder = Path(__file__).parents[3] / "shared" / "data" / "reference"
    if not folder.is_dir():
        pytest.skip("the reference code's files are not here")
    return folder
