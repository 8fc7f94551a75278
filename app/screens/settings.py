"""The settings screen: every setting, its value and where that comes from; changes are written."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from textual import on
from textual.content import Content
from textual.widgets import Input, OptionList
from typing_extensions import override

from sequoia_core.tree.choice import TreeChoice

from ..config.actions import Action, bindings
from ..config.keymap import key_name
from ..config.load import Loaded, Source
from ..config.model_choice import TreeRoom, shows_tree, tree_choice
from ..config.preferences import Preferences
from ..config.settings import SETTINGS, Group, Setting, Settings, shown
from ..engine.messages import ChooseTree, Request, SetSystem, Start
from ..state.chat_session import ChatSession
from ..state.sanitize import fit, one_line, visible
from ..ui.base_app import BaseApp, errors_shown
from .dialog import ChoiceScreen, Dialog, KeyScreen

_TYPING = "enter saves, empty: the default   esc cancels"
_NAME_CELLS = 20
_SOURCE_CELLS = 12
_KEY_NAME_CELLS = 24


@dataclass
class SettingsChanger:
    """Changes the settings of an open chat: engine, look and keys follow at once."""

    session: ChatSession
    app: BaseApp
    submit: Callable[[Request], None]
    restart: Callable[[Start], None]  # begins a new chat by a request
    changed: Callable[[], None]
    tree_room: Callable[[], TreeRoom]

    def __post_init__(self) -> None:
        self.key_problems = self._use_keys(self.settings.keys)
        self._shown: TreeChoice | None = None  # the engine's last choice in show mode

    @property
    def settings(self) -> Settings:
        return self.session.settings

    def check(self, name: str) -> None:
        """Raises `ChatError` if a change of a setting would disturb the running answer."""
        if SETTINGS[name].restarts:
            self.session.check_idle()

    def change(self, name: str, settings: Settings) -> None:
        """Use settings of which one was changed.

        Raises `SequoiaError` if it cannot be changed now, or names something that is not there.
        """
        self.check(name)
        if name == "theme":
            self.app.use_theme(settings.theme)
        elif name == "accessible":
            self.app.use_accessible(settings.accessible)
        elif name == "vim_keys":
            self.app.vim_keys = settings.vim_keys
        elif SETTINGS[name].group is Group.TREE:
            self.choose_tree(settings)
        elif name == "system" and settings.system != self.settings.system:
            self.restart(SetSystem(settings.system, self.settings.system))
        self.session.settings = settings
        self.changed()

    def fit_shown_tree(self) -> None:
        """In show mode, choose the tree by the panel and the temperature as they are now."""
        if shows_tree(self.settings):
            self.choose_tree(self.settings)

    def choose_tree(self, settings: Settings) -> None:
        """Let the next answer be decoded with the tree of these settings; raises `SequoiaError`."""
        choice = tree_choice(settings, self.tree_room())
        if choice.shown and choice == self._shown and self.session.tree is not None:
            return
        self._shown = choice if choice.shown else None
        self.submit(ChooseTree(choice))
        self.session.tree = None  # the known one is of the settings before

    def try_keys(self, wanted: Mapping[str, tuple[str, ...]]) -> Sequence[str]:
        """Use these keys by action; if there are new problems, return them and change nothing."""
        problems = self._use_keys(wanted)
        if set(problems) - set(self.key_problems):
            self._use_keys(self.settings.keys)
            return problems
        self.session.settings = replace(self.settings, keys=dict(wanted))
        return ()

    def _use_keys(self, wanted: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
        problems = self.app.use_keys(wanted)
        self.changed()
        return problems


class SettingsScreen(Dialog[None, Setting | Action | None]):
    """Shows and changes settings and keys, of the next start and of the chat, which goes on."""

    BINDINGS = bindings("settings")
    KEYS = (
        "settings.change change  settings.before settings.after other value  settings.default "
        "default  settings.close close"
    )

    def __init__(self, preferences: Preferences, changer: SettingsChanger) -> None:
        super().__init__("Settings", compact=True)
        self._preferences, self._changer = preferences, changer
        self._loaded: Loaded | None = None

    def on_mount(self) -> None:
        self._say(str(self._preferences.path))

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    def _show(self) -> None:
        self._loaded = None
        with errors_shown(self._say):
            self._loaded = self._preferences.load()
        at = self._list.highlighted
        self._fill(self._rows(), at if at is not None else 1)

    def _rows(self) -> Iterator[tuple[Setting | Action | None, Content]]:
        for group in Group:
            start = f", from the next {'answer' if group.live else 'start'} on"
            yield None, Content(group if group is Group.LOOKS else f"{group}{start}")
            for each in SETTINGS.values():
                if each.group is group:
                    value = one_line(shown(self._value(each))) or "-"
                    left = f"  {fit(each.name, _NAME_CELLS)}{value}"
                    yield each, self._row(left, self._source(each))
        yield None, Content("Keys")
        keys = self.app.keys
        for action in keys.actions.values():
            names = visible(keys.shown(action.id, most=None))
            left = f"  {fit(action.id, _KEY_NAME_CELLS)}{names}"
            yield action, self._row(left, "yours" if action.id in keys.changed else "")

    def _row(self, left: str, right: str) -> Content:
        cells = max(8, self._room - 3 - _SOURCE_CELLS)
        return Content.assemble(fit(left, cells), " ", (right.rjust(_SOURCE_CELLS), "$notice"))

    def _source(self, setting: Setting) -> str:
        if self._loaded is None:
            return ""
        if getattr(self._loaded.settings, setting.name) != self._value(setting):
            return Source.CHAT
        return self._loaded.sources.get(setting.name, Source.DEFAULT)

    def _value(self, setting: Setting) -> Any:
        if setting.group.live:
            return getattr(self._changer.settings, setting.name)
        return getattr(self._loaded.settings, setting.name) if self._loaded is not None else None

    @on(OptionList.OptionHighlighted)
    def _describe(self) -> None:
        item = self._chosen
        text = item.title if isinstance(item, Action) else item.help if item is not None else ""
        self._help.show(f" {text}")

    # Changing

    @on(OptionList.OptionSelected)
    def action_change(self) -> None:
        item = self._chosen
        if isinstance(item, Action):
            self.app.push_screen(KeyScreen(item), lambda key: self._take_key(item, key))
        elif item is not None and (choices := self._choices(item)):
            screen = ChoiceScreen(
                item, choices, shown(self._value(item)), lambda value: self._preview(item, value)
            )
            self.app.push_screen(screen, lambda value: self._choice_made(item, value))
        elif item is not None:
            self._ask(shown(self._value(item)), _TYPING)

    def _choices(self, setting: Setting) -> Sequence[str]:
        return sorted(self.app.own_themes) if setting.name == "theme" else setting.choices

    def _choice_made(self, setting: Setting, value: str | None) -> None:
        if value is None or not self._keep(setting, value):
            self._preview(setting, self._changer.settings.theme)

    def _preview(self, setting: Setting, value: str) -> None:
        if setting.name == "theme":
            self.app.theme = value

    def action_turn(self, by: int) -> None:
        """Take the value before (-1) or after (1) the one in use."""
        item = self._chosen
        if isinstance(item, Setting) and (choices := self._choices(item)):
            now = shown(self._value(item))
            at = choices.index(now) + by if now in choices else 0
            self._keep(item, choices[at % len(choices)])

    def action_default(self) -> None:
        item = self._chosen
        if isinstance(item, Action):
            self._take_key(item, ())
        elif item is not None:
            self._keep(item, "")

    @on(Input.Submitted)
    def _typed(self, message: Input.Submitted) -> None:
        item = self._chosen
        if self._typing and isinstance(item, Setting) and self._keep(item, message.value.strip()):
            self._end_asking()

    @override
    def action_leave(self) -> None:
        self._say(str(self._preferences.path))
        super().action_leave()

    def _keep(self, setting: Setting, text: str) -> bool:
        """Write a value and use it in the chat; whether that succeeded."""
        name = setting.name
        with errors_shown(lambda error: self._say(error.removeprefix(f"{setting.option}: "))):
            if setting.group.live:
                self._changer.check(name)
            changed = self._preferences.write(name, text)
            if setting.group.live:
                settings = replace(self._changer.settings, **{name: changed.value})
                self._changer.change(name, settings)
            self._say(changed.remark or f"{name}: {'written' if text else 'back to the default'}")
            self._show()
            return True
        return False

    def _take_key(self, action: Action, keys: tuple[str, ...] | None) -> None:
        if keys is None:
            return
        wanted = {**self._changer.settings.keys, action.id: keys}
        if not keys:
            del wanted[action.id]
        problems = self._changer.try_keys(wanted)
        mine = next((line for line in problems if action.id in line), None)
        if mine is not None:
            self._say(mine.removeprefix("keys: "))
            return
        with errors_shown(self._say):
            remark = self._preferences.write_key(action.id, keys or None)
            names = ", ".join(map(key_name, self.app.keys.of(action.id)))
            self._say(remark or f"{action.id} is {names}")
            self._show_keys()
            self._show()
