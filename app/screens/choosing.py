"""What the settings screen asks with: a list of values, or the next key.

Owns the frame that all of them share. What becomes of the answer is the settings screen's.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

from textual import events, on
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Vertical
from textual.content import Content
from textual.screen import ModalScreen
from textual.widgets import OptionList
from textual.widgets.option_list import Option

from ..config.keymap import Action, key_name
from ..config.settings import Setting
from ..widgets.line import Line

FRAME = """
    {screen} {{
        & > Vertical {{
            width: {width};
            max-width: 98%;
            height: {height};
            max-height: 94%;
            padding: 0 1;
            border: round $primary;
            border-title-color: $primary;
            border-subtitle-color: $bonus;
            background: $surface;
        }}
        & OptionList {{
            height: {list_height};
            max-height: 100%;
            min-height: 1;
            border: none !important;
            padding: 0;
            background: $surface;
            scrollbar-size-vertical: 1;
        }}
        & OptionList > .option-list--option-highlighted {{
            background: $primary 25%;
            text-style: bold;
        }}
        & OptionList > .option-list--option-disabled {{ color: $primary; text-style: bold; }}
        & Input {{
            border: none !important;
            height: 1;
            padding: 0;
            display: none;
            background: $panel;
        }}
        & Line {{ color: $notice; }}
    }}
"""
"""Of a screen over the chat; the names in braces are filled in."""


class ChoiceScreen(ModalScreen[str | None]):
    """The values of a setting; ends with the chosen one, or None.

    Args:
        setting: whose values they are.
        choices: the values.
        now: the one in use.
        preview: shows a value while it is highlighted.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Leave it", show=False, id="choice.close")
    ]
    DEFAULT_CSS = FRAME.format(screen="ChoiceScreen", width=44, height="auto", list_height="auto")

    def __init__(
        self,
        setting: Setting,
        choices: Sequence[str],
        now: str,
        preview: Callable[[str], None] | None = None,
    ) -> None:
        super().__init__()
        self._setting, self._choices, self._now, self._preview = setting, choices, now, preview
        rows = (Option(Content(f" {each}")) for each in choices)
        self._list = OptionList(*rows, markup=False, compact=True)

    def compose(self) -> ComposeResult:
        """One list."""
        with Vertical() as frame:
            frame.border_title = Content(self._setting.name)
            yield self._list
            yield Line(" enter keeps it   esc leaves it")

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


class KeyScreen(ModalScreen[tuple[str, ...] | None]):
    """Waits for a key; ends with it, with none for the default, or None.

    Args:
        action: what the key is for.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("escape", "dismiss(None)", "Leave it", show=False, priority=True, id="key.close"),
        Binding("backspace", "default", "The default", show=False, priority=True, id="key.default"),
    ]
    DEFAULT_CSS = FRAME.format(screen="KeyScreen", width=64, height="auto", list_height="auto")

    def __init__(self, action: Action) -> None:
        super().__init__()
        self._action = action

    def compose(self) -> ComposeResult:
        """What is waited for."""
        now = ", ".join(map(key_name, self._action.keys))
        with Vertical() as frame:
            frame.border_title = Content(self._action.id)
            yield Line(f" press the key for: {self._action.told.lower()}")
            yield Line(f" now {now}")
            yield Line(" esc leaves it   backspace is the default")

    def action_default(self) -> None:
        """The keys that it has by default."""
        self.dismiss(())

    def on_key(self, event: events.Key) -> None:
        """The key."""
        event.stop()
        event.prevent_default()
        if event.key not in ("escape", "backspace"):
            self.dismiss((event.key,))
