"""The frame of the screens over the chat, and the small ones that ask for a value or a key."""

from collections.abc import Callable, Sequence
from typing import ClassVar, TypeVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen, ScreenResultType
from textual.widget import Widget
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from ..config.actions import Action, bindings
from ..config.keymap import key_name
from ..config.settings import Setting
from ..state.sanitize import visible
from ..ui.base_app import BaseApp
from ..widgets.line import Line

_Item = TypeVar("_Item")


class Dialog(ModalScreen[ScreenResultType]):
    """A frame with a title and a message on its border.

    Args:
        title: on the border.
        parts: in the frame, from the top.
    """

    app: BaseApp
    DEFAULT_CSS = """
    Dialog {
        & > Vertical {
            max-width: 98%;
            height: auto;
            max-height: 94%;
            padding: 0 1;
            border: round $primary;
            border-title-color: $primary;
            border-subtitle-color: $bonus;
            background: $surface;
        }
        & OptionList {
            height: auto;
            max-height: 100%;
            min-height: 1;
            border: none !important;
            padding: 0;
            background: $surface;
            scrollbar-size-vertical: 1;
        }
        & Input { border: none !important; height: 1; padding: 0; background: $panel; }
        & Line { color: $notice; }
    }
    """

    def __init__(self, title: str, *parts: Widget) -> None:
        super().__init__()
        self._parts = parts
        self._frame = Vertical()
        self._frame.border_title = Content(title)

    def compose(self) -> ComposeResult:
        """The parts in their frame."""
        with self._frame:
            yield from self._parts

    def _say(self, text: str) -> None:
        self._frame.border_subtitle = Content(visible(text))


def highlighted(options: OptionList, items: Sequence[_Item]) -> _Item | None:
    """The item whose option is highlighted."""
    at = options.highlighted
    return items[at] if at is not None and at < len(items) else None


class ChoiceScreen(Dialog[str | None]):
    """The values of a setting; ends with the chosen one, or None.

    Args:
        setting: whose values they are.
        choices: the values.
        now: the one in use.
        preview: shows a value while it is highlighted.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("choice")
    DEFAULT_CSS = """
    ChoiceScreen {
        & > Vertical { width: 44; }
    }
    """

    def __init__(
        self,
        setting: Setting,
        choices: Sequence[str],
        now: str,
        preview: Callable[[str], None] | None = None,
    ) -> None:
        rows = (Option(Content(f" {each}")) for each in choices)
        self._list = OptionList(*rows, markup=False, compact=True)
        super().__init__(setting.name, self._list, Line(" enter keeps it   esc leaves it"))
        self._choices, self._now, self._preview = choices, now, preview

    def on_mount(self) -> None:
        """Begin at the value in use."""
        if self._now in self._choices:
            self._list.highlighted = self._choices.index(self._now)
        self._list.focus()

    @on(OptionList.OptionHighlighted)
    def _show(self, message: OptionList.OptionHighlighted) -> None:
        message.stop()
        if self._preview is not None:
            self._preview(self._choices[message.option_index])

    @on(OptionList.OptionSelected)
    def _take(self, message: OptionList.OptionSelected) -> None:
        message.stop()
        self.dismiss(self._choices[message.option_index])


class KeyScreen(Dialog[tuple[str, ...] | None]):
    """Waits for a key; ends with it, with no key for the default, or None.

    Args:
        action: what the key is for.
    """

    BINDINGS: ClassVar[list[BindingType]] = bindings("key")
    DEFAULT_CSS = "KeyScreen > Vertical { width: 64; }"

    def __init__(self, action: Action) -> None:
        super().__init__(
            action.id,
            Line(f" press the key for: {action.title.lower()}"),
            Line(f" now {', '.join(map(key_name, action.keys))}"),
            Line(" esc leaves it   backspace is the default"),
        )

    def action_default(self) -> None:
        """Take the keys that it has by default."""
        self.dismiss(())

    def on_key(self, event: events.Key) -> None:
        """Take the key."""
        event.stop()
        event.prevent_default()
        if event.key not in ("escape", "backspace"):
            self.dismiss((event.key,))
