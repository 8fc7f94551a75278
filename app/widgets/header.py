"""The header line: models, device, tree and temperature; at the right the speed and speed-up."""

from collections.abc import Iterable

from textual.content import Content
from textual.reactive import reactive
from typing_extensions import override

from sequoia_core.config import Lookup, Mode
from sequoia_core.events import PairDescription, TreeChosen
from sequoia_core.tree.choice import ADAPTIVE

from ..config.settings import Settings
from ..state.sanitize import fit, visible
from ..state.stats import Statistics
from .line import Line

SPEEDUP_MEANING = (
    "Speed-up over plain decoding: the time that the tokens would have taken in plain steps, over "
    "the time they took. About one step in thirty is decoded plainly, in the same answer and on "
    "the machine as it is then, to know what a plain step takes."
)
_AUTO = "auto"
_PLAIN = "plain decoding"
_LOOKUP = " + lookup"
_SHORT_NAMES = 14, 10
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


class Header(Line):
    """One line; parts that do not fit a narrow terminal are shortened or left out.

    Attributes:
        pair: the models.
        chosen_tree: the tree shape in use; None before it is chosen.
        settings: temperature, mode and growmap are shown.
        statistics: of the answer; None before the first step.
        status: a word such as "paused" before the figures, or "".
    """

    pair: reactive[PairDescription | None] = reactive(None)
    chosen_tree: reactive[TreeChosen | None] = reactive(None)
    settings: reactive[Settings] = reactive(Settings())
    statistics: reactive[Statistics | None] = reactive(None)
    status = reactive("")

    def __init__(self) -> None:
        super().__init__(id="header")
        self.tooltip = SPEEDUP_MEANING

    @override
    def render(self) -> Content:
        right = self._right()
        room = self.size.width - right.cell_length - 3
        left = Content.styled(" Sequoia", "bold $primary")
        for choices in self._parts():
            part = next((c for c in choices if left.cell_length + c.cell_length + 3 <= room), None)
            if part is not None:
                left = Content.assemble(left, "   ", part)
        gap = max(1, self.size.width - left.cell_length - right.cell_length - 1)
        return Content.assemble(left, " " * gap, right, " ")

    def _parts(self) -> Iterable[list[Content]]:
        """The parts at the left, each in its possible forms, the longest first."""
        if self.pair is not None:
            target = visible(self.pair.target)
            names = [target, *(fit(target, cells).rstrip() for cells in _SHORT_NAMES)]
            if self.pair.draft is not None:
                names.insert(0, f"{target} ← {visible(self.pair.draft)}")
            yield [Content.styled(name, "$foreground") for name in names]
            number, *kernels = self.pair.dtype.split()
            dtype = " ".join((_DTYPES.get(number, number), *kernels))
            yield [Content.styled(f"{self.pair.device} {dtype}", "$notice")]
        tree = self._tree_text()
        forms = [tree, tree.removesuffix(_LOOKUP)]
        if self.chosen_tree is not None and self.chosen_tree.nodes > 1:
            forms.append(f"tree {forms[-1].rpartition(' ')[2]}")  # without its name
        yield [Content.styled(text, "$notice") for text in forms]
        temperature = self._temperature()
        if temperature is not None:
            yield [Content.styled(f"T {temperature:g}", "$notice")]

    def _temperature(self) -> float | None:
        return self.settings.temperature

    def _requested_growmap(self) -> str:
        return self.settings.growmap

    def _tree_text(self) -> str:
        requested, tree = self._requested_growmap(), self.chosen_tree
        if tree is None:
            return _PLAIN if self.settings.mode is Mode.AR else f"tree {visible(requested)}"
        looks_up = tree.lookup != Lookup.OFF
        if tree.nodes <= 1:
            return "tree lookup only" if looks_up else _PLAIN
        adaptive = tree.growmap == ADAPTIVE
        name = requested if requested == _AUTO and not adaptive else visible(tree.growmap)
        limit = "≤" if adaptive else ""
        return f"tree {name} {limit}{tree.nodes}x{tree.depth}{_LOOKUP if looks_up else ''}"

    def _right(self) -> Content:
        parts: list[Content] = []
        if self.status:
            parts.append(Content.styled(f" {self.status} ", "bold reverse $bonus"))
        if self.statistics is not None:
            speed = self.statistics.totals.tokens_per_second
            parts.append(Content.styled(f"{speed:.1f} tok/s", "bold $foreground"))
            if self.statistics.speedup is not None:
                speedup = f"{self.statistics.speedup:.2f}x plain"
                parts.append(Content.styled(speedup, "bold $speedup"))
        return Content("   ").join(parts)


class ReplayHeader(Header):
    """Shows only what a recording holds: no requested tree, and not always a temperature.

    Attributes:
        temperature: None where it was not recorded.
    """

    temperature: reactive[float | None] = reactive(None)

    @override
    def _temperature(self) -> float | None:
        return self.temperature

    @override
    def _requested_growmap(self) -> str:
        return self.chosen_tree.growmap if self.chosen_tree is not None else self.settings.growmap
