"""What holds a chat is its owner's alone, is never written through a link, and fetches nothing."""

import logging
import os
import re
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.app import _log_to_file
from app.config.paths import output_file
from app.config.themes import load_theme
from app.store import open_windows
from app.store.recorder import DatabaseRecorder
from app.ui.base_app import with_local_fonts
from sequoia_core.errors import ParameterError
from sequoia_core.events import Event
from sequoia_core.recording.trace_file import Asked, recorded
from tests.app.driving import driving
from tests.app.records import record_chats
from tests.fakes import PAIR, make_answer

ROOT = Path(__file__).parents[3]


@pytest.fixture(autouse=True)
def _umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("ending", ["md", "json", "jsonl", "svg"])
async def test_an_export_is_its_owners_alone(tmp_path: Path, ending: str) -> None:
    folder = tmp_path / "new" / "folder"
    victim, path = tmp_path / "victim", folder / f"chat.{ending}"
    victim.write_text("theirs")
    folder.parent.mkdir(mode=0o755)
    async with driving() as driver:
        await driver.ask("Why?")
        await driver.type(f"/export {path}", "enter")
        await driver.until(path.exists)
    assert (mode(folder), mode(path)) == (0o700, 0o600)
    assert [each.name for each in folder.iterdir()] == [path.name]


async def test_a_link_in_the_place_of_the_first_file_is_not_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "chat.md"
    victim.write_text("theirs")
    (tmp_path / ".chat.md.part").symlink_to(victim)
    async with driving() as driver:
        await driver.ask("Why?")
        await driver.type(f"/export {path}", "enter")
        await driver.until(path.exists)
    assert victim.read_text() == "theirs"
    assert (tmp_path / ".chat.md.part").is_symlink()


@pytest.mark.parametrize(
    ("name", "complaint"),
    [("x" * 300, "File name too long"), ("a\0b", "no name of a file"), ("\ud800", "no name")],
)
def test_a_name_that_no_file_can_have_is_one_line(
    tmp_path: Path, name: str, complaint: str
) -> None:
    with pytest.raises(ParameterError, match=complaint) as caught:
        output_file(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert "\0" not in str(caught.value)


async def test_a_picture_is_its_owners_alone_and_fetches_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with driving() as driver:
        await driver.ask('Is @font-face { src: url("https://example.org/a.woff2") } text?')
        driver.app.action_picture()
    (path,) = tmp_path.glob("sequoia-*.svg")
    style, _, drawing = path.read_text("utf-8").partition("</style>")
    assert mode(path) == 0o600
    assert re.findall(r"https?:[^\s\"]*", style) == ["http://www.w3.org/2000/svg"]
    assert "monospace" in style
    assert "@font-face" in drawing.replace("&#160;", " ")


@pytest.mark.parametrize(
    "path", sorted((ROOT / "docs" / "img").glob("*.svg")), ids=lambda p: p.name
)
def test_pictures_of_the_documents_fetch_nothing(path: Path) -> None:
    text = path.read_text("utf-8")
    assert "@font-face" not in text.partition("</style>")[0]
    assert "url(http" not in text.replace('"', "").replace("'", "")
    assert not re.search(r"(?:href|src)=\"(?:https?:)?//", text)
    assert "@import" not in text


def test_what_reads_like_a_style_in_a_screen_stays() -> None:
    svg = "<svg><style>@font-face {\n src: url(x);\n}\n.a {}</style><text>@font-face { }</text>"
    assert with_local_fonts(svg) == "<svg><style>.a {}</style><text>@font-face { }</text>"


def answered(path: Path) -> list[Event]:
    return list(recorded(path, PAIR, Asked("Why?", "a"), make_answer()))


def test_a_trace_is_its_owners_alone(tmp_path: Path) -> None:
    answered(tmp_path / "new.jsonl")
    (tmp_path / "old.jsonl").touch(mode=0o644)
    answered(tmp_path / "old.jsonl")
    assert (mode(tmp_path / "new.jsonl"), mode(tmp_path / "old.jsonl")) == (0o600, 0o644)


def test_the_record_is_its_owners_alone_from_its_first_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, seen = tmp_path / "a" / "b" / "sessions.db", []
    connect = sqlite3.connect

    def looked(place: Path, **options: object) -> sqlite3.Connection:
        seen.append(mode(path))
        return connect(place, **options)  # type: ignore[call-overload, no-any-return]

    monkeypatch.setattr("app.store.database.sqlite3.connect", looked)
    record_chats(path, ("Why?", "Because."))
    assert set(seen) == {0o600}
    assert (mode(tmp_path / "a"), mode(tmp_path / "a" / "b")) == (0o700, 0o700)


def test_the_log_is_its_owners_alone(tmp_path: Path) -> None:
    handler = _log_to_file(tmp_path / "log")
    try:
        logging.getLogger("sequoia").error("what was said")
    finally:
        logging.getLogger("sequoia").removeHandler(handler)
        handler.close()
    assert mode(tmp_path / "log") == 0o700
    assert mode(tmp_path / "log" / "sequoia.log") == 0o600


def test_a_record_of_another_machine_removes_no_file_of_this_one(tmp_path: Path) -> None:
    path, victim = tmp_path / "data" / "sessions.db", tmp_path / "victim.lock"
    victim.touch()
    record_chats(path, ("Why?", "Because."))
    connection = sqlite3.connect(path)
    with connection:
        connection.execute("INSERT INTO window (id) VALUES ('../../victim')")
        connection.execute("INSERT INTO window (id) VALUES (?)", (str(victim.with_suffix("")),))
    connection.close()
    recorder = DatabaseRecorder(path)
    recorder.close()
    assert recorder.unsaved == ""
    assert victim.exists()
    assert not open_windows.is_open(tmp_path, "../victim")


def test_a_theme_is_read_whatever_its_editor_puts_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes(b'\xef\xbb\xbfname = "a"\n[colors]\nprimary = "#112233"\n')
    assert load_theme(path).name == "a"
