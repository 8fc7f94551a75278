"""What `/preset` does: list, use, keep and delete system prompts by name."""

import asyncio
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

from sequoia_core.errors import SequoiaError

from ...config.presets import NO_PRESET, delete_preset, find_preset, load_presets, save_preset
from ...config.settings import Settings
from ...state.chat_session import ChatError, ChatSession
from ...widgets.prompt import Prompt
from ..presets import PresetScreen

NOTHING_TO_SAVE = "no system prompt to keep: /set system TEXT first, then /preset save NAME"
TEMPLATES_OWN = "the model's own system prompt, or none"


@dataclass(frozen=True, slots=True)
class PresetActions:
    session: ChatSession
    prompt: Prompt
    use: Callable[[Settings], None]  # settings with another system prompt

    def act(self, words: str) -> None:
        """Carry out the command with these words; raises ChatError if that cannot be done now."""
        what, _, name = words.partition(" ")
        if what not in ("save", "delete"):
            self.session.check_idle()  # another system prompt begins another chat
            self._begin(words, self._choose(words) if words else self._list())
            return
        name, system = name.strip(), self.session.settings.system
        if not name:
            raise ChatError(f"a name is missing: /preset {what} NAME")
        if what == "delete":
            self._begin(words, self._delete(name))
        elif system:
            self._begin(words, self._save(name, system))
        else:
            raise ChatError(NOTHING_TO_SAVE)

    def _begin(self, words: str, work: Coroutine[Any, Any, None]) -> None:
        """Run what reads or writes files; if it fails, the command is in the prompt again."""

        async def run() -> None:
            try:
                await work
            except SequoiaError as error:
                if not self.prompt.text:
                    self.prompt.put(f"/preset {words}")
                self.prompt.hint(str(error))

        self.prompt.run_worker(run())

    async def _list(self) -> None:
        presets = await asyncio.to_thread(load_presets)
        system = self.session.settings.system
        now = next((name for name, text in presets.items() if text == system), None)
        screen = PresetScreen(
            {NO_PRESET: TEMPLATES_OWN, **presets}, NO_PRESET if system is None else now
        )
        self.prompt.app.push_screen(screen, self._chosen)

    def _chosen(self, name: str | None) -> None:
        if name is not None:
            self._begin(name, self._choose(name))

    async def _choose(self, name: str) -> None:
        system = await asyncio.to_thread(find_preset, name)
        before, had_turns = self.session.settings.system, bool(self.session.history.exchanges)
        self.use(replace(self.session.settings, system=system))
        said = f"the system prompt is {name} now"
        if system == before:
            said = f"the system prompt is {name} already"
        elif had_turns:
            said += "; a new chat begins, the one before is in /sessions"
        self.prompt.hint(said, passing=True)

    async def _save(self, name: str, system: str) -> None:
        await asyncio.to_thread(save_preset, name, system)
        self.prompt.hint(f"kept: /preset {name} uses this system prompt again", passing=True)

    async def _delete(self, name: str) -> None:
        await asyncio.to_thread(delete_preset, name)
        self.prompt.hint(f"preset {name} is deleted", passing=True)
