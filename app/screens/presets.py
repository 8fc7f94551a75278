"""The list of presets: system prompts to choose from."""

from collections.abc import Mapping

from textual import on
from textual.content import Content
from textual.widgets import OptionList

from ..config.actions import bindings
from ..state.sanitize import fit, one_line
from .dialog import Dialog

_NAME_CELLS = 18
_IN_USE = "in use"


class PresetScreen(Dialog[str | None, str]):
    """Ends with the name of the chosen preset, or None."""

    BINDINGS = bindings("choice")
    KEYS = " enter uses it: a new chat begins   esc cancels"

    def __init__(self, presets: Mapping[str, str], now: str | None) -> None:
        super().__init__("System prompt", compact=True)
        self._presets, self._now = presets, now

    def on_resize(self) -> None:
        self.call_after_refresh(self._show)

    def _show(self) -> None:
        at = self._list.highlighted
        if at is None:
            at = next((i for i, name in enumerate(self._presets) if name == self._now), 0)
        self._fill(((name, self._row(name)) for name in self._presets), at)

    def _row(self, name: str) -> Content:
        in_use = name == self._now
        text = one_line(self._presets[name])
        room = max(8, self._room - _NAME_CELLS - len(_IN_USE) - 3)
        return Content.assemble(
            (f" {fit(one_line(name), _NAME_CELLS)} ", "bold" if in_use else ""),
            (f"{fit(text, room)} {_IN_USE if in_use else ''}", "$notice"),
        )

    @on(OptionList.OptionHighlighted)
    def _describe(self) -> None:
        if self._chosen is not None:
            self._help.show(one_line(self._presets[self._chosen]))

    @on(OptionList.OptionSelected)
    def _take(self) -> None:
        self.dismiss(self._chosen)
