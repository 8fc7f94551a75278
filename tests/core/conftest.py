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


@pytest.fixture(autouse=True)
def _pytorch_alone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where work is recorded, PyTorch reads all rows, as it does on a GPU.

    The native library would write into tensors where a recording does not see it.
    """
    if hasattr(request.module, "TapeRunner"):
        from sequoia_core.speculate import sampling

        monkeypatch.setattr(sampling, "reader_of", lambda _rows: None)
