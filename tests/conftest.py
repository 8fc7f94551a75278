"""Fixtures shared by all tests."""

import os
from collections.abc import Iterator

import pytest

LONGEST_ID = 60
"""Characters of a value in the name of a test."""

if "PYTEST_XDIST_WORKER" in os.environ:  # workers that compute side by side have a core each
    os.environ.setdefault("OMP_NUM_THREADS", "1")


def pytest_addoption(parser: pytest.Parser) -> None:
    """What `make lossless` asks for."""
    parser.addoption("--least-runs", type=int, default=0, help="of each test by chi-square")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers begin with what takes minutes: at the end one would wait for another."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: item.get_closest_marker("long") is None)


def pytest_make_parametrize_id(val: object) -> str | None:
    """Long values are named by their beginning; pytest numbers those that begin alike."""
    if isinstance(val, str | bytes) and len(val) > LONGEST_ID:
        return f"{val[:LONGEST_ID]!a}..."
    return None


@pytest.fixture(scope="session", autouse=True)
def private_folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's files out of the tests, and the tests out of the user's files.

    One set of folders for the whole session, so that the embedded target is converted once (by each
    worker).
    """
    with pytest.MonkeyPatch.context() as patch:
        for kind in ("CACHE", "CONFIG", "DATA", "STATE"):
            patch.setenv(f"XDG_{kind}_HOME", str(tmp_path_factory.mktemp(kind.lower())))
        yield
