"""A person's settings: read from everywhere, changed in the configuration file.

Comments, order and layout of the file stay as they are, and it is never left half written.
"""

from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Comment, Table, Whitespace

from sequoia_core.files import read_text, write_whole

from .load import Loaded, SettingsError, above_file, as_toml, load
from .paths import config_file
from .resolve import chosen_models, tree_choice
from .settings import BETWEEN_TEXTS

Value = str | int | float | bool | list[str] | None


@dataclass(frozen=True, slots=True)
class Changed:
    """A change that was written.

    Attributes:
        value: in Python's type.
        remark: what takes precedence over it at the next start; "" for nothing.
    """

    value: Any
    remark: str


class Preferences:
    """The settings of a person.

    Args:
        flags: settings from the command line.
        path: the file to write; None for the usual one.
    """

    def __init__(self, flags: Mapping[str, Any] | None = None, path: Path | None = None) -> None:
        self._flags = dict(flags or {})
        self.path = path or config_file()

    def load(self) -> Loaded:
        """The settings as another start would find them; raises as `load`."""
        return load(self._flags)

    def write(self, name: str, text: str) -> Changed:
        """Write a setting into the file.

        Args:
            name: of the setting.
            text: as typed; empty takes it out of the file, so that the default holds.

        Raises:
            SequoiaError: the value cannot be used, or the file cannot be written.
        """
        if not text:
            write_setting(self.path, name, None)
            return Changed(getattr(self.load().settings, name), self._remark(name))
        flags = {**self._flags, name: text.split(BETWEEN_TEXTS) if name == "stop" else text}
        if name in ("pair", "target"):
            flags.pop("target" if name == "pair" else "pair", None)
        settings = load(flags).settings
        tree_choice(settings)
        chosen_models(settings)
        value: Value = as_toml(settings)[name]
        if isinstance(value, list) and len(value) == 1:
            value = value[0]
        write_setting(self.path, name, value)
        return Changed(getattr(settings, name), self._remark(name))

    def write_key(self, action: str, keys: tuple[str, ...] | None) -> str:
        """Write the keys of an action into the file; None for those it has by default.

        Returns:
            What takes precedence over it at the next start; "" for nothing.

        Raises:
            SequoiaError: the file cannot be written.
        """
        write_key(self.path, action, keys)
        return self._remark("keys")

    def _remark(self, name: str) -> str:
        above = above_file(name, self._flags)
        return f"{above} goes above it when it is given again" if above else ""


def write_setting(path: Path, name: str, value: Value) -> None:
    """Set or remove a setting.

    Args:
        path: of the file; made with its folders if it is not there.
        name: of the setting.
        value: None removes the line.

    Raises:
        SettingsError: the file is no TOML, or cannot be read or written.
    """
    _rewrite(path, lambda document: _put(document, name, value))


def write_key(path: Path, action: str, keys: tuple[str, ...] | None) -> None:
    """Set or remove the keys of an action, in the table `[keys]`.

    Args:
        path: of the file.
        action: id, such as `chat.tree`.
        keys: None removes the line.

    Raises:
        SettingsError: the file is no TOML, or cannot be read or written.
    """

    def change(document: MutableMapping[str, Any]) -> None:
        table = document.get("keys")
        if not isinstance(table, MutableMapping):
            if keys is None:
                return
            document["keys"] = tomlkit.table()
            table = document["keys"]
        context, _, rest = action.partition(".")
        inner = table.get(context)
        if isinstance(inner, MutableMapping):  # [keys.chat], or chat.tree without quotes
            inner.pop(rest, None)
            if not inner:
                del table[context]
        _put(table, action, None if keys is None else ", ".join(keys))

    _rewrite(path, change)


def _put(table: MutableMapping[str, Any], name: str, value: Value) -> None:
    if value is None:
        table.pop(name, None)
    elif name not in table and isinstance(table, tomlkit.TOMLDocument):
        _before_tables(table, name, value)
    else:
        table[name] = value


def _before_tables(document: tomlkit.TOMLDocument, name: str, value: Value) -> None:
    """Add a line before the first table and its comment: behind them it would belong to it."""
    body = document.body
    at = next((at for at, (_, each) in enumerate(body) if isinstance(each, (Table, AoT))), None)
    if at is None:
        document[name] = value
        return
    while at > 0 and isinstance(body[at - 1][1], Comment):
        at -= 1
    line: list[Any] = [(tomlkit.key(name), tomlkit.item(value))]
    if at > 0 and isinstance(body[at - 1][1], Whitespace):
        at -= 1
    else:
        line.append((None, tomlkit.ws("\n")))
    body[at:at] = line


def _rewrite(path: Path, change: Callable[[MutableMapping[str, Any]], None]) -> None:
    """Read, change and replace a file; a symbolic link stays one."""
    path = path.resolve()
    try:
        text = read_text(path) if path.exists() else ""
        document = tomlkit.parse(text)
        change(document)
        fresh = document.as_string()
        if fresh != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, fresh)
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML, so nothing was written: {error}") from None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}; nothing was written") from None
