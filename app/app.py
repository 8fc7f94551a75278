"""The Textual app of the chat: decode thread, log, command palette, and its run."""

import asyncio
import logging
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from textual import events
from textual.screen import Screen
from typing_extensions import override

from sequoia_core.files import make_private_folder, private_file

from .config.actions import Action
from .config.model_list import ModelLoader
from .config.paths import log_folder, record_file
from .config.preferences import Preferences
from .config.settings import Settings
from .engine.decode_thread import DecodeThread
from .engine.messages import EngineFactory
from .screens.chat.screen import ChatScreen
from .store.recorder import DatabaseRecorder, Recorder
from .store.unsent import NOT_SENT, take_unsent
from .ui.base_app import BaseApp

__all__ = ["SequoiaApp", "Settings"]

_JOIN_SECONDS = 0.2  # for the current step; the result of a longer one is lost
_LOG_BYTES = 1_000_000
_SWITCH_SECONDS = 0.0005
"""How long the decode thread may have to wait for the interpreter lock, many times in a step; the
default of 5 ms cost a fifth of the tokens while the screen was drawing."""


class SequoiaApp(BaseApp):
    """The chat. Its recorder is closed with it; `unsent` is the first text of the prompt."""

    TITLE = "Sequoia"
    CONTEXTS = (
        "app", "prompt", "chat", "help", "race", "search", "sessions", "models", "settings",
        "choice", "key", "tree", "heat", "replay", "demo",
    )  # fmt: skip

    def __init__(
        self,
        engine_factory: EngineFactory,
        settings: Settings,
        recorder: Recorder | None = None,
        preferences: Preferences | None = None,
        unsent: str = "",
        *,
        go_on: bool = False,
        models: ModelLoader | None = None,
    ) -> None:
        super().__init__(settings.theme)
        self._unsent, self._opens_last = unsent, go_on
        self.decoder = DecodeThread(engine_factory)
        self._log_handler: logging.Handler = logging.NullHandler()
        self._switch_seconds = sys.getswitchinterval()
        settings = replace(settings, theme=self.theme)
        self.chat = ChatScreen(self.decoder, settings, recorder, preferences, models)

    def get_default_screen(self) -> Screen[None]:
        return self.chat

    def on_mount(self) -> None:
        """Start to load the engine."""
        self._log_handler = _log_to_file(log_folder())
        sys.setswitchinterval(_SWITCH_SECONDS)
        if not self.is_headless:  # a process with other work decides for itself
            self.collections.start()
        # importing what decodes holds the interpreter lock: the prompt is drawn first
        self.chat.call_after_refresh(self.decoder.start)
        self.begin(self.chat.session.settings)
        if self._opens_last:
            self.chat.sessions.open_last()
        if self._unsent:
            self.chat.prompt.put(self._unsent)
            self.chat.prompt.hint(NOT_SENT)

    async def on_event(self, event: events.Event) -> None:
        """Note when a key or button was pressed, for the garbage collector."""
        if isinstance(event, events.Key | events.Paste | events.MouseDown):
            self.collections.note_input()
        await super().on_event(event)

    @override
    def takes(self, event: events.Key | events.Paste) -> bool:
        if not self.app_focus and isinstance(event, events.Key):
            self.app_focus = True  # what had the focus has it again
        return self.screen is self.chat and self.chat.take_input(event)

    def exit(
        self,
        result: None = None,
        return_code: int = 0,
        message: RenderableType | None = None,
    ) -> None:
        self.decoder.close()
        super().exit(result, return_code, message)

    async def on_unmount(self) -> None:
        """Join the decode thread, then close the record of the chat."""
        await asyncio.to_thread(self.decoder.shutdown, _JOIN_SECONDS)
        await asyncio.to_thread(self.chat.reports.finish, self.decoder.drain())
        self.collections.stop()
        sys.setswitchinterval(self._switch_seconds)
        logging.getLogger("sequoia").removeHandler(self._log_handler)
        with suppress(OSError):  # the disk may be full, which must not lose what was typed
            self._log_handler.close()

    @property
    def unsent(self) -> str:
        """What was typed and not sent, also before a message was edited."""
        edit = self.chat.session.edit
        typed = (edit.draft if edit is not None else "", self.chat.prompt.whole)
        return "\n".join(text for text in typed if text.strip())

    def show_line(self, text: str) -> None:
        """Say it at the prompt, until the next key."""
        if self.screen is self.chat:
            self.chat.prompt.hint(text)
        else:
            super().show_line(text)

    def action_help_quit(self) -> None:
        """What Ctrl+C, which ends other programs, does here."""
        self.show_line(self.keys.shown("Ctrl+C copies selected text; app.quit quits"))

    def show_note(self, text: str, *, error: bool = False) -> None:
        self.chat.pages.note(text, error=error, topic="" if error else "file")

    def offers(self, action: Action, screen: Screen[object]) -> bool:
        """Whether the palette over a screen has an action: only the chat's own changes the chat."""
        own = screen is self.chat and action.context not in ("replay", "demo")
        return own or action.context == "app" or action.id == "chat.help"

    def choose_theme(self, name: str) -> None:
        self.chat.action_run_line(f"/set theme {name}")


def run_chat(
    engine_factory: EngineFactory,
    settings: Settings,
    flags: Mapping[str, Any],
    *,
    go_on: bool = False,
    models: ModelLoader | None = None,
) -> SequoiaApp:
    """Run a chat until it is left, and say what could not be recorded of it.

    `flags` are those of the settings that were given on the command line; `go_on` opens the last
    chat of the record. Without `models` the chat keeps those that the factory loads.
    """
    recorder = DatabaseRecorder(record_file()) if settings.record else Recorder()
    try:
        unsent = take_unsent() if settings.record else ""
        app = SequoiaApp(
            engine_factory, settings, recorder, Preferences(flags), unsent,
            go_on=go_on, models=models,
        )  # fmt: skip
        with suppress(BrokenPipeError):  # the server of a browser's window was killed
            app.run()
    finally:
        recorder.close()
    if recorder.unsaved:
        with suppress(OSError):
            sys.stderr.write(f"sequoia: {recorder.unsaved}\n")
    return app


class _PrivateLog(RotatingFileHandler):
    """A traceback may quote what was said, so a new log is its owner's alone."""

    def _open(self) -> Any:
        return open(self.baseFilename, self.mode, encoding=self.encoding, opener=private_file)

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 the library's name
        """Nothing: a full disk is no reason to write over the screen."""


def _log_to_file(folder: Path) -> logging.Handler:
    """Tracebacks of the decode thread go to a file, which exists only once there is one."""
    try:
        make_private_folder(folder)
    except OSError:  # the chat needs no log
        return logging.NullHandler()
    handler = _PrivateLog(
        folder / "sequoia.log", maxBytes=_LOG_BYTES, backupCount=1, encoding="utf-8", delay=True
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    logging.getLogger("sequoia").addHandler(handler)
    return handler
