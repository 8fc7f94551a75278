"""A person's settings: read from everywhere, changed in the file, whose comments and order stay."""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import tomlkit
from tomlkit.exceptions import TOMLKitError
from tomlkit.items import AoT, Comment, Table, Whitespace

from sequoia_core.files import read_text, write_whole

from .load import Loaded, SettingsError, above_file, as_toml, load
from .model_choice import chosen_models, tree_choice
from .paths import config_file
from .settings import BETWEEN_TEXTS, Settings

Value = str | int | float | bool | list[str] | None
_Entries = MutableMapping[str, Any]


class Changed(NamedTuple):
    value: Any  # in Python's type
    remark: str  # what takes precedence over it at the next start; "" for nothing


class Preferences:
    """The settings of a person, in the usual file unless another is given."""

    def __init__(self, flags: Mapping[str, Any] | None = None, path: Path | None = None) -> None:
        self._flags = dict(flags or {})
        self.path = path or config_file()

    def load(self) -> Loaded:
        """The settings as another start would find them; raises as `load`."""
        return load(self._flags)

    def write(self, name: str, text: str) -> Changed:
        """Write a setting as typed into the file; "" takes it out, so that the default holds.

        Raises SequoiaError if the value cannot be used or written.
        """
        if not text:
            write_setting(self.path, name, None)
            settings = self.load().settings
        else:
            flags = {**self._flags, name: text.split(BETWEEN_TEXTS) if name == "stop" else text}
            if name in ("pair", "target"):
                flags.pop("target" if name == "pair" else "pair", None)
            settings = load(flags).settings
            tree_choice(settings)
            chosen_models(settings)
            value: Value = as_toml(settings)[name]
            if isinstance(value, list) and len(value) == 1:
                value = value[0]
            with _rewritten(self.path) as document:
                if name in ("pair", "target"):  # the next start refuses both
                    _put(document, "target" if name == "pair" else "pair", None)
                _put(document, name, value)
        return Changed(getattr(settings, name), self._remark(name))

    def write_models(self, settings: Settings) -> str:
        """Write the models of these settings; returns a remark as in `Changed`.

        Raises SettingsError if they cannot be written.
        """
        names = ("pair", "target", "draft")
        with _rewritten(self.path) as document:
            for name in names:
                _put(document, name, getattr(settings, name))
        return next(filter(None, map(self._remark, names)), "")

    def write_key(self, action: str, keys: tuple[str, ...] | None) -> str:
        """Write the keys of an action, None for its default; returns a remark as in `Changed`."""
        write_key(self.path, action, keys)
        return self._remark("keys")

    def _remark(self, name: str) -> str:
        above = above_file(name, self._flags)
        return f"{above} goes above it when it is given again" if above else ""


def write_setting(path: Path, name: str, value: Value) -> None:
    """Set a setting in a file, which is made if need be; None removes it.

    Raises SettingsError if the file is no TOML, or cannot be read or written.
    """
    with _rewritten(path) as document:
        _put(document, name, value)


def write_key(path: Path, action: str, keys: tuple[str, ...] | None) -> None:
    """Set the keys of an action in the table `[keys]`; otherwise as `write_setting`."""
    with _rewritten(path) as document:
        if not isinstance(document.get("keys"), MutableMapping):
            if keys is None:
                return
            document["keys"] = tomlkit.table()
        table: _Entries = document["keys"]
        context, _, rest = action.partition(".")
        inner = table.get(context)
        if isinstance(inner, MutableMapping):  # [keys.chat], or chat.tree without quotes
            inner.pop(rest, None)
            if not inner:
                del table[context]
        _put(table, action, None if keys is None else ", ".join(keys))


def _put(table: _Entries, name: str, value: Value) -> None:
    if value is None:
        table.pop(name, None)
    elif name in table or not isinstance(table, tomlkit.TOMLDocument):
        table[name] = value
    else:
        _put_before_tables(table, name, value)


def _put_before_tables(document: tomlkit.TOMLDocument, name: str, value: Value) -> None:
    """Add a line before the first table and its comment: behind them it would belong to it."""
    body = document.body
    at = next((at for at, (_, each) in enumerate(body) if isinstance(each, (Table, AoT))), None)
    if at is None:
        document[name] = value
        return
    while at > 0 and isinstance(body[at - 1][1], Comment):
        at -= 1
    if at > 0 and isinstance(body[at - 1][1], Whitespace):
        at -= 1
    body.insert(at, (tomlkit.key(name), tomlkit.item(value)))


@contextmanager
def _rewritten(path: Path) -> Iterator[tomlkit.TOMLDocument]:
    """The document of a file, which is replaced after the block; a symbolic link stays one."""
    path = path.resolve()
    try:
        text = read_text(path) if path.exists() else ""
        document = tomlkit.parse(text)
        yield document
        fresh = document.as_string()
        if fresh != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, fresh)
    except (TOMLKitError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: not valid TOML, so nothing was written: {error}") from None
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror or error}; nothing was written") from None
