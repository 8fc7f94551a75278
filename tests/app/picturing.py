"""Takes the pictures of the snapshot tests: every screen at three sizes, each in three themes.

A screen is one test. It asks for the fixture `stage`, which makes it one for each size, and does
within `stage.chat()` or `stage.shown()` what leads to the screen. On leaving, the screen is
pictured in all themes, one after another in the app that runs, and compared with what is stored.

The themes are the default; a light one; and `high-contrast`, which tells most: its grounds are one
black and its titles as white as its text, so that what only a shade sets apart is lost there first.
(`okabe-ito` has the shades of the default; that its colours can be told apart is tested as such.)

After a change that is meant: run pytest with `--snapshot-update`, read `git diff`, and look at the
pictures, which `tests.app.pictures` draws.
"""

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from syrupy.assertion import SnapshotAssertion
from syrupy.extensions.single_file import SingleFileSnapshotExtension, WriteMode
from textual.app import App
from textual.pilot import Pilot
from textual.screen import SystemModalScreen
from textual.strip import Strip
from textual.widgets import Input

from app.app import SequoiaApp, Settings
from app.config.preferences import Preferences
from app.store.recorder import Recorder
from app.widgets.transcript import Transcript
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.events import Event, Progress, Step
from tests.app.driving import Driver
from tests.app.pictures import View, differences, picture, read, view, written
from tests.fakes import replay

if TYPE_CHECKING:
    from syrupy.types import SerializedData

SIZES = ((60, 20), (80, 24), (160, 50))
THEMES = ("sequoia", "sequoia-light", "high-contrast")
_PATIENCE_SECONDS = 60.0
_TRIES = 40


class PictureFile(SingleFileSnapshotExtension):
    """A picture in a file of its own."""

    _file_extension = "txt"
    _write_mode = WriteMode.TEXT

    def diff_lines(
        self, serialized_data: "SerializedData", snapshot_data: "SerializedData"
    ) -> Iterator[str]:
        """What is seen to differ."""
        if snapshot_data:
            yield from differences(read(str(snapshot_data)), read(str(serialized_data)))


class Stage:
    """Where a screen is brought about and pictured, in a terminal of one size.

    Args:
        size: columns and rows.
        stored: what it is compared with.
        themes: it is pictured in.
    """

    def __init__(
        self,
        size: tuple[int, int],
        stored: SnapshotAssertion,
        themes: Sequence[str] = THEMES,
    ) -> None:
        self.size, self.themes = size, themes
        self._stored = stored.use_extension(PictureFile)
        self._taken = threading.Event()

    @asynccontextmanager
    async def shown(self, app: App[Any]) -> AsyncIterator[Pilot[Any]]:
        """The app, to be brought to where it is pictured."""
        async with app.run_test(size=self.size, notifications=True) as pilot:
            try:
                yield pilot
                for screen in app.screen_stack:
                    for transcript in screen.query(Transcript):
                        transcript.text()  # what was drawn while it ran is a matter of pace
                taken = written(picture(await views(pilot, self.themes)))
                same = self._stored == taken
                assert same, "\n".join(["another picture", *self._stored.get_assert_diff()])
            finally:
                self._taken.set()

    @asynccontextmanager
    async def chat(
        self,
        engine: ChatEngine | None = None,
        settings: Settings | None = None,
        recorder: Recorder | None = None,
        preferences: Preferences | None = None,
    ) -> AsyncIterator[Driver]:
        """The chat with an engine that is ready; by default, one that gives the standard answer."""
        engine = engine or replay()
        app = SequoiaApp(lambda progress: engine, settings or Settings(), recorder, preferences)
        async with self.shown(app) as pilot:
            driver = Driver(app, pilot)
            await driver.ready()
            yield driver

    def hold(self, steps: int) -> Callable[[Event], None]:
        """For an engine's `before`: after so many steps, stand still until pictures are taken."""
        count = 0

        def before(event: Event) -> None:
            nonlocal count
            if count == steps:
                self._taken.wait(_PATIENCE_SECONDS)
            count += isinstance(event, Step)

        return before

    def load(self, progress: Progress) -> ChatEngine:
        """Make an engine that is not ready before the pictures are taken."""
        progress("loading the target", 0.42)
        self._taken.wait(_PATIENCE_SECONDS)
        return replay()


async def views(pilot: Pilot[Any], themes: Sequence[str]) -> dict[str, View]:
    """What is on the screen, in each theme."""
    app = pilot.app
    for line in app.screen.query(Input):
        line.cursor_blink = False
    taken = {}
    for theme in themes:
        app.theme = theme
        if isinstance(app.screen, SystemModalScreen):  # an open palette keeps the theme before
            app.call_next(app.stylesheet.update, app.screen)
        taken[theme] = view(await _settled(pilot))
    return taken


async def _settled(pilot: Pilot[Any]) -> list[Strip]:
    """The lines of the screen once they change no more."""
    app = pilot.app
    if isinstance(app, SequoiaApp):  # a chat that is behind a dialog is drawn when it is due
        await Driver(app, pilot).until(lambda: app.chat.redraw.done)
    before: list[Strip] = []
    for _ in range(_TRIES):
        await pilot.pause()
        now = pilot.app.screen._compositor.render_strips()
        if now == before:
            return now
        before = now
    raise AssertionError("the screen does not come to rest")
