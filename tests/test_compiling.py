"""What compiling the native library does to a program that runs meanwhile."""

from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest

setuptools = import_module("setuptools")  # it has no types
ROOT = Path(__file__).parents[1]


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """`setup.py`, without what it runs."""
    monkeypatch.setattr(setuptools, "setup", lambda **_stated: None)
    spec = spec_from_file_location("script", ROOT / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "system_compiler", lambda: ["c++"])
    monkeypatch.setattr(module, "tool", str)
    monkeypatch.setattr(module, "log_run", lambda _command: None)
    return module


def test_an_open_chat_keeps_the_library_that_it_has_loaded(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A file that is mapped must not change: the next call would run into other code."""
    target = tmp_path / "package" / "library.so"
    compiled = tmp_path / "build" / "c++" / target.name
    for file, content in ((target, b"before"), (compiled, b"after")):
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
    monkeypatch.setattr(script, "BUILD", tmp_path / "build")
    builder = script.BuildLibrary(setuptools.Distribution())
    monkeypatch.setattr(builder, "get_ext_fullpath", lambda _name: str(target))
    with target.open("rb") as loaded:
        builder.build_extension(setuptools.Extension(script.LIBRARY, []))
        assert loaded.read() == b"before"
    assert target.read_bytes() == b"after"
    assert list(target.parent.iterdir()) == [target]
