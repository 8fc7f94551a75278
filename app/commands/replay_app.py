"""The app of the replay screen. Imports Textual."""

from pathlib import Path

from textual.screen import Screen

from sequoia_core.events import PairDescription

from ..config.settings import Settings
from ..screens.replay import ReplayScreen
from ..state.player import Player, TraceLoader
from ..ui.base_app import BaseApp


class ReplayApp(BaseApp):
    """Plays a recorded chat with the theme, mode and keys of the settings."""

    TITLE = "Sequoia replay"
    CSS_PATH = Path(__file__).parents[1] / "styles" / "chat.tcss"
    CONTEXTS = ("app", "replay", "help")

    def __init__(
        self, loading: TraceLoader, pair: PairDescription, player: Player, settings: Settings
    ) -> None:
        super().__init__(settings.theme)
        self._loading, self._settings = loading, settings
        self.replay = ReplayScreen(loading, pair, player)

    def get_default_screen(self) -> Screen[None]:
        return self.replay

    def on_mount(self) -> None:
        self.use_accessible(self._settings.accessible)
        keys = self._settings.keys
        own = {name: keys[name] for name in keys if name.startswith(("app.", "replay."))}
        problems = [*self.theme_problems, *self.use_keys(own)]
        self.replay.key_bar.keys = self.keys
        for problem in problems:
            self.notify(problem, severity="warning", markup=False)
        self.watch_themes()

    def on_unmount(self) -> None:
        self._loading.close()
