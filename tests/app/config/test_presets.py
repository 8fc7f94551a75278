"""Presets by name: packaged ones, a person's own in a file that stays as it was written by hand."""

from pathlib import Path

import pytest

from app.config.load import SettingsError
from app.config.presets import delete_preset, find_preset, load_presets, save_preset
from sequoia_core.errors import ParameterError

OWN = '# mine\nconcise = "Be very brief."  # better\npirate = """\nYou are a pirate.\nArr."""\n'


@pytest.fixture
def own(config_home: Path) -> Path:
    path = config_home / "presets.toml"
    path.write_text(OWN, encoding="utf-8")
    return path


def test_own_presets_stand_beside_the_packaged_ones_and_above_them(own: Path) -> None:
    presets = load_presets()
    assert presets["pirate"] == "You are a pirate.\nArr."
    assert presets["concise"] == find_preset("concise") == "Be very brief."
    assert {"code-reviewer", "translator"} < set(presets)
    delete_preset("concise")
    assert find_preset("concise") != "Be very brief."
    assert find_preset("default") is None


def test_saving_and_deleting_leave_the_rest_of_the_file_as_it_is(own: Path) -> None:
    save_preset("two-lines", 'Say "yes".\nOr no.')
    assert own.read_text(encoding="utf-8").startswith(OWN)
    assert find_preset("two-lines") == 'Say "yes".\nOr no.'
    save_preset("two-lines", "One.")
    delete_preset("two-lines")
    assert own.read_text(encoding="utf-8") == OWN


@pytest.mark.parametrize("text", ['a\\b"\'"""\n\n c\t', "\n begins so", 'ends with "\n"', "a\r\nb"])
def test_any_system_prompt_is_kept_as_it_is(text: str) -> None:
    save_preset("odd", text)
    assert find_preset("odd") == text


@pytest.mark.parametrize(
    ("content", "complaint"),
    [("a = 3", "a should be a text"), ("a = ''", "a should be a text"), ("a", "not valid TOML")],
)
def test_a_file_that_cannot_be_used_is_one_line_and_stays(
    own: Path, content: str, complaint: str
) -> None:
    own.write_text(content, encoding="utf-8")
    for act in (load_presets, lambda: save_preset("b", "c"), lambda: delete_preset("a")):
        with pytest.raises(SettingsError, match=complaint):
            act()
    assert own.read_text(encoding="utf-8") == content


@pytest.mark.parametrize("name", ["", "two words", "a.b", "default", "save", "x" * 41, "a\n"])
def test_a_name_that_the_command_could_not_say_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="no name for a preset"):
        save_preset(name, "text")


def test_names_that_are_not_there_are_answered_with_what_is(own: Path) -> None:
    with pytest.raises(ParameterError, match="did you mean translator"):
        find_preset("translate")
    with pytest.raises(SettingsError, match="teacher comes with the program"):
        delete_preset("teacher")
    with pytest.raises(SettingsError, match="did you mean pirate"):
        delete_preset("pirat")
