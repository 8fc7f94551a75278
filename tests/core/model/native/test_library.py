"""A library that does not fit is refused with a line that says what to do."""

import _ctypes
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.native import library
from sequoia_core.model.native.library import ABI_VERSION, SOURCES, load_library


@pytest.fixture(autouse=True)
def _loaded_anew() -> Iterator[None]:
    load_library.cache_clear()
    yield
    load_library.cache_clear()


def test_python_and_the_header_name_the_same_version() -> None:
    header = (SOURCES / "abi.h").read_text(encoding="utf-8")
    assert re.findall(r"#define SEQUOIA_ABI_VERSION (\d+)", header) == [str(ABI_VERSION)]


def test_a_library_of_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "ABI_VERSION", ABI_VERSION + 1)
    with pytest.raises(ModelLoadError, match=f"version {ABI_VERSION} of .*run: make native"):
        load_library()


@pytest.mark.parametrize("content", [b"", b"\x7fELF", None], ids=["empty", "truncated", "another"])
def test_what_is_not_the_library_is_refused(
    content: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(_ctypes.__file__)
    if content is not None:
        path = tmp_path / "library.so"
        path.write_bytes(content)
    monkeypatch.setenv("SEQUOIA_NATIVE_LIBRARY", str(path))
    with pytest.raises(ModelLoadError, match=r"cannot be loaded \(.*run: make native"):
        load_library()


def test_a_library_that_was_not_built_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQUOIA_NATIVE_LIBRARY", str(tmp_path / "none.so"))
    with pytest.raises(ModelLoadError, match="was not built; run: make native"):
        load_library()
