"""The prompt: several lines, history, hints, and keys that act on the steps while it is empty."""

from dataclasses import dataclass
from typing import ClassVar

from rich.cells import cell_len
from textual import events, on
from textual.binding import Binding
from textual.content import Content
from textual.message import Message
from textual.strip import Strip
from textual.widgets import TextArea
from typing_extensions import override

from ..config.keymap import Keys
from ..state.sanitize import visible

MOST_PASTED = 1_000_000  # characters; after more, each key would take seconds
_FENCE = '"""'
_STEPS = {"chat.step_before": "back", "chat.step_after": "forward"}
_WALKS = {**_STEPS, "chat.first_step": "first", "chat.live": "live"}
_WRITES = {"prompt.send": "send", "prompt.new_line": "new_line"}
_ACTIONS = (*_WRITES, "chat.step", *_WALKS, "chat.leave", "chat.explain")  # what keys do here
_WALKING = "this key types; chat.step_before, chat.first_step go through the steps"
_BORDER = 2  # cells of the border next to a hint
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
    TITLE: ClassVar[str] = "ask something"
    steps_on_space = False  # in the empty prompt it runs one step; set while paused
    walks = False  # keys in the empty prompt walk through the steps; set while there are steps
    held = False  # an earlier step is on show, or decoding is paused: printable keys walk too
    edits = False  # it holds an earlier message: Up and Down choose another one

    @dataclass
    class Submitted(Message):
        """The text is sent; `typed`, the prompt's whole text, stays in it until `accept`."""

        text: str
        typed: str

    @dataclass
    class HintCut(Message):
        """A hint is too long for the border."""

        text: str

    def __init__(self) -> None:
        super().__init__(id="prompt", compact=True, highlight_cursor_line=False)
        self.placeholder = "type a message, or ? to see what is on the screen"
        self._history: list[str] = []
        self._at = 0
        self._draft = ""
        self._lines = 1
        self.keys = Keys()
        self._actions: dict[str, str] = {}
        self._stepping = False
        self._hint = self._standing = ""

    def use_keys(self, keys: Keys) -> None:
        self.keys = keys
        self._actions = keys.by_key(_ACTIONS)

    def on_mount(self) -> None:
        self.cursor_blink = False  # it would repaint while nothing happens
        self.retitle(self.TITLE)

    @override
    def render_line(self, y: int) -> Strip:
        # The base class cannot wrap its placeholder into no room at all.
        return super().render_line(y) if self.content_size.width > 0 else Strip.blank(0)

    def retitle(self, title: str) -> None:
        """Write on the border what the text is for."""
        self.border_title = Content(f"> {title}")

    def hint(self, text: str, *, passing: bool = False) -> None:
        """Show a line, in which ids of actions become their keys, on the border until the next key.

        A `passing` one may be cut, since another follows soon.
        """
        text = self.keys.shown(text)
        if not passing and cell_len(visible(text)) > max(0, self.size.width - _BORDER):
            self.post_message(self.HintCut(text))
        self._hint = text
        self._show_hint()

    def stand(self, text: str) -> None:
        """Show a line on the border whenever there is no hint; it may be cut."""
        if text != self._standing:
            self._standing = text
            self._show_hint()

    def _show_hint(self) -> None:
        shown, style = (self._hint, "") if self._hint else (self._standing, "$warning")
        self.border_subtitle = Content.styled(visible(shown), style) if shown else None
        self.set_class(bool(shown), "-hinted")  # where there is no border, it gets one

    def put(self, text: str) -> None:
        """Hold another text, with the cursor at its end."""
        self._at = len(self._history)
        self._replace(text)

    def write(self, text: str) -> None:
        """Insert text as if it were typed."""
        self.hint("")
        self.replace(text, *self.selection, maintain_selection_offset=False)

    def accept(self, typed: str) -> None:
        """Move sent text into the history; what was typed since stays."""
        if typed.strip() and self._history[-1:] != [typed]:
            self._history.append(typed)
        self._draft = ""
        self.put(self.text.removeprefix(typed))

    def _replace(self, text: str) -> None:
        self.text = text
        self.move_cursor(self.document.end)

    @on(TextArea.Changed)
    def _grow(self) -> None:
        """Be as high as the wrapped text; the base class does not shrink by itself."""
        if self._lines != self.wrapped_document.height:
            self._lines = self.wrapped_document.height
            self.refresh(layout=True)

    def on_resize(self) -> None:
        self.call_after_refresh(self._grow)

    async def _on_paste(self, event: events.Paste) -> None:
        event.stop()
        event.prevent_default()
        text = event.text.replace("\r\n", "\n").replace("\r", "\n")
        if len(text) > MOST_PASTED:
            self.hint(f"{len(text):,} characters: the prompt takes {MOST_PASTED:,} at once")
        else:
            self.write(visible(text))

    @override
    def action_cursor_up(self, select: bool = False) -> None:
        if self.cursor_at_first_line and not select and self._at > 0:
            if self._at == len(self._history):
                self._draft = self.text
            self._recall(self._at - 1)
        else:
            super().action_cursor_up(select)

    @override
    def action_cursor_down(self, select: bool = False) -> None:
        if self.cursor_at_last_line and not select and self._at < len(self._history):
            self._recall(self._at + 1)
        else:
            super().action_cursor_down(select)

    def _recall(self, at: int) -> None:
        self._at = at
        self._replace([*self._history, self._draft][at])

    async def take_early(self, event: events.Key) -> None:
        """Send or begin a line by a key that was pressed before this had the focus."""
        if self._actions.get(event.key) in _WRITES:
            await self._on_key(event)

    async def _on_key(self, event: events.Key) -> None:
        if self._hint:
            self.hint("")
        name = self._actions.get(event.key, "")
        action = self._action_of(event, name) or _EDITS.get(event.key, "")
        self._stepping = name in _STEPS and action.startswith("screen.walk")
        if action:
            event.stop()
            event.prevent_default()
            await self.run_action(action)
            return
        walked_once = not self.text and self.walks and name in _WALKS
        await super()._on_key(event)
        if walked_once:
            self.hint(_WALKING)

    def _action_of(self, event: events.Key, name: str) -> str:
        """The action that a key runs now; "" where it writes or moves the cursor."""
        key = event.key
        if name in _WRITES:
            return _WRITES[name]
        if key in _PAGE_KEYS:
            return f"screen.page({_PAGE_KEYS[key]})"
        if self.edits and key == "up" and self.cursor_at_first_line:
            return "screen.branch('edit')"
        if self.edits and key == "down" and self.cursor_at_last_line:
            return "screen.branch('later')"
        if self.text:
            return ""
        if name == "chat.step" and self.steps_on_space:
            return "screen.single_step"
        if name in _WALKS and self.walks:
            # A message may begin with a printable key. It walks if a person chose it for that, and
            # on from a step that it led to: pressed once too often, it leaves nothing behind.
            walks_on = self.held or self._stepping or name in self.keys.changed
            if walks_on or not event.is_printable:
                return f"screen.walk('{_WALKS[name]}')"
        return {"chat.leave": "app.quit", "chat.explain": "screen.explain_screen"}.get(name, "")

    def action_new_line(self) -> None:
        self.insert("\n")

    def action_send(self) -> None:
        text = self.text
        if text.lstrip().startswith(_FENCE):
            body = text.lstrip().removeprefix(_FENCE)
            if _FENCE not in body:
                self.insert("\n")
                self.hint(f"{_FENCE} ends the block")
                return
            text = body.replace(_FENCE, "", 1)
        self.post_message(self.Submitted(text, self.text))
