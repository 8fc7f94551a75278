"""The settings screen: every setting, its value and where that comes from; changes are written."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from textual import on
from textual.binding import BindingType
from textual.content import Content
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from sequoia_core.errors import SequoiaError

from ..config.actions import Action, bindings
from ..config.keymap import key_name
from ..config.load import Loaded, Source
from ..config.preferences import Preferences
from ..config.settings import SETTINGS, Group, Setting, shown
from ..state.sanitize import fit, visible
from ..widgets.line import Line
from .chat.apply_settings import SettingsChanger
from .dialog import ChoiceScreen, Dialog, KeyScreen, highlighted

_KEYS = (
    "settings.change change  settings.before settings.after turn  settings.default default  "
    "settings.close close"
)
_TYPING = "enter keeps it, empty: the default   esc leaves it"
_NAME_CELLS = 20
_SOURCE_CELLS = 12
_KEY_NAME_CELLS = 24


class SettingsScreen(Dialog[None]):
    """Shows and changes settings and keys over the chat, which goes on.

    Args:
        preferences: the settings of the next start, and where they are written.
        changer: the settings of the chat.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("settings")
    DEFAULT_CSS = """
    SettingsScreen {
        & > Vertical { width: 104; height: 94%; }
        & OptionList { height: 1fr; }
        & OptionList > .option-list--option-disabled { color: $primary; text-style: bold; }
        & Input { display: none; }
    }
    """

    def __init__(self, preferences: Preferences, changer: SettingsChanger) -> None:
        self._list = OptionList(markup=False, compact=True)
        self._help = Line()
        self._input = Input(select_on_focus=False)
        self._keys = Line()
        super().__init__("Settings", self._list, self._help, self._input, self._keys)
        self._preferences, self._changer = preferences, changer
        self._loaded: Loaded | None = None
        self._items: list[Setting | Action | None] = []

    def on_mount(self) -> None:
        """Read everything."""
        self._say(str(self._preferences.path))
        self._keys.show(self.app.keys.shown(_KEYS))
        self._list.focus()
        self.call_after_refresh(self._show)

    def on_resize(self) -> None:
        """Cut the values to the width."""
        self.call_after_refresh(self._show)

    def _show(self) -> None:
        try:
            self._loaded = self._preferences.load()
        except SequoiaError as error:
            self._loaded = None
            self._say(str(error))
        at = self._list.highlighted
        rows = self._rows()
        self._items = [item for item, _ in rows]
        self._list.clear_options()
        self._list.add_options(Option(row, disabled=item is None) for item, row in rows)
        self._list.highlighted = at if at is not None else 1

    def _rows(self) -> list[tuple[Setting | Action | None, Content]]:
        room = max(20, self._list.scrollable_content_region.width - 2)
        rows: list[tuple[Setting | Action | None, Content]] = []
        for group in Group:
            rows.append((None, Content(_heading(group))))
            rows += [
                (each, self._setting(each, room))
                for each in SETTINGS.values()
                if each.group is group
            ]
        rows.append((None, Content("Keys")))
        keys = self.app.keys
        for action in keys.actions.values():
            names = keys.shown(action.id, every=True)
            mark = "yours" if action.id in keys.changed else ""
            left = f"  {fit(action.id, _KEY_NAME_CELLS)}{visible(names)}"
            rows.append((action, _row(left, mark, room)))
        return rows

    def _setting(self, setting: Setting, room: int) -> Content:
        value = visible(shown(self._value(setting))).replace("\n", " ") or "-"
        return _row(f"  {fit(setting.name, _NAME_CELLS)}{value}", self._source(setting), room)

    def _source(self, setting: Setting) -> str:
        if self._loaded is None:
            return ""
        loaded, name = self._loaded, setting.name
        if getattr(loaded.settings, name) != self._value(setting):
            return Source.CHAT
        return loaded.sources.get(name, Source.DEFAULT)

    def _value(self, setting: Setting) -> Any:
        if setting.group.live:
            return getattr(self._changer.settings, setting.name)
        return getattr(self._loaded.settings, setting.name) if self._loaded is not None else None

    @on(OptionList.OptionHighlighted)
    def _tell(self) -> None:
        item = highlighted(self._list, self._items)
        text = item.title if isinstance(item, Action) else item.help if item is not None else ""
        self._help.show(f" {text}")

    # Changing

    @on(OptionList.OptionSelected)
    def _selected(self, message: OptionList.OptionSelected) -> None:
        message.stop()
        self.action_change()

    def action_change(self) -> None:
        """Ask for another value, or key."""
        item = highlighted(self._list, self._items)
        if isinstance(item, Action):
            self.app.push_screen(KeyScreen(item), lambda key: self._take_key(item, key))
        elif item is not None and self._choices(item):
            self._choose(item)
        elif item is not None:
            self._input.value = shown(self._value(item))
            self._input.cursor_position = len(self._input.value)
            self._input.display = True
            self._keys.show(_TYPING)
            self._input.focus()

    def _choices(self, setting: Setting) -> Sequence[str]:
        return sorted(self.app.own_themes) if setting.name == "theme" else setting.choices

    def _choose(self, setting: Setting) -> None:
        preview = self._preview if setting.name == "theme" else None
        now = shown(self._value(setting))
        screen = ChoiceScreen(setting, self._choices(setting), now, preview)
        self.app.push_screen(screen, lambda value: self._chosen(setting, value))

    def _chosen(self, setting: Setting, value: str | None) -> None:
        kept = value is not None and self._keep(setting, value)
        if not kept and setting.name == "theme":
            self._preview(self._changer.settings.theme)

    def _preview(self, theme: str) -> None:
        self.app.theme = theme

    def action_turn(self, by: int) -> None:
        """Take the value before (-1) or after (1) the one in use."""
        item = highlighted(self._list, self._items)
        if isinstance(item, Setting) and (choices := self._choices(item)):
            now = shown(self._value(item))
            at = choices.index(now) + by if now in choices else 0
            self._keep(item, choices[at % len(choices)])

    def action_default(self) -> None:
        """Go back to the default."""
        item = highlighted(self._list, self._items)
        if isinstance(item, Action):
            self._take_key(item, ())
        elif item is not None:
            self._keep(item, "")

    @on(Input.Submitted)
    def _typed(self, message: Input.Submitted) -> None:
        message.stop()
        item = highlighted(self._list, self._items)
        if isinstance(item, Setting) and self._keep(item, message.value.strip()):
            self._end_typing()

    def action_leave(self) -> None:
        """Leave the typing, or the screen."""
        if self._input.display:
            self._end_typing()
            self._say(str(self._preferences.path))
        else:
            self.dismiss(None)

    def _end_typing(self) -> None:
        self._input.display = False
        self._keys.show(self.app.keys.shown(_KEYS))
        self._list.focus()

    def _keep(self, setting: Setting, text: str) -> bool:
        """Write a value and use it in the chat; whether that succeeded."""
        try:
            if setting.group.live:
                self._changer.check(setting.name)
            changed = self._preferences.write(setting.name, text)
            if setting.group.live:
                self._changer.change(
                    setting.name, replace(self._changer.settings, **{setting.name: changed.value})
                )
        except SequoiaError as error:
            self._say(str(error).removeprefix(f"{setting.option}: "))
            return False
        self._say(
            changed.remark or f"{setting.name}: {'written' if text else 'back to the default'}"
        )
        self._show()
        return True

    def _take_key(self, action: Action, keys: tuple[str, ...] | None) -> None:
        if keys is None:
            return
        wanted = dict(self._changer.settings.keys)
        wanted.pop(action.id, None)
        if keys:
            wanted[action.id] = keys
        problems = self._changer.try_keys(wanted)
        mine = next((line for line in problems if action.id in line), None)
        if mine is not None:
            self._say(mine.removeprefix("keys: "))
            return
        try:
            remark = self._preferences.write_key(action.id, keys or None)
        except SequoiaError as error:
            self._say(str(error))
            return
        names = ", ".join(map(key_name, self.app.keys.of(action.id)))
        self._say(remark or f"{action.id} is {names}")
        self._keys.show(self.app.keys.shown(_KEYS))
        self._show()


def _heading(group: Group) -> str:
    """A group and when a change in it applies; the looks change at once."""
    if group is Group.LOOKS:
        return group
    return f"{group}, from the next {'answer' if group.live else 'start'} on"


def _row(left: str, right: str, room: int) -> Content:
    """A line with a remark at its end."""
    cells = max(8, room - _SOURCE_CELLS - 1)
    return Content.assemble(fit(left, cells), " ", (right.rjust(_SOURCE_CELLS), "$notice"))
