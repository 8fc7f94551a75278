"""The app around the replay screen: themes, palette, pictures. Knows no engine."""

import time
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import platformdirs
from textual.app import App, SystemCommand
from textual.screen import Screen

from sequoia_core.protocols import PairDescription

from .replay import Loading, Player
from .screens.replay import ReplayScreen
from .theming import DEFAULT_THEME, app_color_defaults, load_themes, packaged_folder


class ReplayApp(App[None]):
    """Plays a recorded chat.

    Args:
        loading: where the recording comes from.
        pair: who decoded.
        player: of the loading's timeline.
        theme: name of a theme; another one is used where there is none of that name.
    """

    TITLE = "Sequoia replay"
    CSS_PATH = Path(__file__).parent / "styles" / "chat.tcss"
    # Textual declares these as instance variables.
    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012
    VERTICAL_BREAKPOINTS = [(0, "-tiny"), (12, "-short"), (30, "-tall"), (42, "-roomy")]  # noqa: RUF012

    def __init__(
        self, loading: Loading, pair: PairDescription, player: Player, theme: str = DEFAULT_THEME
    ) -> None:
        found = load_themes(
            [packaged_folder(), platformdirs.user_config_path("sequoia") / "themes"]
        )
        super().__init__()
        self.animation_level = "none"
        self._own_themes = tuple(each.name for each in found.themes)
        for each in found.themes:
            self.register_theme(each)
        self.theme = theme if theme in self.available_themes else DEFAULT_THEME
        self._loading = loading
        self.replay = ReplayScreen(loading, pair, player)

    def get_default_screen(self) -> Screen[None]:
        """The replay."""
        return self.replay

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """The app's own colours, for themes that do not name them."""
        return app_color_defaults(self.current_theme)

    def on_unmount(self) -> None:
        """Read no further."""
        self._loading.close()

    def save_picture(self) -> None:
        """Write the screen as an SVG into the working directory, and say where."""
        path = Path.cwd() / f"sequoia-{time.strftime('%Y%m%d-%H%M%S')}.svg"
        try:
            path.write_text(self.export_screenshot(title="sequoia replay"), encoding="utf-8")
        except OSError as error:
            self.notify(f"no picture: {path}: {error.strerror}", severity="error", markup=False)
        else:
            self.notify(f"picture: {path}", markup=False)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        """What the palette offers; the screen it was opened from makes no difference."""
        del screen
        replay = self.replay
        yield SystemCommand("Play or pause", "Space", replay.action_play)
        yield SystemCommand("Beginning", "Home", partial(replay.action_go, "first"))
        yield SystemCommand("End", "End", partial(replay.action_go, "last"))
        yield SystemCommand("Tree", "Show or hide the token tree (F4)", replay.action_tree)
        yield SystemCommand("Tint", "Tint tokens by where they came from (F6)", replay.action_tint)
        yield SystemCommand("Help", "Keys (F1)", replay.action_help)
        for theme in self._own_themes:
            yield SystemCommand(
                f"Theme: {theme}", "Colours", partial(setattr, self, "theme", theme)
            )
        yield SystemCommand("Screenshot", "Save the screen as an SVG here", self.save_picture)
        yield SystemCommand("Quit", "Leave", self.action_quit)
