"""The prompt: several lines, history, hints, and keys that act on the steps while it is empty."""

from collections.abc import Callable, Collection, Sequence
from typing import ClassVar

from rich.cells import cell_len
from rich.text import Text
from textual import events, on
from textual.binding import Binding
from textual.content import Content
from textual.document._document import EditResult, Location, Selection
from textual.document._edit import Edit
from textual.strip import Strip
from textual.widgets import TextArea
from typing_extensions import override

from ..config.keymap import Keys
from ..state.attachments import MOST_LINES, Folds, as_shown, refused_paste
from ..state.sanitize import visible
from ..state.slash_commands import is_command
from .completions import Completions

MOST_PASTED = 1_000_000  # characters; after more, each key would take seconds
_FENCE = '"""'
_STEPS = {"chat.step_before": "back", "chat.step_after": "forward"}
_WALKS = {**_STEPS, "chat.first_step": "first", "chat.live": "live"}
_WRITES = {"prompt.send": "send", "prompt.new_line": "new_line"}
_ACTIONS = (*_WRITES, "chat.step", *_WALKS, "chat.leave", "chat.explain")  # what keys do here
_PLACEHOLDER = "type a message, or chat.explain to see what is on the screen"
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
    COMPONENT_CLASSES: ClassVar[set[str]] = {"prompt--fold"}
    TITLE: ClassVar[str] = "ask something"
    steps_on_space = False  # in the empty prompt it runs one step; set while paused
    walks = False  # keys in the empty prompt walk through the steps; set while there are steps
    held = False  # an earlier step is on show, or decoding is paused: printable keys walk too
    edits = False  # it holds an earlier message: Up and Down choose another one
    literal = False  # what it holds is sent as it is: no command, no block

    def __init__(self, submit: Callable[[str, str, bool], None]) -> None:
        """`submit` gets a text, what was typed for it, and whether it is a command.

        What was typed stays until `accept`. This is a call and no message: the keys after Enter in
        a burst come before a message, and their text would be sent with it.
        """
        super().__init__(id="prompt", compact=True, highlight_cursor_line=False)
        self._submit = submit
        self._history: list[str] = []
        self._at = 0
        self._draft = ""
        self._lines = 1
        self.keys = Keys()
        self._actions: dict[str, str] = {}
        self._stepping = False
        self._hint = self._standing = ""
        self.folds = Folds()
        self.elsewhere: Callable[[], Collection[str]] = tuple  # texts that may come back here
        self.completions = Completions(self)  # above it
        self._lasting = False  # the hint stays until the next key

    def use_keys(self, keys: Keys) -> None:
        self.keys = keys
        self._actions = keys.by_key(_ACTIONS)
        self.placeholder = keys.shown(_PLACEHOLDER)

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

        One that is too long for the border is shown above it as well. A `passing` one replaces no
        other and may be cut, since another follows soon.
        """
        if passing and self._lasting:
            return
        self._lasting = bool(text) and not passing
        text = self.keys.shown(text)
        cut = not passing and cell_len(visible(text)) > max(0, self.size.width - _BORDER)
        self.completions.say(visible(text) if cut else "")
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

    @property
    def whole(self) -> str:
        """The text with what is folded in it."""
        return self.folds.whole(self.text)

    def put(self, text: str, *, literal: bool = False) -> None:
        """Hold another text, with the cursor at its end; long parts of it are folded."""
        self.literal = literal
        self.completions.commands = not literal
        self._at = len(self._history)
        self._replace(self.folds.folded(text))

    def write(self, text: str) -> None:
        """Insert text as if it were typed."""
        self.hint("")
        self.replace(text, *self.selection, maintain_selection_offset=False)
        self.completions.typed(opens=len(text) == 1)

    def accept(self, typed: str) -> None:
        """Move sent text into the history; what was typed since stays."""
        if typed.strip() and self._history[-1:] != [typed]:
            self._history.append(typed)
        self._draft = ""
        self._at = len(self._history)
        self._replace(self.text.removeprefix(typed))

    def _replace(self, text: str) -> None:
        self.completions.close()
        self.text = text  # there is nothing to undo any more
        self.move_cursor(self.document.end)
        self.folds.keep_only([text, self._draft, *self._history, *self.elsewhere()])

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
        elif refusal := refused_paste(text):
            self.hint(refusal)
        else:
            text = visible(text)
            self.history.checkpoint()  # undone by itself
            long = text.strip("\n").count("\n") >= MOST_LINES
            self.write(self.folds.label(text.strip("\n")) if long else text)

    # Folds: a label in the text stands for a long text

    @override
    def edit(self, edit: Edit) -> EditResult:
        # a label is deleted whole; what is typed into one comes after it
        empty = edit.from_location == edit.to_location
        start, end = edit.top, edit.bottom
        for first, last in self._folds_in(start[0]):
            if first[1] < start[1] < last[1]:
                start = last if empty else first
        for first, last in self._folds_in(end[0]):
            if first[1] < end[1] < last[1]:
                end = last
        edit.from_location, edit.to_location = start, end
        return super().edit(edit)

    @override
    def _undo_batch(self, edits: Sequence[Edit]) -> None:
        self._leave_what_goes(edits)
        super()._undo_batch(edits)

    @override
    def _redo_batch(self, edits: Sequence[Edit]) -> None:
        self._leave_what_goes(edits)
        super()._redo_batch(edits)

    def _leave_what_goes(self, edits: Sequence[Edit]) -> None:
        # the base class looks for the cursor in the changed text before it moves it there, and
        # ends in an error where that line has gone
        if edits:
            self.selection = Selection.cursor((0, 0))

    def _folds_in(self, row: int) -> list[tuple[Location, Location]]:
        line = self.document.get_line(row)
        return [((row, at.start()), (row, at.end())) for at in self.folds.labels(line)]

    def unfold(self, at: Location | None = None) -> bool:
        """Put a folded text in the place of its label: the one at a place, by default the last.

        Without a place, the one at the cursor comes first, and if all are open, they are folded
        again. Returns whether there is one.
        """
        folds = [fold for row in range(self.document.line_count) for fold in self._folds_in(row)]
        place = at or self.cursor_location
        here = [(start, end) for start, end in folds if start <= place <= end]
        if at is None:
            here = here or folds[-1:]
        for start, end in here[:1]:
            self.history.checkpoint()
            text = self.folds.whole(self.get_text_range(start, end))
            self.replace(text, start, end, maintain_selection_offset=False)
        return bool(here) or (at is None and self._fold())

    def _fold(self) -> bool:
        """Fold what was opened; whether there is anything."""
        folded = self.folds.folded(self.text)
        if folded == self.text:
            return False
        self.history.checkpoint()
        self.replace(folded, (0, 0), self.document.end, maintain_selection_offset=False)
        return True

    def on_click(self, event: events.Click) -> None:
        self.completions.close()
        if self.selection.is_empty:
            self.unfold(self.get_target_document_location(event))

    @override
    def get_line(self, line_index: int) -> Text:
        line = super().get_line(line_index)
        for found in self.folds.labels(line.plain):
            start, end = found.span()
            line.plain = line.plain[:start] + as_shown(found[0]) + line.plain[end:]
            line.stylize(self.get_component_rich_style("prompt--fold"), *found.span())
        return line

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

    async def _on_key(self, event: events.Key) -> None:
        if await self.app._check_bindings(event.key, priority=True):  # of a key that waited here
            event.stop()
            event.prevent_default()
            return
        if self._hint:
            self.hint("")
        if self.completions.take_key(event.key):
            event.stop()
            event.prevent_default()
            return
        name = self._actions.get(event.key, "")
        action = self._action_of(event, name) or _EDITS.get(event.key, "")
        self._stepping = name in _STEPS and action.startswith("screen.walk")
        if action:
            event.stop()
            event.prevent_default()
            await self.run_action(action)
            self.completions.typed(opens=action.startswith("delete"))
            return
        walked_once = not self.text and self.walks and name in _WALKS
        await super()._on_key(event)
        self.completions.typed(opens=event.is_printable)
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
            return "screen.branch('earlier')"
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
        text, command = self.text, not self.literal and is_command(self.text.strip())
        if not self.literal and text.lstrip().startswith(_FENCE):
            body = text.lstrip().removeprefix(_FENCE)
            if _FENCE not in body:
                self.insert("\n")
                self.hint(f"{_FENCE} ends the block")
                return
            text = body.replace(_FENCE, "", 1)
        self._submit(text, self.text, command)
