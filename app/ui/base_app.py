"""What the chat and the replay have in common as apps: themes, keys, and modes of looking.

Owns the folders of themes and that they are watched, the keys in use, accessible mode, pictures of
the screen, and what becomes of colours where there are few or none. Knows no screen.
"""

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import platformdirs
from rich.console import RenderableType
from rich.text import Text
from textual import events
from textual._compositor import CompositorUpdate
from textual.binding import Binding, BindingType
from textual.driver import Driver
from textual.filter import LineFilter, NoColor
from textual.screen import Screen
from textual.theme import Theme

from sequoia_core.errors import ParameterError, suggest
from sequoia_core.files import write_whole

from ..config.keymap import Keys, declared, remapped
from ..config.themes import (
    DEFAULT_THEME,
    TERMINAL_THEME,
    ThemeFolders,
    app_color_defaults,
    packaged_folder,
)
from ..present.accessible import ACCESSIBLE, PlainFrames
from ..state.sanitize import visible
from .columns import hold_columns
from .copying_app import CopyingApp
from .drivers import driver_for
from .gc_control import Rests
from .svg import with_local_fonts

WATCH_SECONDS = 1.0
_WIDE = 100
_NEVER = 100_000
"""More columns than a terminal has."""


class BaseApp(CopyingApp):
    """An app with themes from files and keys that can be changed.

    Args:
        bindings: of all its screens, as they are declared.

    Attributes:
        keys: the keys in use.
        rests: when the garbage collector runs.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("ctrl+q", "quit", "Quit", show=False, priority=True, id="app.quit"),
        Binding("ctrl+p", "command_palette", "Command palette", show=False, priority=True,
                id="app.palette"),
    ]  # fmt: skip
    CSS = (Path(__file__).parents[1] / "styles" / "looks.tcss").read_text(encoding="utf-8")
    VERTICAL_BREAKPOINTS = [(0, "-tiny"), (12, "-short"), (30, "-tall"), (42, "-roomy")]  # noqa: RUF012

    def __init__(self, bindings: Iterable[BindingType] = ()) -> None:
        self._theme_folders = ThemeFolders(
            [packaged_folder(), platformdirs.user_config_path("sequoia") / "themes"]
        )
        found = self._theme_folders.load()
        self._no_color, self._plain_frames = NoColor(), PlainFrames()
        super().__init__()
        self.animation_level = "none"
        self.keys = Keys()
        self._actions = {**declared(BaseApp.BINDINGS), **declared(bindings)}
        self.rests = Rests()
        self.theme_problems = found.problems
        self._own_themes = {theme.name: theme for theme in found.themes}
        for theme in found.themes:
            self.register_theme(theme)
        self.use_accessible(False)

    # The terminal, and errors that nobody foresaw

    def get_driver_class(self) -> type[Driver]:
        """Textual's choice, with an input that nothing ends."""
        return driver_for(super().get_driver_class())

    def fail(self, message: str) -> None:
        """Quit with one line on standard error and return code 1."""
        self.error_console.soft_wrap = True
        self.exit(return_code=1, message=Text(f"sequoia: {visible(message)}"))

    @property
    def failure(self) -> Exception | None:
        """What ended the app, to be raised by who ran it; None if nothing did."""
        return self._exception

    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        """As the base class; frames stay in their columns."""
        if isinstance(renderable, CompositorUpdate) and not self.is_headless:
            hold_columns(renderable, self.console)
        super()._display(screen, renderable)

    def _fatal_error(self) -> None:
        """End in order; the traceback goes to the log and not onto the terminal."""
        logging.getLogger("sequoia").error("unexpected", exc_info=self._exception)
        self._close_messages_no_wait()

    # Colours

    @property
    def own_themes(self) -> Sequence[str]:
        """Names of the themes that come from files."""
        return tuple(self._own_themes)

    @property
    def few_colors(self) -> bool:
        """Whether the terminal has sixteen colours at most."""
        return self.console.color_system == "standard"

    def begin_with_theme(self, name: str) -> str | None:
        """Use a theme if there is one of this name.

        Without a theme of the person's own choice, a terminal of few colours gets the theme that
        is made of them.

        Returns:
            A line that says so if there is none.
        """
        problem = None
        if name not in self.available_themes:
            problem = f"{self.no_theme(name)}; using {DEFAULT_THEME}"
            name = DEFAULT_THEME
        if name == DEFAULT_THEME and self.few_colors and TERMINAL_THEME in self.available_themes:
            name = TERMINAL_THEME
        self.theme = name
        return problem

    def use_theme(self, name: str) -> None:
        """Switch the theme.

        Raises:
            ParameterError: there is no such theme.
        """
        if name not in self.available_themes:
            raise ParameterError(self.no_theme(name))
        self.theme = name

    def no_theme(self, name: str) -> str:
        """Say that there is no such theme, and which one may have been meant."""
        return f"no theme {name!r}; {suggest(name, self.own_themes)}"

    def get_theme_variable_defaults(self) -> dict[str, str]:
        """The app's own colours, for themes that do not name them."""
        return app_color_defaults(self.current_theme)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """With NO_COLOR, no colour at all; Textual's own would leave shades of grey."""
        filters = [self._no_color] if self.no_color else super().get_line_filters()
        return [*filters, self._plain_frames] if self.accessible else filters

    def watch_themes(self) -> None:
        """From now on, take over what is edited in the folders of themes."""
        self.set_interval(WATCH_SECONDS, self.look_at_themes)

    def look_at_themes(self) -> None:
        """Take over themes whose files changed; a broken file is told and the old theme stays."""
        changes = self._theme_folders.changes()
        if changes is None:
            return
        for theme in changes.themes:
            self._take_theme(theme)
        for problem in changes.problems:
            self.tell_of_theme(problem.replace("; skipped", "; the one before stays"), bad=True)

    def _take_theme(self, theme: Theme) -> None:
        before = self._own_themes.get(theme.name)
        if before == theme:
            return
        self._own_themes[theme.name] = theme
        self.register_theme(theme)
        if theme.name == self.theme:
            self.mutate_reactive(BaseApp.theme)
            self.tell_of_theme(f"theme {theme.name}: read again")

    def tell_of_theme(self, told: str, *, bad: bool = False) -> None:
        """Say what became of an edited theme."""
        self.notify(told, severity="warning" if bad else "information", markup=False)

    # Pictures

    def export_screenshot(self, *, title: str | None = None, simplify: bool = False) -> str:
        """As the base class, but fonts are those of the machine that shows it."""
        return with_local_fonts(super().export_screenshot(title=title, simplify=simplify))

    def save_picture(self, path: Path | None = None) -> None:
        """Write the screen as an SVG, by default into the working directory, and say where."""
        path = path or Path.cwd() / f"sequoia-{time.strftime('%Y%m%d-%H%M%S')}.svg"
        try:
            write_whole(path, self.export_screenshot(title=self.title.lower()), private=True)
        except OSError as error:
            self.tell_of_picture(f"no picture: {path}: {error.strerror}", bad=True)
        else:
            self.tell_of_picture(f"picture: {path}")

    def tell_of_picture(self, told: str, *, bad: bool = False) -> None:
        """Say where a picture is, or why there is none."""
        self.notify(told, severity="error" if bad else "information", markup=False)

    # Keys

    def use_keys(self, wanted: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        """Give actions the keys that a person wants.

        Args:
            wanted: keys by the id of an action.

        Returns:
            One line for each wish that could not be granted.
        """
        self.keys, problems = remapped(self._actions, wanted)
        self.set_keymap(self.keys.keymap())
        return problems

    # Accessible mode

    @property
    def accessible(self) -> bool:
        """Whether frames, motion and signs are left out."""
        return self.has_class(ACCESSIBLE)

    def use_accessible(self, on: bool) -> None:
        """Turn accessible mode on or off; columns side by side cannot be read aloud."""
        self.set_class(on, ACCESSIBLE)
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (_NEVER if on else _WIDE, "-wide")]
        for screen in self.screen_stack if self.is_running else ():
            screen.post_message(events.Resize(self.size, self.size))
            for widget in screen.walk_children():
                widget.notify_style_update()
                widget.refresh()
