"""The wheel holds all the product needs, and no name that could collide with other people's."""

import json
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).parents[1]
MAPPED = {
    "sequoia_core": "sequoia_core",
    "app": "sequoia_chat",
    "growmaps": "sequoia_core/growmaps",
    "themes": "sequoia_chat/themes",
}
"""Folders of the checkout and where they are installed."""

INSPECT = """
import json
import sequoia_core, sequoia_chat
from sequoia_chat.config.themes import packaged_folder
from sequoia_core.tree.files import find_growmap, growmap_names
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.loading.loader import BUNDLED_DRAFT
print(json.dumps({
    "modules": [sequoia_core.__file__, sequoia_chat.__file__],
    "growmaps": {name: find_growmap(name).size for name in growmap_names()},
    "themes": sorted(path.stem for path in packaged_folder().glob("*.toml")),
    "draft": [str(BUNDLED_DRAFT), len(open_directory(BUNDLED_DRAFT).weights)],
}))
"""


def run(*command: str | Path, cwd: Path, **environment: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sources(folder: Path) -> list[Path]:
    """What is installed as it lies; the native library is compiled."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.suffix != ".so"]
    return [file for file in files if not {"__pycache__", "cpp"} & set(file.parts)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that the checkout stays clean."""
    copy = tmp_path_factory.mktemp("sources")
    built_here = shutil.ignore_patterns("__pycache__", "*.so")
    for name in MAPPED:
        shutil.copytree(ROOT / name, copy / name, ignore=built_here)
    for name in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(ROOT / name, copy / name)
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", cwd=copy)
    (built,) = (copy / "dist").glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
    run(*pip, "--no-deps", "--no-index", "--target", folder, wheel, cwd=folder)
    return folder


def test_only_the_two_own_names_become_top_level(wheel: Path) -> None:
    names = {name.partition("/")[0] for name in ZipFile(wheel).namelist()}
    (metadata,) = (name for name in names if name.endswith(".dist-info"))
    assert names == {"sequoia_core", "sequoia_chat", metadata}
    assert metadata.startswith("sequoia_chat-")


@pytest.mark.parametrize("folder", MAPPED)
def test_every_file_travels(folder: str, wheel: Path) -> None:
    packed = set(ZipFile(wheel).namelist())
    expected = {
        f"{MAPPED[folder]}/{file.relative_to(ROOT / folder).as_posix()}"
        for file in sources(ROOT / folder)
        if file.suffix != ".md" or "bundled" in file.parts
    }
    assert expected
    assert expected <= packed


def test_nothing_else_travels(wheel: Path) -> None:
    count = sum(len(sources(ROOT / folder)) for folder in MAPPED)
    packed = [name for name in ZipFile(wheel).namelist() if ".dist-info/" not in name]
    compiled = [name for name in packed if name.endswith(".so")]
    assert compiled == ["sequoia_core/model/native/libsequoia_native.so"]
    assert len(packed) <= count + len(compiled)


def test_it_is_for_any_python_on_this_kind_of_machine(wheel: Path) -> None:
    assert wheel.name.startswith("sequoia_chat-")
    assert "-py3-none-linux_" in wheel.name


def test_it_works_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    text = run(sys.executable, "-c", INSPECT, cwd=tmp_path, PYTHONPATH=str(installed))
    found = json.loads(text)
    paths = [*found["modules"], found["draft"][0]]
    assert all(Path(path).is_relative_to(installed) for path in paths)
    shapes = {path.stem for path in (ROOT / "growmaps").rglob("*.json")}
    assert {name.rpartition("/")[2] for name in found["growmaps"]} == shapes
    assert found["themes"] == sorted(path.stem for path in (ROOT / "themes").glob("*.toml"))
    assert found["draft"][1] > 0


def test_the_command_is_installed(installed: Path, tmp_path: Path) -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    command = installed / "bin" / "sequoia"
    answer = run(command, "--version", cwd=tmp_path, PYTHONPATH=str(installed))
    assert answer.split() == ["sequoia", stated]
    drawn = run(command, "growmap", "list", cwd=tmp_path, PYTHONPATH=str(installed))
    assert "chain/" in drawn
