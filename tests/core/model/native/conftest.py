"""The native library as it was built; without it these tests are skipped."""

import pytest

from sequoia_core.model.native.library import Pool, find_library, instruction_sets

if find_library() is None:
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture(scope="session", params=[1, 2], ids=["one-thread", "two-threads"])
def pool(request: pytest.FixtureRequest) -> Pool:
    """Threads to compute with."""
    return Pool(int(request.param))


@pytest.fixture(scope="session", params=instruction_sets() if find_library() else [])
def instruction_set(request: pytest.FixtureRequest) -> str:
    """Each instruction set that this processor runs."""
    return str(request.param)
