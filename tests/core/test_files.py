"""How files of others are read, and that files of ours are whole and, where wanted, private."""

import os
import stat
from pathlib import Path

import pytest

from sequoia_core.files import (
    is_file_name,
    make_private_folder,
    parse_json,
    parse_toml,
    read_text,
    split_lines,
    text_written_whole,
    write_whole,
    written_whole,
)

SEPARATORS = "\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""What `str.splitlines` takes for the end of a line, apart from CR and LF."""


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(autouse=True)
def _umask() -> object:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_only_line_feeds_end_a_line() -> None:
    assert split_lines(f"a{SEPARATORS}b\r\nc\rd\n\ne") == [f"a{SEPARATORS}b", "c\rd", "", "e"]
    assert split_lines("") == []
    assert split_lines("a\n") == ["a"]


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xef\xbb\xbfa\xef\xbb\xbfb")
    assert read_text(path) == "a\ufeffb"
    assert parse_json("\ufeff[1]") == parse_json(b"\xef\xbb\xbf[1]") == [1]


def test_a_file_is_read_up_to_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("12345")
    assert read_text(path, 5) == "12345"
    with pytest.raises(ValueError, match="more than 4 bytes"):
        read_text(path, 4)


@pytest.mark.parametrize(
    "text", ["", "{", "[" * 100_000, "9" * 301, "9" * 5000, "-" + "9" * 300, '{"a": ' * 9999]
)
def test_what_is_no_json_is_a_value_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_json(text)


def test_json_numbers_fit_into_floats() -> None:
    (whole,) = parse_json("[" + "9" * 300 + "]")
    assert float(whole) == 1e300


def test_deep_toml_is_a_value_error() -> None:
    with pytest.raises(ValueError, match="nested too deep"):
        parse_toml("a = " + "[" * 100_000)


@pytest.mark.parametrize(
    ("name", "usable"), [("a", True), ("a\udce9", True), ("a\ud800", False), ("a\0b", False)]
)
def test_names_that_no_file_can_have(name: str, usable: bool) -> None:
    assert is_file_name(name) is usable


def test_a_new_file_is_as_the_umask_says_or_its_owners_alone(tmp_path: Path) -> None:
    write_whole(tmp_path / "open", "a")
    write_whole(tmp_path / "private", "a", private=True)
    assert (mode(tmp_path / "open"), mode(tmp_path / "private")) == (0o644, 0o600)


@pytest.mark.parametrize("before", [0o600, 0o640, 0o666])
def test_a_file_that_is_there_keeps_its_mode(tmp_path: Path, before: int) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(before)
    write_whole(path, "new", private=True)
    assert (mode(path), path.read_text()) == (before, "new")


def test_a_link_to_itself_is_an_error_and_stays(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        write_whole(path, "new")
    assert path.is_symlink()


def test_nothing_is_written_where_the_block_fails(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")

    def fail() -> None:
        with text_written_whole(path) as file:
            file.write("half of the new one")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_goes_on_to_point_where_it_did(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write_whole(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_what_is_written_first_cannot_be_a_link_of_somebody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sequoia_core.files.secrets.token_hex", lambda _bytes: "foreseen")
    victim, trap = tmp_path / "victim", tmp_path / ".a.foreseen.part"
    victim.write_text("theirs")
    trap.symlink_to(victim)
    with pytest.raises(FileExistsError), written_whole(tmp_path / "a") as file:
        file.write(b"mine")
    assert victim.read_text() == "theirs"
    assert trap.is_symlink()


def test_a_device_is_written_as_it_is() -> None:
    write_whole(Path("/dev/null"), "a")
    assert not Path("/dev/null").is_file()


def test_half_a_surrogate_pair_does_not_stop_a_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "a", "a\ud800\u2028b\r\n")
    assert (tmp_path / "a").read_bytes() == "a?\u2028b\r\n".encode()


def test_every_folder_that_is_made_is_its_owners_alone(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir(mode=0o755)
    make_private_folder(tmp_path / "there" / "a" / "b")
    folders = [tmp_path / "there" / each for each in (".", "a", "a/b")]
    assert list(map(mode, folders)) == [0o755, 0o700, 0o700]
    make_private_folder(tmp_path / "there" / "a")
