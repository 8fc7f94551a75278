"""The base of the chat and the replay: themes, keys, palette, accessible mode, copies, pictures."""

import asyncio
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from rich.console import RenderableType
from rich.text import Text
from textual import events
from textual._compositor import CompositorUpdate
from textual.app import App, SystemCommand
from textual.color import Color
from textual.driver import Driver
from textual.filter import LineFilter, NoColor
from textual.notifications import SeverityLevel
from textual.screen import Screen
from textual.widgets import Input, TextArea
from typing_extensions import override

from sequoia_core.errors import ParameterError, SequoiaError, suggest
from sequoia_core.files import write_whole

from ..config import themes
from ..config.actions import ACTIONS, Action, actions, bindings
from ..config.keymap import Keys, remapped
from ..config.paths import config_file, working_folder
from ..config.settings import Settings
from ..present.accessible import ACCESSIBLE, PlainFrames
from ..state.sanitize import visible
from .clipboard import copy_message, copy_with, local_programs, terminal_sequence
from .columns import hold_columns
from .drivers import driver_for
from .gc_control import GarbageCollections

WATCH_SECONDS = 1.0
_LINE_SECONDS = 4.0
_WIDE = 100
_VIM_KEYS = {
    "h": "left", "j": "down", "k": "up", "l": "right", "g": "home", "G": "end",
    "ctrl+b": "pageup", "ctrl+f": "pagedown",
}  # fmt: skip
_NEVER = 100_000  # more columns than a terminal has
_STYLES = Path(__file__).parents[1] / "styles"
_ONLINE = re.compile(r"@font-face \{[^}]*\}\s*|<!--.*?-->\s*", re.DOTALL)
_FAMILY = "font-family: Fira Code, monospace;"
_LOCAL_FAMILY = (
    'font-family: "Fira Code", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace;'
)


@contextmanager
def errors_shown(show: Callable[[str], None]) -> Iterator[None]:
    """Pass the message of a `SequoiaError` on; what follows it in the block is left out."""
    try:
        yield
    except SequoiaError as error:
        show(str(error))


class BaseApp(App[None]):
    """An app with themes from files and keys that can be changed."""

    BINDINGS = bindings("app")
    CONTEXTS: ClassVar[tuple[str, ...]] = ("app",)  # of its actions
    CSS_PATH = _STYLES / "chat.tcss"
    CSS = (_STYLES / "looks.tcss").read_text(encoding="utf-8")
    VERTICAL_BREAKPOINTS = [  # noqa: RUF012
        (0, "-tiny"), (12, "-short"), (18, "-low"), (22, "-medium"), (30, "-tall"), (42, "-roomy"),
    ]  # fmt: skip

    def __init__(self, theme: str) -> None:
        own = config_file().parent / "themes"
        self._theme_folders = themes.ThemeFolders([themes.packaged_folder(), own])
        self._no_color, self._plain_frames = NoColor(), PlainFrames()
        found = self._theme_folders.changes()
        super().__init__()
        self.animation_level = "none"
        self.keys = Keys()
        self.vim_keys = False  # letters move in what has the focus, unless it takes text
        self.collections = GarbageCollections()
        self.theme_problems = found.problems
        self.own_themes = {each.name: each for each in found.themes}  # those from files
        for each in found.themes:
            self.register_theme(each)
        self._begin_with_theme(theme)
        self.use_accessible(False)

    def begin(self, settings: Settings) -> None:
        """Say what is wrong with the themes, and read them again whenever their files change."""
        self.use_accessible(settings.accessible)
        self.vim_keys = settings.vim_keys
        for problem in self.theme_problems:
            self.show_note(problem, error=True)
        self.set_interval(WATCH_SECONDS, self.reload_themes)

    @override
    def notify(
        self,
        message: str,
        *,
        title: str = "",
        severity: SeverityLevel = "information",
        timeout: float | None = None,
        markup: bool = False,
    ) -> None:
        """Show a text that may quote files."""
        text = visible(message)
        super().notify(text, title=title, severity=severity, timeout=timeout, markup=markup)

    def show_note(self, text: str, *, error: bool = False) -> None:
        self.notify(text, severity="error" if error else "information")

    # The terminal, and unexpected errors

    @override
    def get_driver_class(self) -> type[Driver]:
        return driver_for(super().get_driver_class())

    def fail(self, message: str) -> None:
        """Quit with one line on standard error and return code 1."""
        self.error_console.soft_wrap = True
        self.exit(return_code=1, message=Text(f"sequoia: {visible(message)}"))

    @property
    def failure(self) -> Exception | None:
        """The unexpected error that ended the app, or None."""
        return self._exception

    @override
    def _display(self, screen: Screen[Any], renderable: RenderableType | None) -> None:
        if isinstance(renderable, CompositorUpdate) and not self.is_headless:
            hold_columns(renderable, self.console)
        super()._display(screen, renderable)

    def _fatal_error(self) -> None:
        """End in order; the traceback goes to the log, not to the terminal."""
        logging.getLogger("sequoia").error("unexpected", exc_info=self._exception)
        self._close_messages_no_wait()

    # Colours

    def _begin_with_theme(self, name: str) -> None:
        """Use a theme; in a terminal of sixteen colours, theirs in place of the default."""
        if name not in self.available_themes:
            self.theme_problems.append(f"{self._no_theme(name)}; using {themes.DEFAULT_THEME}")
            name = themes.DEFAULT_THEME
        if name == themes.DEFAULT_THEME and self.console.color_system == "standard":
            name = themes.TERMINAL_THEME
        self.theme = name

    def use_theme(self, name: str) -> None:
        """Switch the theme; raises `ParameterError` if there is no such theme."""
        if name not in self.available_themes:
            raise ParameterError(self._no_theme(name))
        self.theme = name

    def choose_theme(self, name: str) -> None:
        """Carry out the choice of a theme in the palette."""
        self.use_theme(name)

    def _no_theme(self, name: str) -> str:
        return f"no theme {name!r}; {suggest(name, self.own_themes)}"

    @override
    def get_theme_variable_defaults(self) -> dict[str, str]:
        return themes.app_color_defaults(self.current_theme)

    def get_line_filters(self) -> Sequence[LineFilter]:
        """With NO_COLOR, no colour at all; Textual's own filter would leave shades of grey."""
        filters = [self._no_color] if self.no_color else super().get_line_filters()
        return [*filters, self._plain_frames] if self.accessible else filters

    def reload_themes(self) -> None:
        """Read themes whose files changed; that of a broken file stays."""
        changes = self._theme_folders.changes()
        for theme in changes.themes:
            if theme == self.own_themes.get(theme.name):
                continue
            self.own_themes[theme.name] = theme
            self.register_theme(theme)
            if theme.name == self.theme:
                self.mutate_reactive(BaseApp.theme)
                self.notify(f"theme {theme.name}: read again")
        for problem in changes.problems:
            problem = problem.replace("; skipped", "; the one before stays")
            self.notify(problem, severity="warning")

    # Pictures and copies

    @property
    def picture_colors(self) -> dict[str, str]:
        """The theme's colours for CSS; those of the default one if it has the terminal's own."""
        variables = self.theme_variables
        if self.native_ansi_color:
            theme = self.own_themes[themes.DEFAULT_THEME]
            defaults = themes.app_color_defaults(theme)
            variables = defaults | theme.to_color_system().generate() | theme.variables
        background = Color.parse(variables["background"])
        names = (*themes.APP_COLORS, "foreground", "background")
        return {name: (background + Color.parse(variables[name])).hex6 for name in names}

    @override
    def export_screenshot(self, *, title: str | None = None, simplify: bool = False) -> str:
        return with_local_fonts(super().export_screenshot(title=title, simplify=simplify))

    def action_picture(self, path: Path | None = None) -> None:
        """Write the screen as an SVG, by default into the working directory, and say where."""
        path = path or working_folder() / f"sequoia-{time.strftime('%Y%m%d-%H%M%S')}.svg"
        try:
            write_whole(path, self.export_screenshot(title=self.title.lower()), private=True)
        except OSError as error:
            self.show_line(f"no picture: {path}: {error.strerror}")
        else:
            self.show_note(f"picture: {path}")

    def copy_to_clipboard(self, text: str, what: str = "") -> None:
        """Copy a text: by the terminal at once, by programs in the background.

        Its control characters are visible already; `what` is as for `copy_message`.
        """
        self._clipboard = text  # for pasting within the app
        sequence = terminal_sequence(text, os.environ)
        if sequence is not None and self._driver is not None:
            self._driver.write(sequence)
        self.run_worker(self._copy_locally(text, what, sent=sequence is not None))

    async def _copy_locally(self, text: str, what: str, *, sent: bool) -> None:
        programs = [
            program.name
            for program in local_programs(os.environ)
            if await asyncio.to_thread(copy_with, program, text)
        ]
        self.show_line(copy_message(text, what, sent=sent, programs=programs))

    def show_line(self, text: str) -> None:
        """Show a line that need not stay."""
        self.notify(text, timeout=_LINE_SECONDS)

    # Keys

    @override
    async def on_event(self, event: events.Event) -> None:
        if self.vim_keys and isinstance(event, events.Key) and not event.is_forwarded:
            self._move_by_letter(event)
        if (
            isinstance(event, events.Key | events.Paste)
            and not event.is_forwarded
            and self.screen_stack
            and self.takes(event)
        ):
            return
        await super().on_event(event)

    def takes(self, event: events.Key | events.Paste) -> bool:
        """Whether a key or a paste went elsewhere than to the widget in focus."""
        del event
        return False

    def _move_by_letter(self, event: events.Key) -> None:
        """Make the key another one, unless it is text, or nothing has the focus that moves."""
        focused = self.focused if self.screen_stack else None
        other = _VIM_KEYS.get(event.character or event.key) or _VIM_KEYS.get(event.key)
        if other and focused is not None and not isinstance(focused, Input | TextArea):
            event.key, event.character = other, None

    def use_keys(self, wanted: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
        """Use other keys, by id of their action; one line for each action that keeps its own.

        Those of contexts that only another app has are ignored.
        """
        others = {each.context for each in ACTIONS}.difference(self.CONTEXTS)
        own = {name: keys for name, keys in wanted.items() if name.partition(".")[0] not in others}
        self.keys, problems = remapped(actions(*self.CONTEXTS), own)
        self.set_keymap(self.keys.keymap())
        return problems

    @override
    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        for each in actions(*self.CONTEXTS):
            if each.in_palette and self.offers(each, screen):
                text = each.help[0].upper() + each.help[1:]
                text += f" ({self.keys.shown(each.id)})" if each.keys else ""
                run = partial(self.get_default_screen().run_action, each.run)
                yield SystemCommand(each.title, text, run)
        for theme in self.own_themes:
            yield SystemCommand(f"Theme: {theme}", "Colours", partial(self.choose_theme, theme))

    def offers(self, action: Action, screen: Screen[object]) -> bool:
        del action, screen
        return True

    # Accessible mode

    @property
    def accessible(self) -> bool:
        return self.has_class(ACCESSIBLE)

    def use_accessible(self, on: bool) -> None:
        """Turn accessible mode on or off; there, nothing is side by side."""
        self.set_class(on, ACCESSIBLE)
        self.HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (_NEVER if on else _WIDE, "-wide")]
        for screen in self.screen_stack if self.is_running else ():
            screen.post_message(events.Resize(self.size, self.size))
            for widget in screen.walk_children():
                widget.notify_style_update()
                widget.refresh()


def with_local_fonts(svg: str) -> str:
    """An SVG by rich without the fonts from a server; the drawing itself is not changed."""
    style, end, drawing = svg.partition("</style>")
    return _ONLINE.sub("", style).replace(_FAMILY, _LOCAL_FAMILY) + end + drawing
