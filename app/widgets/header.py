"""The header line: the pair, device, tree and temperature; at the right the speed and speed-up."""

from collections.abc import Iterable

from textual.content import Content

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
    """One line; parts that do not fit a narrow terminal are shortened or left out."""

    def __init__(self) -> None:
        super().__init__(id="header")
        self.tooltip = SPEEDUP_MEANING
        self._pair: PairDescription | None = None
        self._tree: TreeChosen | None = None
        self._settings = Settings()
        self._statistics: Statistics | None = None
        self._status = ""

    def show_pair(self, pair: PairDescription) -> None:
        """Name the models."""
        self._pair = pair
        self.refresh()

    def show_tree(self, tree: TreeChosen | None) -> None:
        """Name the tree shape in use; None where it is yet to be chosen."""
        if tree is not self._tree:
            self._tree = tree
            self.refresh()

    def show_settings(self, settings: Settings) -> None:
        """Show temperature, mode and growmap."""
        self._settings = settings
        self.refresh()

    def show_statistics(self, statistics: Statistics | None) -> None:
        """Show the speed of the answer; None for nothing measured yet."""
        if statistics is not self._statistics:
            self._statistics = statistics
            self.refresh()

    def show_status(self, status: str) -> None:
        """Show a word such as "paused" before the figures; "" for none."""
        if status != self._status:
            self._status = status
            self.refresh()

    def render(self) -> Content:
        """As many parts as fit the width."""
        right = self._right()
        room = self.size.width - right.cell_length - 3
        left = Content.styled(" Sequoia", "bold $primary")
        for choices in self._left():
            part = next((c for c in choices if left.cell_length + c.cell_length + 3 <= room), None)
            if part is not None:
                left = Content.assemble(left, "   ", part)
        gap = max(1, self.size.width - left.cell_length - right.cell_length - 1)
        return Content.assemble(left, " " * gap, right, " ")

    def _left(self) -> Iterable[list[Content]]:
        """The parts, each as the ways to write it, longest first."""
        if self._pair is not None:
            target = visible(self._pair.target)
            names = [target, *(fit(target, cells).rstrip() for cells in _SHORT_NAMES)]
            if self._pair.draft is not None:
                names.insert(0, f"{target} ← {visible(self._pair.draft)}")
            yield [Content.styled(name, "$foreground") for name in names]
            number, *kernels = self._pair.dtype.split()
            dtype = " ".join((_DTYPES.get(number, number), *kernels))
            yield [Content.styled(f"{self._pair.device} {dtype}", "$notice")]
        tree = self._tree_text()
        choices = [tree, tree.removesuffix(_LOOKUP)]
        if self._tree is not None and self._tree.nodes > 1:
            choices.append(f"tree {choices[-1].rpartition(' ')[2]}")  # without its name
        yield [Content.styled(text, "$notice") for text in choices]
        yield [Content.styled(f"T {self._settings.temperature:g}", "$notice")]

    def _tree_text(self) -> str:
        asked, tree = self._settings.growmap, self._tree
        if tree is None:
            return _PLAIN if self._settings.mode is Mode.AR else f"tree {visible(asked)}"
        looks_up = tree.lookup != Lookup.OFF
        if tree.nodes <= 1:
            return "tree lookup only" if looks_up else _PLAIN
        adaptive = tree.growmap == ADAPTIVE
        name = asked if asked == _AUTO and not adaptive else visible(tree.growmap)
        limit = "≤" if adaptive else ""
        return f"tree {name} {limit}{tree.nodes}x{tree.depth}{_LOOKUP if looks_up else ''}"

    def _right(self) -> Content:
        parts: list[Content] = []
        if self._status:
            parts.append(Content.styled(self._status, "bold reverse $bonus"))
        if self._statistics is not None:
            speed = self._statistics.totals.tokens_per_second
            parts.append(Content.styled(f"{speed:.1f} tok/s", "bold $foreground"))
            if self._statistics.speedup is not None:
                speedup = f"{self._statistics.speedup:.2f}x plain"
                parts.append(Content.styled(speedup, "bold $speedup"))
        return Content("   ").join(parts)
