"""The app of the replay screen: palette, keys, screenshots."""

from pathlib import Path

from textual.screen import Screen

from sequoia_core.events import PairDescription

from ..config.settings import Settings
from ..screens.replay import ReplayScreen
from ..state.player import Player, TraceLoader
from ..ui.base_app import BaseApp

_CONTEXT = "replay"


class ReplayApp(BaseApp):
    """Plays a recorded chat.

    Args:
        loading: reads the recording.
        pair: that decoded it.
        player: of the loading's timeline.
        settings: of the chat, for theme, accessible mode and keys.
    """

    TITLE = "Sequoia replay"
    CSS_PATH = Path(__file__).parents[1] / "styles" / "chat.tcss"
    CONTEXTS = ("app", "replay", "help")

    def __init__(
        self,
        loading: TraceLoader,
        pair: PairDescription,
        player: Player,
        settings: Settings | None = None,
    ) -> None:
        super().__init__()
        self._settings = settings or Settings()
        self._no_theme = self.begin_with_theme(self._settings.theme)
        self._loading = loading
        self.replay = ReplayScreen(loading, pair, player)

    def get_default_screen(self) -> Screen[None]:
        """The replay."""
        return self.replay

    def on_mount(self) -> None:
        """Apply theme, accessible mode and keys."""
        self.use_accessible(self._settings.accessible)
        wanted = {
            name: keys
            for name, keys in self._settings.keys.items()
            if name.partition(".")[0] in (_CONTEXT, "app")
        }
        problems = self.use_keys(wanted)
        self.replay.use_keys(self.keys)
        no_theme = [self._no_theme] if self._no_theme else []
        for problem in (*self.theme_problems, *no_theme, *problems):
            self.notify(problem, severity="warning", markup=False)
        self.watch_themes()

    def on_unmount(self) -> None:
        """Stop reading."""
        self._loading.close()
