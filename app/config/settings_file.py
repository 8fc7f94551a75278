"""Writes one setting into the configuration file; everything else in it stays as it is.

Owns comments, order and layout of the file being kept, and that it is never left half written.
Knows no setting's meaning.
"""

from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Comment, Table, Whitespace

from sequoia_core.files import read_text, write_whole

from .settings import SettingsError

Value = str | int | float | bool | list[str] | None


def write_setting(path: Path, name: str, value: Value) -> None:
    """Set or take away a setting.

    Args:
        path: of the file; made if it is not there, with its folders.
        name: of the setting.
        value: None takes the line away, so that the default holds.

    Raises:
        SettingsError: the file is no TOML, or cannot be read or written.
    """

    def change(document: MutableMapping[str, Any]) -> None:
        _put(document, name, value)

    _rewrite(path, change)


def write_key(path: Path, action: str, keys: tuple[str, ...] | None) -> None:
    """Set or take away the keys of an action, in the table `[keys]`.

    Args:
        path: of the file.
        action: id, such as `chat.tree`.
        keys: None takes the line away.

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
    elif name in table:
        table[name] = value
    elif isinstance(table, tomlkit.TOMLDocument):
        _before_tables(table, name, value)
    else:
        table[name] = value


def _before_tables(document: tomlkit.TOMLDocument, name: str, value: Value) -> None:
    """A new line comes before the first table and what is said about it, or it would be of it."""
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
    """Read, change and replace a file; a link goes on to point where it did."""
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
