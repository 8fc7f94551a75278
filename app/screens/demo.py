"""The demonstration: packaged recordings with captions, one after the other."""

import asyncio

from textual.widget import Widget
from typing_extensions import override

from ..config.actions import bindings
from ..state import scenes
from ..state.player import Player, TraceLoader
from ..state.timeline import View
from .replay import ReplayScreen


class DemoScreen(ReplayScreen):
    """Plays the scenes from one on; over the chat as well, which goes on under it.

    Args:
        at: index of the scene to begin with.
        loading: of that scene.
        over_chat: Esc leads back to the chat.
    """

    BINDINGS = bindings("demo")
    KEY_ROW = "demo"
    AUTO_FOCUS = ""  # Enter goes on, and explains a node once the tree has the focus

    def __init__(self, at: int, loading: TraceLoader, *, over_chat: bool = False) -> None:
        player = Player(loading.timeline)
        player.playing = True
        super().__init__(loading, player)
        self._at, self._over_chat = at, over_chat
        self._has_tree = False

    @property
    @override
    def focus_chain(self) -> list[Widget]:
        """Tab leads to the tree first, as the key bar says."""
        return super().focus_chain[::-1]

    @property
    @override
    def _title(self) -> str:
        return f"{self._at + 1} of {len(scenes.FILES)} · {super()._title}"

    @property
    @override
    def _ending(self) -> str:
        if self._at < len(scenes.FILES) - 1 or not self.player.ended:
            return ""
        if self._over_chat:
            return self.app.keys.shown("That was the tour. replay.close goes back to the chat.")
        return self.app.keys.shown(
            "That was the tour. Quit with replay.leave, then `sequoia` starts the chat."
        )

    @property
    @override
    def _key_row(self) -> str:
        return "demo nodes" if self.token_tree.has_focus else super()._key_row

    @override
    def _draw_step(self, view: View, *, still: bool) -> None:
        """Where there is no room for both, show the tree as soon as there is one, not the chat."""
        if self._has_tree != bool(view.answer.steps):
            self._has_tree = not self._has_tree
            self.set_class(self._has_tree, "-tree-shown")
        super()._draw_step(view, still=still)

    @override
    def _tick(self) -> None:
        played = self.player.playing
        super()._tick()
        if played and self.player.ended:
            self._turn(1, playing=True)

    @override
    def action_go(self, where: str) -> None:
        """As in a replay; an answer is a scene, and after the last moment comes the next scene."""
        player = self.player
        last = player.at == len(player.timeline.moments) - 1
        if where == "answer back" and player.at == 0:
            self._turn(-1, playing=player.playing)
        elif where == "answer forward" or (last and where in ("forward", "on")):
            self._turn(1, playing=player.playing or where == "on")
        else:
            super().action_go("first" if where == "answer back" else where)

    def action_scene(self, number: int) -> None:
        self._turn(number - 1 - self._at, playing=True)

    @override
    def action_close(self) -> None:
        """Close the explanation, else leave the tree, else go back to the chat."""
        if self.explains:
            self.explain(False)
        elif self.focused is not None:
            self.set_focus(None)
        elif self._over_chat:
            self.dismiss()

    @override
    def action_leave(self) -> None:
        if self._over_chat:
            self.dismiss()
        else:
            super().action_leave()

    def _turn(self, by: int, *, playing: bool) -> None:
        """Go to another scene, or to the end of this one if it is the last."""
        at = self._at + by
        if 0 <= at < len(scenes.FILES):
            self.run_worker(self._change(at, playing=playing), exclusive=True, group="scene")
        else:
            self.player.seek(0.0 if by < 0 else self.player.timeline.seconds)
            self.player.playing = self.player.playing and by < 0
            self._draw()

    async def _change(self, at: int, *, playing: bool) -> None:
        self.player.playing = False
        loading = await asyncio.to_thread(scenes.open_scene, at)
        self.trace.close()
        self._at, self.trace = at, loading
        self.player = Player(loading.timeline, self.player.speed)
        self.player.playing = playing
        self._begin()
