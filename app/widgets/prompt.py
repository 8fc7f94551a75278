"""The prompt: many lines, history, and keys that act on the steps while it is empty.

Knows nothing of what becomes of its text: it posts it and shows hints it is given. Keys that are
not for the text are actions of the screen it is on.
"""

from typing import ClassVar

from rich.cells import cell_len
from textual import events, on
from textual.binding import Binding, BindingType
from textual.content import Content
from textual.message import Message
from textual.strip import Strip
from textual.widgets import TextArea

from ..config.keymap import Keys
from ..state.sanitize import visible

MOST_PASTED = 1_000_000
"""Characters; more are no message, and each key behind them would take seconds."""
_FENCE = '"""'
_WALKS = {
    "chat.step_before": "back",
    "chat.step_after": "forward",
    "chat.first_step": "first",
    "chat.live": "live",
}
_STEPS = ("chat.step_before", "chat.step_after")
_ACTS = {
    "enter": "prompt.send",
    "shift+enter": "prompt.new_line",
    "ctrl+j": "prompt.new_line",
    "newline": "prompt.new_line",
    "alt+enter": "prompt.new_line",
    "space": "chat.step",
    "left": "chat.step_before",
    "left_square_bracket": "chat.step_before",
    "right": "chat.step_after",
    "right_square_bracket": "chat.step_after",
    "home": "chat.first_step",
    "end": "chat.live",
    "ctrl+d": "chat.leave",
}
"""What keys do here, as long as nobody changed them."""
_WALKING = "chat.step_before, chat.first_step walk; this key writes here"
_BORDER = 2
"""Cells of the border next to what is written on it."""
_PAGE_KEYS = {"pageup": -1, "pagedown": 1}
# As bindings these would run after the characters typed behind them, when keys come in a burst.
# Copying stays a binding: with nothing selected here, it copies what is selected in the chat.
_EDITS = {
    key: binding.action
    for binding in TextArea.BINDINGS
    if isinstance(binding, Binding) and binding.action != "copy"
    for key in binding.key.split(",")
}


class Prompt(TextArea):
    """A text area that sends on Enter.

    Attributes:
        steps_on_space: Space in the empty prompt asks for one step; set while paused.
        walks: keys in the empty prompt walk through the steps; set while there are steps.
        held: an earlier step is on show, or the decoding is paused: keys that write walk too.
        edits: it holds an earlier message: Up and Down choose another one.
    """

    TITLE: ClassVar[str] = "ask something"
    SENDING: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", id="prompt.send"),
        Binding("shift+enter,ctrl+j,newline,alt+enter", "new_line", "New line",
                id="prompt.new_line"),
    ]  # fmt: skip
    """Declared to be changed; why these are no bindings says `_EDITS`."""
    steps_on_space = False
    walks = False
    held = False
    edits = False

    class Submitted(Message):
        """Enter was pressed; the text is still in the prompt.

        Attributes:
            text: what to send.
            typed: the prompt's whole text, for `accept`.
        """

        def __init__(self, text: str, typed: str) -> None:
            super().__init__()
            self.text = text
            self.typed = typed

    class HintCut(Message):
        """A hint is too long for the border.

        Attributes:
            text: the whole hint.
        """

        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self) -> None:
        super().__init__(id="prompt", compact=True, highlight_cursor_line=False)
        self.placeholder = "type a message, or /? for help"
        self._history: list[str] = []
        self._at = 0
        self._draft = ""
        self._lines = 1
        self._acts = _ACTS
        self._keys = Keys()
        self._stepping = False

    def use_keys(self, keys: Keys) -> None:
        """Follow the keys that a person chose."""
        self._keys = keys
        self._acts = keys.by_key(dict.fromkeys(_ACTS.values()))

    def on_mount(self) -> None:
        """A steady cursor: a blinking one repaints while nothing happens."""
        self.cursor_blink = False
        self.retitle(self.TITLE)

    def render_line(self, y: int) -> Strip:
        """One line; the base class cannot wrap its placeholder into no room at all."""
        return super().render_line(y) if self.content_size.width > 0 else Strip.blank(0)

    def retitle(self, title: str) -> None:
        """Say on the border what the text is for."""
        self.border_title = Content(f"> {title}")

    def put(self, text: str) -> None:
        """Hold another text, with the cursor at its end."""
        self.text = text
        self._at = len(self._history)
        self.move_cursor(self.document.end)

    def write(self, text: str) -> None:
        """As if it were typed: what is selected gives way, and so does the hint."""
        self.hint("")
        self.replace(text, *self.selection, maintain_selection_offset=False)

    def hint(self, text: str, *, passing: bool = False) -> None:
        """Show a line on the border until the next key.

        Args:
            text: the line; `HintCut` is posted where the border is too short for it.
            passing: another one follows, so that it may be cut.
        """
        if not passing and cell_len(visible(text)) > max(0, self.size.width - _BORDER):
            self.post_message(self.HintCut(text))
        self.border_subtitle = Content(visible(text)) if text else None
        self.set_class(bool(text), "-hinted")  # where there is no border, it gets one

    @on(TextArea.Changed)
    def _grow(self) -> None:
        """Be as high as the wrapped text; the base class does not shrink by itself."""
        if self._lines != self.wrapped_document.height:
            self._lines = self.wrapped_document.height
            self.refresh(layout=True)

    def on_resize(self) -> None:
        """Another width wraps otherwise."""
        self.call_after_refresh(self._grow)

    def accept(self, typed: str) -> None:
        """Remember what was typed as history and take it out; what was typed since stays."""
        if typed.strip() and (not self._history or self._history[-1] != typed):
            self._history.append(typed)
        self._at = len(self._history)
        self._draft = ""
        self.text = self.text.removeprefix(typed)
        self.move_cursor(self.document.end)

    async def take_early(self, event: events.Key) -> None:
        """Send, or begin a line, by a key that was pressed before this had the focus."""
        if self._acts.get(event.key) in ("prompt.send", "prompt.new_line"):
            await self._on_key(event)

    async def _on_key(self, event: events.Key) -> None:
        if self.border_subtitle:
            self.hint("")
        act = self._acts.get(event.key)
        action = self._meant(event)
        self._stepping = bool(action) and act in _STEPS
        if act == "prompt.send":
            self._consume(event)
            self._enter()
        elif act == "prompt.new_line":
            self._consume(event)
            self.insert("\n")
        elif action:
            self._consume(event)
            await self.run_action(action)
        elif event.key in _EDITS:
            self._consume(event)
            await self.run_action(_EDITS[event.key])
        else:
            wrote = not self.text and self.walks and act in _WALKS
            await super()._on_key(event)
            if wrote:
                self.hint(self._keys.shown(_WALKING))

    def _meant(self, event: events.Key) -> str:
        """The action that a key is for, here and now; "" where it writes or moves the cursor."""
        key = event.key
        if key in _PAGE_KEYS:
            return f"screen.page({_PAGE_KEYS[key]})"
        if self.edits and key == "up" and self.cursor_at_first_line:
            return "screen.branch('edit')"
        if self.edits and key == "down" and self.cursor_at_last_line:
            return "screen.branch('later')"
        if self.text:
            return ""
        act = self._acts.get(key)
        if act == "chat.step" and self.steps_on_space:
            return "screen.single_step"
        if act in _WALKS and self.walks and not self._writes(act, event):
            return f"screen.walk('{_WALKS[act]}')"
        return "app.quit" if act == "chat.leave" else ""

    def _writes(self, act: str, event: events.Key) -> bool:
        """Whether a key that would walk writes: a message may begin with it.

        It walks where a person chose it for that, and on from a step that it led to: pressed once
        too often at the newest one, it leaves nothing in the prompt.
        """
        walks = self.held or self._stepping or act in self._keys.changed
        return event.is_printable and not walks

    async def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()
        text = event.text.replace("\r\n", "\n").replace("\r", "\n")
        if len(text) > MOST_PASTED:
            self.hint(f"{len(text):,} characters: the prompt takes {MOST_PASTED:,} at once")
        else:
            self.write(visible(text))

    def action_cursor_up(self, select: bool = False) -> None:
        """Up on the first line is the message before."""
        if self.cursor_at_first_line and not select and self._history and self._at > 0:
            if self._at == len(self._history):
                self._draft = self.text
            self._recall(self._at - 1)
        else:
            super().action_cursor_up(select)

    def action_cursor_down(self, select: bool = False) -> None:
        """Down on the last line is the message after."""
        if self.cursor_at_last_line and not select and self._at < len(self._history):
            self._recall(self._at + 1)
        else:
            super().action_cursor_down(select)

    def _recall(self, at: int) -> None:
        self._at = at
        self.text = self._history[at] if at < len(self._history) else self._draft
        self.move_cursor(self.document.end)

    def _enter(self) -> None:
        text = self.text
        if text.lstrip().startswith(_FENCE):
            body = text.lstrip()[len(_FENCE) :]
            if _FENCE not in body:
                self.insert("\n")
                self.hint(f"{_FENCE} ends the block")
                return
            text = body.replace(_FENCE, "", 1)
        self.post_message(self.Submitted(text, self.text))

    def _consume(self, event: events.Key) -> None:
        event.stop()
        event.prevent_default()
