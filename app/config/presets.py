"""Presets: system prompts by name, the packaged ones and a person's own in `presets.toml`."""

import re
from collections.abc import Mapping
from pathlib import Path

from sequoia_core.errors import ParameterError, suggest
from sequoia_core.files import parse_toml, read_text
from sequoia_core.text.detokenizer import well_formed

from .load import SettingsError
from .paths import config_file

NO_PRESET = "default"  # names the chat template's own system prompt
_PACKAGED = Path(__file__).with_name("presets.toml")
_NAME = re.compile(r"[\w-]{1,40}")
_RESERVED = (NO_PRESET, "save", "delete")
_MOST_BYTES = 1_000_000


def load_presets() -> dict[str, str]:
    """All system prompts by name. Raises SettingsError if the person's file cannot be used."""
    return dict(sorted((_read(_PACKAGED) | _own()).items()))


def find_preset(name: str) -> str | None:
    """The system prompt of this name, None for the template's own.

    Raises ParameterError if there is none, and SettingsError as `load_presets`.
    """
    if name == NO_PRESET:
        return None
    known = load_presets()
    if name not in known:
        raise ParameterError(f"no preset {name!r}; {suggest(name, [*known, NO_PRESET])}")
    return known[name]


def save_preset(name: str, system_prompt: str) -> None:
    """Write a preset into the person's file, in the place of one of the same name."""
    if not _NAME.fullmatch(name) or name in _RESERVED:
        wanted = "letters, digits, - and _, at most 40, and not " + ", ".join(_RESERVED)
        raise SettingsError(f"{name!r:.60} is no name for a preset: it has {wanted}")
    _own()  # a file with errors is not written
    _write(name, system_prompt)


def delete_preset(name: str) -> None:
    """Remove a preset from the person's file; raises SettingsError if it is not there."""
    own = _own()
    if name not in own:
        if name in _read(_PACKAGED):
            raise SettingsError(f"{name} comes with the program and stays")
        raise SettingsError(
            f"you have no preset {name!r}; {suggest(name, own, otherwise='/preset lists them')}"
        )
    _write(name, None)


def _write(name: str, system_prompt: str | None) -> None:
    import tomlkit

    from .preferences import write_setting

    value = system_prompt
    if value is not None and "\n" in value and "\r" not in value:
        value = tomlkit.string(value, multiline=True)
    write_setting(_own_file(), name, value)


def _own_file() -> Path:
    return config_file().with_name("presets.toml")


def _own() -> dict[str, str]:
    try:
        return _read(_own_file())
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise SettingsError(f"{_own_file()}: {error.strerror or error}") from None


def _read(path: Path) -> dict[str, str]:
    try:
        table: Mapping[str, object] = parse_toml(read_text(path, _MOST_BYTES))
    except ValueError as error:
        raise SettingsError(f"{path}: not valid TOML: {error}") from None
    presets: dict[str, str] = {}
    for name, text in table.items():
        if not isinstance(text, str) or not text.strip() or well_formed(text) != text:
            raise SettingsError(f'{path}: {name} should be a text, {name} = "You are ..."')
        presets[name] = text
    return presets
