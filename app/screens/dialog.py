"""The frames of the screens over the chat, and the small ones that ask for a value or a key."""

from collections.abc import Callable, Iterable, Sequence
from typing import Generic, TypeVar

from textual import events, on
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen, ScreenResultType
from textual.widgets import Input, OptionList
from textual.widgets.option_list import Option

from ..config.actions import Action, bindings
from ..config.keymap import key_name
from ..config.settings import Setting
from ..state.sanitize import visible
from ..ui.base_app import BaseApp
from ..widgets.line import Line

_Item = TypeVar("_Item")


class Dialog(ModalScreen[ScreenResultType], Generic[ScreenResultType, _Item]):
    """A frame with a list, a hidden line to type in, and one of keys; messages on its border."""

    app: BaseApp
    KEYS = ""  # ids of actions are shown as their keys

    def __init__(self, title: str, *, compact: bool = False, placeholder: str = "") -> None:
        super().__init__()
        self._list = OptionList(markup=False, compact=compact)
        self._input = Input(placeholder=placeholder, select_on_focus=False)
        self._help, self._keys = Line(id="item-help"), Line()
        self._items: list[_Item] = []
        self._typing = ""
        self._frame = Vertical(self._list, self._help, self._input, self._keys)
        self._frame.border_title = Content(title)

    def compose(self) -> ComposeResult:
        yield self._frame

    def _say(self, text: str) -> None:
        self._frame.border_subtitle = Content(visible(text))

    def on_resize(self) -> None:
        self._show_keys()

    def _show_keys(self) -> None:
        self._keys.show(self._typing or self.app.keys.shown(self.KEYS))

    @property
    def _room(self) -> int:
        return max(10, self._list.scrollable_content_region.width or self._frame.size.width - 2)

    @property
    def _chosen(self) -> _Item | None:
        at = self._list.highlighted
        return None if at is None else self._items[at]

    def _fill(self, rows: Iterable[tuple[_Item, Content]], at: int | None = 0) -> None:
        """List items, the one at an index chosen; a row for None cannot be."""
        rows = list(rows)
        self._items = [item for item, _ in rows]
        self._list.set_options(Option(row, disabled=item is None) for item, row in rows)
        self._list.highlighted = at

    def _ask(self, text: str, keys: str) -> None:
        self._input.value = text
        self._input.action_end()
        self._input.display = True
        self._typing = keys
        self._show_keys()
        self._input.focus()

    def _end_asking(self) -> None:
        self._input.display = False
        self._typing = ""
        self._show_keys()
        self._list.focus()

    def action_leave(self) -> None:
        if self._typing:
            self._end_asking()
        else:
            self.dismiss(None)


class FilterDialog(Dialog[ScreenResultType, _Item]):
    """What is typed filters the list; the line to type in keeps the focus."""

    def __init__(self, title: str, *, placeholder: str) -> None:
        super().__init__(title, placeholder=placeholder)
        self._list.can_focus = False

    def on_key(self, event: events.Key) -> None:
        """Take what is typed before the line has the focus."""
        if event.is_printable and event.character:
            event.stop()
            self._input.value += event.character
            self._input.cursor_position = len(self._input.value)

    def action_move(self, how: str) -> None:
        """Move in the list."""
        getattr(self._list, f"action_{how}")()


class ChoiceScreen(Dialog[str | None, str]):
    """The values of a setting, previewed when highlighted; ends with the chosen one or None."""

    BINDINGS = bindings("choice")
    KEYS = " enter saves   esc cancels"

    def __init__(
        self, setting: Setting, choices: Sequence[str], now: str, preview: Callable[[str], None]
    ) -> None:
        super().__init__(setting.name, compact=True)
        self._choices, self._now, self._preview = choices, now, preview

    def on_mount(self) -> None:
        at = self._choices.index(self._now) if self._now in self._choices else None
        self._fill(((each, Content(f" {each}")) for each in self._choices), at)

    @on(OptionList.OptionHighlighted)
    def _show(self, message: OptionList.OptionHighlighted) -> None:
        self._preview(self._choices[message.option_index])

    @on(OptionList.OptionSelected)
    def _take(self, message: OptionList.OptionSelected) -> None:
        self.dismiss(self._choices[message.option_index])


class KeyScreen(Dialog[tuple[str, ...] | None, None]):
    """Waits for a key for an action; ends with it, with no key for the default, or None."""

    AUTO_FOCUS = ""  # the hidden input would take letters
    BINDINGS = bindings("key")
    KEYS = " esc cancels   backspace is the default"

    def __init__(self, action: Action) -> None:
        super().__init__(action.id, compact=True)
        self._list.can_focus = False
        self._action = action

    def on_mount(self) -> None:
        names = ", ".join(map(key_name, self._action.keys))
        lines = (f" press the key for: {self._action.title.lower()}", f" now {names}")
        self._fill(((None, Content(line)) for line in lines), at=None)

    def action_default(self) -> None:
        self.dismiss(())

    def on_key(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
        self.dismiss((event.key,))
