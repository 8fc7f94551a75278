"""A screen whose prompt gets all text that is typed or pasted, wherever the focus is.

Nothing has the focus just after a terminal or browser window got it, and the widget that was
clicked last may not take text. What is typed is painted before anything else that changed.
"""

from textual import events
from textual.screen import Screen

from ..widgets.prompt import Prompt


class PromptedScreen(Screen[None]):
    """A screen with a prompt.

    Attributes:
        prompt: gets what is typed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prompt = Prompt()
        self._rest_waits = False

    def _on_timer_update(self) -> None:
        # Textual paints all that changed at once; the rest may take noticeably long
        rest = self._dirty_widgets - {self.prompt}
        everything = self._layout_required or self._scroll_required or self._repaint_required
        self._rest_waits = (
            self.prompt in self._dirty_widgets
            and bool(rest)
            and not everything
            and not self._rest_waits  # a second time, however fast somebody types
        )
        if not self._rest_waits:
            super()._on_timer_update()
            return
        waiting, self._callbacks = self._callbacks, []  # for the rest to be painted
        self._dirty_widgets &= {self.prompt}
        super()._on_timer_update()
        self._callbacks = [*waiting, *self._callbacks]
        self._dirty_widgets |= rest
        self._update_timer.resume()

    async def on_key(self, event: events.Key) -> None:
        """Type into the prompt, unless the key means something here."""
        character = event.character
        if character is None or not event.is_printable:
            if self.focused in (self.prompt, None):
                await self.prompt.take_early(event)
            return
        # with the prompt in focus only keys come here that were pressed before it got it
        begun = self.focused in (self.prompt, None) and self.prompt.text
        if begun or event.key not in self.active_bindings:
            event.stop()
            self.set_focus(self.prompt)
            self.prompt.write(character)

    def on_paste(self, event: events.Paste) -> None:
        """Paste into the prompt."""
        if self.focused is not self.prompt:
            event.stop()
            self.set_focus(self.prompt)
            self.prompt.post_message(events.Paste(event.text))
