"""What `/export` and `/record` do: files of the chat, of its screen, and of a tree."""

from collections.abc import Coroutine
from dataclasses import dataclass, replace
from typing import Any

from ...state.chat_session import ChatSession
from ...store.recorder import Recorder
from ...ui.base_app import BaseApp, errors_shown
from ...widgets.prompt import Prompt
from .branches import TranscriptPages
from .export import export_chat, export_file
from .scene_export import add_caption, export_scene, scene_file
from .step_inspector import StepInspector
from .tree_export import export_tree, tree_file


@dataclass(frozen=True, slots=True)
class FileActions:
    """Both raise `SequoiaError` if a file cannot be written."""

    session: ChatSession
    app: BaseApp
    inspector: StepInspector
    recorder: Recorder
    pages: TranscriptPages
    prompt: Prompt

    def export(self, words: str) -> None:
        what, _, name = words.partition(" ")
        if what == "tree":
            cursor, colors = self.inspector.cursor, self.app.picture_colors
            file = tree_file(name.strip(), cursor)
            self._begin(export_tree(file, replace(cursor), self.session.pair, colors))
            return
        path = export_file(words, self.session)
        if path.suffix == ".svg":  # once the command is no longer in the prompt
            self.prompt.call_after_refresh(self.app.action_picture, path)
        else:
            self._begin(export_chat(path, self.session, self.recorder.steps))

    def record(self, words: str) -> None:
        what, _, text = words.partition(" ")
        if what == "caption":
            self.pages.note(add_caption(text.strip(), self.session, self.inspector.cursor))
        else:
            path = scene_file(words, self.session)
            self._begin(export_scene(path, self.session, self.recorder.steps))

    def _begin(self, work: Coroutine[Any, Any, str]) -> None:
        """Write a file; a note says what came of it, or a hint what went wrong."""

        async def run() -> None:
            with errors_shown(self.prompt.hint):
                self.pages.note(await work, topic="file")

        self.prompt.run_worker(run(), group="export", exit_on_error=False)
