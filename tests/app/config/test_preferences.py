"""A setting is written without touching anything else in the file."""

import os
import stat
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.config.load import SettingsError
from app.config.preferences import Preferences, write_key, write_setting

FILE = """\
# mine
temperature = 0.5  # warm

# looks
theme = "redwood"

# the keys
[keys]
"chat.tree" = "f9"  # since f4 is my terminal's
chat.tint = "f8"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "config.toml"
    path.write_text(FILE)
    return path


@given(
    name=st.sampled_from(["temperature", "theme", "seed", "system"]),
    value=st.none() | st.integers(-9, 9) | st.text(max_size=8) | st.booleans()
    | st.lists(st.text(max_size=3), max_size=2),
)  # fmt: skip
def test_every_other_line_stays(
    tmp_path_factory: pytest.TempPathFactory, name: str, value: int | str | bool | list[str] | None
) -> None:
    path = tmp_path_factory.mktemp("file") / "config.toml"
    path.write_text(FILE)
    write_setting(path, name, value)
    expected = tomllib.loads(FILE)
    expected.pop(name, None)
    if value is not None:
        expected[name] = value
    assert tomllib.loads(path.read_text()) == expected
    told = path.read_text()
    for remark in ("# mine\n", "# looks\n", "# the keys\n[keys]\n", "# since f4"):
        assert remark in told
    assert value is None or "# warm\n" in told


def test_a_changed_value_keeps_its_remark_and_its_place(path: Path) -> None:
    write_setting(path, "temperature", 0.7)
    assert path.read_text() == FILE.replace("0.5", "0.7")


def test_a_new_setting_comes_before_the_tables_and_what_is_said_about_them(path: Path) -> None:
    write_setting(path, "seed", 3)
    before, after = path.read_text().split("# the keys\n")
    assert before.endswith('theme = "redwood"\nseed = 3\n\n')
    assert after == FILE.split("# the keys\n")[1]


def test_a_new_setting_stays_below_the_comment_that_heads_the_file(path: Path) -> None:
    path.write_text("# Settings of Anna's laptop\n\n# my keys\n[keys]\n")
    write_setting(path, "seed", 3)
    assert path.read_text() == "# Settings of Anna's laptop\nseed = 3\n\n# my keys\n[keys]\n"


def test_keys_come_and_go_in_their_table(path: Path) -> None:
    write_key(path, "chat.tint", ("f7", "ctrl+t"))
    write_key(path, "chat.pause", ("f8",))
    write_key(path, "chat.tree", None)
    written = tomllib.loads(path.read_text())
    assert written["keys"] == {"chat.tint": "f7, ctrl+t", "chat.pause": "f8"}
    assert "# the keys\n[keys]\n" in path.read_text()


def test_a_file_that_is_not_there_is_made_with_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "config.toml"
    write_key(path, "chat.tree", None)
    assert not path.exists()
    write_key(path, "chat.tree", ("f9",))
    write_setting(path, "theme", "fjord")
    assert tomllib.loads(path.read_text()) == {"theme": "fjord", "keys": {"chat.tree": "f9"}}


def test_a_link_stays_one_and_so_do_the_rights(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.toml", tmp_path / "config.toml"
    real.write_text(FILE)
    real.chmod(0o600)
    link.symlink_to(real)
    write_setting(link, "seed", 3)
    assert link.is_symlink()
    assert "seed = 3" in real.read_text()
    assert stat.S_IMODE(real.stat().st_mode) == 0o600


def test_an_unchanged_file_is_not_written(path: Path) -> None:
    os.utime(path, ns=(1, 1))
    write_setting(path, "temperature", 0.5)
    assert path.stat().st_mtime_ns == 1


@pytest.mark.parametrize("content", [b"temperature = = 1", b"\xff\xfe"])
def test_a_broken_file_is_not_overwritten(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(SettingsError, match="nothing was written"):
        write_setting(path, "seed", 3)
    assert path.read_bytes() == content


def test_what_cannot_be_written_is_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", refuse)
    with pytest.raises(SettingsError, match="No space left on device; nothing was written"):
        write_setting(path, "seed", 3)
    assert path.read_text() == FILE
    assert list(path.parent.glob(".*")) == []


def test_a_pair_and_a_target_take_each_others_place(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.config.load.config_file", lambda: path)
    preferences = Preferences(path=path)
    for name, value in (("target", "some/model"), ("pair", "embedded"), ("target", "other/model")):
        preferences.write(name, value)
        settings = preferences.load().settings
        expected = (value, None) if name == "pair" else (None, value)
        assert (settings.pair, settings.target) == expected
