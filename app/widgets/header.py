"""The header line: models, device, tree, temperature; at the right tokens per pass and speed."""

from collections.abc import Iterable

from rich.cells import cell_len
from textual.content import Content
from textual.reactive import reactive
from typing_extensions import override

from sequoia_core.config import Lookup, Mode
from sequoia_core.events import PairDescription, TreeChosen
from sequoia_core.tree.choice import ADAPTIVE

from ..config.model_choice import shows_tree
from ..config.settings import Settings
from ..present.words import token_count
from ..state.answer import Statistics
from ..state.figures import per_pass, shown_why, tree_size
from ..state.sanitize import fit, visible
from .line import Line, first_fitting, speed_text

FIGURES_MEANING = (
    "Tokens per pass: how many tokens each pass of the target, the large model, gives on average, "
    "its own token included. Plain decoding gives 1. This does not depend on how busy the machine "
    "is.",
    "Faster or slower than plain: the time that plain decoding would have taken for the same "
    "tokens, compared with the time they took. About one step in thirty is decoded plainly, in the "
    "same answer, to measure this; these steps do not count in tokens per pass.",
)
"""What the two figures at the right say, a paragraph each."""
_AUTO = "auto"
_PLAIN = "plain decoding"
_LOOKUP = " + lookup"
_TO_LOOK_AT = "tree to look at"  # before it is chosen
_SHORT_NAMES = 14, 10
_FEW_FIGURES = 36  # cells of tokens per pass and wall clock
_NAMED = 80  # columns from which there is room for the models, so for where they run
_LABELLED = 120  # columns from which the context meter is named
_FILLED = 0.75, 0.9  # shares of the context window from which the meter has other colours
_DTYPES = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32"}


class Header(Line):
    """One line; parts that do not fit a narrow terminal are shortened or left out."""

    pair: reactive[PairDescription | None] = reactive(None)
    chosen_tree: reactive[TreeChosen | None] = reactive(None)  # None before it is chosen
    settings: reactive[Settings] = reactive(Settings())
    statistics: reactive[Statistics | None] = reactive(None)  # None before the first step
    status = reactive("")  # a word such as "paused" before the figures
    temperature: reactive[float | None] = reactive(None)  # of a replay, None if not recorded
    context_tokens: reactive[int | None] = reactive(None)  # in the window; None if not known

    def __init__(self, *, replayed: bool = False) -> None:
        super().__init__(id="header")
        self.tooltip = "\n\n".join(FIGURES_MEANING)
        self._replayed = replayed  # `settings` are not those of the recording

    @override
    def render(self) -> Content:
        left = Content.styled(" Sequoia", "bold $primary")
        parts = []
        if self.status:
            parts.append(Content.styled(f" {self.status} ", "bold reverse $bonus"))
        if self.statistics is not None:
            room = self.size.width * 3 // 8 - sum(each.cell_length for each in parts)
            room = max(room, min(self.size.width // 2, _FEW_FIGURES))
            parts.append(first_fitting(_figures(self.statistics), room))
        if self.context_tokens is not None and self.pair is not None:
            meter = self._meter(self.context_tokens, self.pair.context_window)
            taken = sum(each.cell_length + 3 for each in (left, *parts, meter))
            if taken <= self.size.width:
                parts.insert(bool(self.status), meter)
        right = Content("   ").join(parts)
        room = self.size.width - right.cell_length - 3
        for *forms, style in self._parts():
            fits = (form for form in forms if left.cell_length + cell_len(form) + 3 <= room)
            if (form := next(fits, None)) is not None:
                left = Content.assemble(left, "   ", (form, style))
        gap = max(1, self.size.width - left.cell_length - right.cell_length - 1)
        return Content.assemble(left, " " * gap, right, " ")

    def _meter(self, tokens: int, window: int) -> Content:
        """How much of the context window the conversation takes."""
        label = "context " if self.size.width >= _LABELLED else ""
        filled = sum(tokens >= share * window for share in _FILLED)
        style = ("$notice", "$warning", "bold $error")[filled]
        return Content.styled(f"{label}{token_count(tokens)} of {token_count(window)}", style)

    def _parts(self) -> Iterable[list[str]]:
        """The parts at the left, each in its possible forms, the longest first, and its style."""
        if self.pair is not None:
            target = visible(self.pair.target)
            names = [target, *(fit(target, cells).rstrip() for cells in _SHORT_NAMES)]
            if self.pair.draft is not None:
                names.insert(0, f"{target} ← {visible(self.pair.draft)}")
            yield [*names, "$foreground"]
            if self.size.width >= _NAMED:
                number, *kernels = self.pair.dtype.split()
                dtype = " ".join((_DTYPES.get(number, number), *kernels))
                yield [f"{self.pair.device} {dtype}", "$notice"]
        yield [*self._tree_forms(), "$notice"]
        temperature = self.temperature if self._replayed else self.settings.temperature
        if temperature is not None:
            yield [f"temperature {temperature:g}", f"T {temperature:g}", "$notice"]

    def _tree_forms(self) -> list[str]:
        """The tree in words, the longest form first."""
        requested, tree = self.settings.growmap, self.chosen_tree
        if tree is None:
            named = _TO_LOOK_AT if shows_tree(self.settings) else f"tree {visible(requested)}"
            return [_PLAIN if self.settings.mode is Mode.AR else named]
        looks_up = tree.lookup != Lookup.OFF
        if tree.nodes <= 1:
            return ["tree lookup only" if looks_up else _PLAIN]
        adaptive = tree.growmap == ADAPTIVE
        is_auto = requested == _AUTO and not adaptive and not self._replayed
        name = _AUTO if is_auto else visible(tree.growmap)
        size = tree_size(tree)
        nodes = size.partition(",")[0]
        if shown := shown_why(tree):
            brief = f"tree {nodes}, {shown_why(tree, brief=True)}"
            return [f"tree {size}", f"tree {nodes}, {shown}", brief]
        lookup = [f"tree {name}, {size}{_LOOKUP}"] if looks_up else []
        short = [f"tree {size}", f"tree {name}, {nodes}", f"tree {nodes}"]
        return [*lookup, f"tree {name}, {size}", *short]


def _figures(statistics: Statistics) -> Iterable[Content]:
    """The headline, wall clock, and tokens a second where there is room; the longest form first."""
    totals, speedup = statistics.totals, statistics.speedup
    headline = Content.styled(per_pass(totals.tokens_per_step), "bold $foreground")
    brief = Content.styled(f"{totals.tokens_per_step:.2f} per pass", "bold $foreground")
    rate = Content.styled(f"{totals.tokens_per_second:.1f} tokens/s", "$notice")
    if speedup is None:
        forms = [[headline, rate], [headline], [brief]]
    else:
        clock, short = speed_text(speedup), speed_text(speedup, short=True)
        forms = [
            [headline, clock, rate], [headline, short, rate], [headline, short], [brief, short],
            [brief],
        ]  # fmt: skip
    return (Content("   ").join(form) for form in forms)
