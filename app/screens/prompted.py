"""A screen with a prompt, to which all goes that is typed or pasted and means nothing else.

What is typed is shown before anything else that changed. Nothing has the focus just after a
terminal or browser window got it, and what a person clicked on last may have no use for letters.
"""

from textual import events
from textual.screen import Screen

from ..widgets.prompt import Prompt


class PromptedScreen(Screen[None]):
    """Has a prompt.

    Attributes:
        prompt: gets what is typed, wherever the focus is.
    """

    def __init__(self) -> None:
        super().__init__()
        self.prompt = Prompt()
        self._rest_waits = False

    def _on_timer_update(self) -> None:
        # Textual paints all that changed in one go; the rest may take longer than a person notices
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
        """What is typed where it means nothing else is a message."""
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
        """So is what is pasted."""
        if self.focused is not self.prompt:
            event.stop()
            self.set_focus(self.prompt)
            self.prompt.post_message(events.Paste(event.text))
