"""The acceptance map: how often each position of the tree was accepted, and what was expected."""

from collections.abc import Sequence
from math import prod
from typing import NamedTuple

from rich.cells import cell_len
from textual.color import Color
from textual.content import Content
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from textual.visual import Visual
from typing_extensions import override

from sequoia_core.events import Origin, Outcome, Step

from ..config.actions import bindings
from ..present.accessible import is_accessible
from ..present.tree_rows import MAX_GUIDE_CELLS, Guides, connector, rail
from ..present.words import ordinal
from ..state.answer import Answer, Chosen, Rate
from ..state.sanitize import fit
from .line import gauge

Position = tuple[int, ...]  # child ranks from the root: (1, 2) is the second child of the first
_MOST_POSITIONS = 4096  # trees of a chat may all differ; positions beyond so many are not counted
_LEVEL = 3  # cells of a guide
_HEADINGS = 2
_FIGURES = 18
_LABEL, _LEAST_BAR = 5, 6
_MOST_GUIDES = MAX_GUIDE_CELLS // _LEVEL
_SHADES = 15
_HOTTEST = 0.55
"""Share of the colour in the background of what is always accepted; text stays readable on it."""


class AcceptanceRow(NamedTuple):
    guides: Guides
    position: Position
    rate: Rate  # of the steps that drafted it, those in which it was accepted
    expected: float | None  # the rate that the tree shape was made for


class AcceptanceMap:
    """The steps `first` to `last` of an answer, decoded with one tree shape, by position.

    Looked-up nodes are not counted, as in the statistics: the shape was not made for them.
    """

    def __init__(self) -> None:
        self.chosen: Chosen | None = None
        self.first = self.last = 0
        self._answer: Answer | None = None
        self._counts: dict[Position, Rate] = {}

    @property
    def steps(self) -> int:
        return self.last - self.first + 1 if self._counts else 0

    def follow(self, answer: Answer | None, at: int | None, chosen: Chosen | None) -> bool:
        """Count the steps up to index `at` in `answer.steps` (None: all), decoded with `chosen`.

        Returns whether anything changed.
        """
        steps = answer.steps if answer is not None else []
        upto = steps[-1 if at is None else at].index if steps else 0
        same = answer is self._answer and chosen == self.chosen
        if same and upto == self.last:
            return False
        if not same or upto < self.last:
            self.chosen, self._answer, self._counts = chosen, answer, {}
            self.first = chosen.since if chosen is not None else 1
            self.last = self.first - 1
        for step in steps[self.last : upto]:  # step 1 is the first
            self._count(step)
        self.last = upto
        return True

    def rows(self) -> list[AcceptanceRow]:
        """Positions in preorder, which sorted tuples are, without the root."""
        rates = self.chosen.tree.expected_by_rank if self.chosen is not None else ()
        last_child = {position[:-1]: position for position in sorted(self._counts)}
        rows = []
        for position, rate in sorted(self._counts.items()):
            lasts = [last_child[position[:at]] == position[: at + 1] for at in range(len(position))]
            rails = [rail(last, _LEVEL) for last in lasts[:-1]]
            guides = (*rails, connector(lasts[-1], _LEVEL))
            rows.append(AcceptanceRow(guides, position, rate, expected_rate(position, rates)))
        return rows

    def _count(self, step: Step) -> None:
        positions: list[Position | None] = []
        for node in step.nodes:
            above = positions[node.parent] if node.parent >= 0 else None
            if node.parent < 0:
                positions.append(())
            elif above is None or node.origin is Origin.LOOKUP:
                positions.append(None)
            else:
                position = (*above, node.rank)
                positions.append(position)
                if position in self._counts or len(self._counts) < _MOST_POSITIONS:
                    rate = self._counts.get(position, Rate())
                    self._counts[position] = rate.plus(node.outcome is Outcome.ACCEPTED)


def expected_rate(position: Position, rates: Sequence[float]) -> float | None:
    """The product of the acceptance rates by rank along a position (Sequoia, section 3)."""
    if not rates or max(position) > len(rates):
        return None
    return prod(rates[rank - 1] for rank in position)


class AcceptanceView(ScrollView, can_focus=True, inherit_bindings=False):
    """Positions in preorder with a bar each, actual and expected rate in columns at the right."""

    ALLOW_SELECT = False
    BORDER_TITLE = "Acceptance by place"
    BINDINGS = bindings("heat")

    def __init__(self) -> None:
        super().__init__(id="heat")
        self._map = AcceptanceMap()
        self._rows: list[AcceptanceRow] = []
        self._deepest = 0

    def show(self, answer: Answer | None, at: int | None, chosen: Chosen | None) -> None:
        """Draw the steps that `AcceptanceMap.follow` counts."""
        if not self._map.follow(answer, at, chosen):
            return
        self._rows = self._map.rows()
        levels = min(_MOST_GUIDES, max((len(row.guides) for row in self._rows), default=0))
        self._deepest = 1 + _LEVEL * levels
        height = len(self._rows) + _HEADINGS
        if self.virtual_size.height != height:
            self.virtual_size = Size(self.size.width, height)
        self.refresh()

    @override
    def render_line(self, y: int) -> Strip:
        width = self.scrollable_content_region.width
        strips = Visual.to_strips(self, self._line(y, width), width, 1, self.visual_style)
        return Strip.join(strips).adjust_cell_length(width, self.rich_style)

    def _line(self, y: int, width: int) -> Content:
        at = y - _HEADINGS + self.scroll_offset.y
        if y >= _HEADINGS and at < len(self._rows):
            return self._row(self._rows[at], width)
        text = ""
        if y == 0:
            text = f" {self._title(width - 1)}"
        elif y == 1 and not is_accessible(self):
            text = fit(" guess", max(0, width - _FIGURES - 2)) + f"{'actual':>7} {'expected':>9}   "
        return Content.styled(fit(text, width) or " ", "$notice")

    def _title(self, room: int) -> str:
        """What is counted, with as much of the tree's name as fits."""
        counted = self._map
        what = "how often each place of the tree is accepted"
        forms = [f"here you see {what}", what]
        if counted.steps:
            one = counted.steps == 1
            steps = f"step {counted.last}" if one else f"steps {counted.first} to {counted.last}"
            name = (counted.chosen.tree.growmap if counted.chosen else "") or "this tree"
            brief = f"{steps}, {name.rpartition('/')[2]}"
            forms = [f"accepted in {steps}, {name}", f"accepted in {brief}", brief, steps]
        return next((form for form in forms if cell_len(form) <= room), forms[-1])

    def _row(self, row: AcceptanceRow, width: int) -> Content:
        rate, expected = row.rate.value or 0.0, row.expected
        if is_accessible(self):
            words = f" guess {', '.join(map(ordinal, row.position))}: accepted {rate:.2f}"
            words += "" if expected is None else f", expected {expected:.2f}"
            return Content.styled(fit(words, width), "$foreground")
        most = max(1, min(_MOST_GUIDES, (width - _FIGURES - _LABEL - 1) // _LEVEL))
        guides = Content(" " + "".join(part.text for part in row.guides[-most:]))
        label = ordinal(row.position[-1])
        # All bars begin at one column, so that they can be compared.
        before = max(guides.cell_length, min(self._deepest, width - _FIGURES - _LEAST_BAR)) + _LABEL
        shade = "$foreground"
        if not self.app.native_ansi_color:  # a terminal's own colours cannot be mixed
            accepted = Color.parse(self.app.theme_variables["accepted"])
            share = round(rate * _SHADES) / _SHADES * _HOTTEST
            shade += f" on {self.background_colors[1].blend(accepted, share, alpha=1.0).hex}"
        less = expected is not None and rate < expected
        mark = " " if expected is None else "▼" if less else "▲"
        wanted = "–" if expected is None else f"{expected:.2f}"
        return Content.assemble(
            guides.stylize("$unreached"),
            (label, shade),
            " " * (before - guides.cell_length - len(label)),
            _bar(rate, expected, max(0, width - before - _FIGURES)),
            (f" {rate:.2f}", "$bonus" if less else "bold $accepted"),
            (f" {wanted:>9} {mark} ", "$foreground"),
        )


def _bar(rate: float, expected: float | None, cells: int) -> Content:
    """The rate as a bar, and a mark where the expected one ends."""
    bar = gauge(rate, cells)
    if expected is None or not cells:
        return Content.styled(bar, "$accepted")
    at = min(cells - 1, round(expected * cells))
    return Content.assemble((bar[:at], "$accepted"), ("┃", "$bonus"), (bar[at + 1 :], "$accepted"))
