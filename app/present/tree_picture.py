"""A step's token tree as a picture for a talk: an SVG, its depth to the right."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple
from xml.etree import ElementTree as Xml

from rich.cells import cell_len

from sequoia_core.errors import counted
from sequoia_core.events import PairDescription, Step

from ..state.sanitize import fit, one_line, quote_token
from .tree_rows import BONUS_NODE, NodeVerdict, verdict_of

_MONO = "DejaVu Sans Mono, Menlo, Consolas, monospace"
_SANS = "DejaVu Sans, Helvetica, Arial, sans-serif"
_CELL = 0.603  # width of a monospaced character, in its size
_LARGE, _SMALL = 13, 10  # sizes of a token and of its probabilities, in pixels
_LONGEST = 18  # cells of a token
_ROOMY = 20  # leaves up to which probabilities have a line of their own
_MARGIN, _HEAD, _FOOT = 28, 84, 52
_MARK = 16  # for the mark in front of a token
_GAP = 56  # between a node and its children
_THINNEST, _THICKEST = 1.0, 9.0  # of a line, for probabilities 0 and 1
_PASSED_OVER = frozenset({NodeVerdict.REJECTED, NodeVerdict.NOT_REACHED})
_ORDER = (
    NodeVerdict.NOT_REACHED, NodeVerdict.REJECTED, NodeVerdict.BONUS, NodeVerdict.ACCEPTED,
    NodeVerdict.ROOT,
)  # fmt: skip
"""The path is drawn last, over all others."""
_FAINT = 0.18  # opacity of a box's inside


class _Box(NamedTuple):
    node: int
    verdict: NodeVerdict
    token: str  # quoted and cut
    probs: str
    weight: float  # of the line that leads to it: the probability with which it was guessed
    depth: int
    parent: int


def tree_svg(
    step: Step, pair: PairDescription | None, so_far: float, colors: Mapping[str, str]
) -> str:
    """The tree of a step. The shape of a box says what its colour says.

    Args:
        step: to be drawn.
        pair: the models, for the title.
        so_far: tokens per pass up to this step; 0 if not known.
        colors: CSS colours by name, those of a theme: verdicts, background, foreground, notice.
    """
    return _Drawing(step, colors).svg(_title(pair), _subtitle(step, so_far))


def _title(pair: PairDescription | None) -> str:
    if pair is None:
        return "Token tree"
    draft = f" with {pair.draft}" if pair.draft else ""
    return one_line(f"{pair.target}{draft}")


def _subtitle(step: Step, so_far: float) -> str:
    tokens = counted(len(step.token_ids), "token")
    depth = max(node.depth for node in step.nodes)
    size = f"{counted(len(step.nodes), 'node')}, depth {depth}"
    text = f"Step {step.index}: {tokens} from one pass of the target, in "
    text += f"{step.timings.total_ms:.1f} ms. Tree of {size}."
    return text + (f" So far {so_far:.2f} tokens per pass." if so_far else "")


def _boxes(step: Step) -> list[_Box]:
    """In preorder, the target's own token last below the end of the path."""
    boxes, stack = [], [0]
    while stack:
        index = stack.pop()
        if index == BONUS_NODE:
            end = step.path[-1]
            boxes.append(
                _Box(
                    index, NodeVerdict.BONUS, _token(step.bonus_text), f"{step.bonus_prob:.2f}",
                    step.bonus_prob, step.nodes[end].depth + 1, end,
                )
            )  # fmt: skip
            continue
        node = step.nodes[index]
        known = [each for each in (node.draft_prob, node.target_prob) if each is not None]
        boxes.append(
            _Box(
                index, verdict_of(node), _token(node.text), "/".join(f"{p:.2f}" for p in known),
                node.draft_prob or 0.0, node.depth, node.parent,
            )
        )  # fmt: skip
        below = [*step.children[index], *([BONUS_NODE] if index == step.path[-1] else [])]
        stack += reversed(below)
    return boxes


def _token(text: str) -> str:
    return fit(quote_token(text), _LONGEST).rstrip()


@dataclass(slots=True)
class _Place:
    x: float
    y: float  # of the middle
    width: float


class _Drawing:
    def __init__(self, step: Step, colors: Mapping[str, str]) -> None:
        self._colors, self._boxes = colors, _boxes(step)
        parents = {box.parent for box in self._boxes if box.node != 0}  # its own is no node
        leaves = sum(box.node not in parents for box in self._boxes)
        self._roomy = leaves <= _ROOMY
        self._height, self._pitch = (38.0, 48.0) if self._roomy else (21.0, 25.0)
        self._places = self._placed(parents)
        self._right = max(place.x + place.width for place in self._places.values())
        self._bottom = _HEAD + leaves * self._pitch

    def _placed(self, parents: set[int]) -> dict[int, _Place]:
        """Leaves one below the other, each other node at the middle of its children."""
        widths: dict[int, float] = {}
        for box in self._boxes:
            widths[box.depth] = max(widths.get(box.depth, 0.0), self._width_of(box))
        x, lefts = float(_MARGIN), dict[int, float]()
        for depth in sorted(widths):
            lefts[depth], x = x, x + widths[depth] + _GAP
        places: dict[int, _Place] = {}
        ends: dict[int, list[float]] = {}
        leaf = 0
        for box in reversed(self._boxes):  # children before their parents
            if box.node in parents:
                y = (min(ends[box.node]) + max(ends[box.node])) / 2
            else:
                leaf += 1
                y = -leaf * self._pitch
            ends.setdefault(box.parent, []).append(y)
            places[box.node] = _Place(lefts[box.depth], y, self._width_of(box))
        for place in places.values():
            place.y += _HEAD + (leaf + 0.5) * self._pitch
        return places

    def _width_of(self, box: _Box) -> float:
        token, probs = cell_len(box.token) * _CELL * _LARGE, len(box.probs) * _CELL * _SMALL
        inside = max(token, probs) if self._roomy else token + probs + _SMALL * bool(probs)
        return _MARK + inside + 20

    def svg(self, title: str, subtitle: str) -> str:
        least = 2 * _MARGIN + max(len(title) * 11.5, len(subtitle) * 8.0, 970.0)
        width, height = max(self._right + _MARGIN, least), self._bottom + _FOOT
        size = f"{width:.0f}", f"{height:.0f}"
        root = Xml.Element(
            "svg", xmlns="http://www.w3.org/2000/svg", width=size[0], height=size[1],
            viewBox=f"0 0 {size[0]} {size[1]}", role="img",
        )  # fmt: skip
        Xml.SubElement(root, "title").text = title
        Xml.SubElement(root, "desc").text = subtitle
        Xml.SubElement(root, "rect", width="100%", height="100%", fill=self._colors["background"])
        self._text(root, _MARGIN, 38, title, 20, "foreground", bold=True, font=_SANS)
        self._text(root, _MARGIN, 62, subtitle, 14, "notice", font=_SANS)
        boxes = sorted(self._boxes, key=lambda box: _ORDER.index(box.verdict))
        for box in boxes:
            if box.parent >= 0:
                self._line(root, box)
        for box in boxes:
            self._box(root, box)
        self._legend(root, height - 22)
        Xml.indent(root)
        return Xml.tostring(root, encoding="unicode") + "\n"

    def _line(self, root: Xml.Element, box: _Box) -> None:
        start, end = self._places[box.parent], self._places[box.node]
        left, right = start.x + start.width, end.x
        width = _THINNEST + box.weight * (_THICKEST - _THINNEST)
        middle = (left + right) / 2
        line = Xml.SubElement(
            root, "path", fill="none", stroke=self._color(box.verdict),
            d=f"M{left:.1f} {start.y:.1f}C{middle:.1f} {start.y:.1f} {middle:.1f} {end.y:.1f} "
            f"{right:.1f} {end.y:.1f}",
        )  # fmt: skip
        line.set("stroke-width", f"{width:.2f}")
        if box.verdict is NodeVerdict.REJECTED:
            line.set("stroke-dasharray", "7 4")
            line.set("stroke-opacity", "0.7")
        elif box.verdict is NodeVerdict.NOT_REACHED:  # dots, as far apart as they are large
            line.set("stroke-dasharray", f"0 {2.0 * width:.2f}")
            line.set("stroke-linecap", "round")
            line.set("stroke-opacity", "0.6")

    def _box(self, root: Xml.Element, box: _Box) -> None:
        place = self._places[box.node]
        top = place.y - self._height / 2
        self._outline(root, box.verdict, place.x, top, place.width, self._height)
        self._mark(
            root, box.verdict, place.x + 14, place.y - (8 if self._roomy and box.probs else 0)
        )
        x, color = place.x + 10 + _MARK, box.verdict.color
        bold = box.verdict not in _PASSED_OVER
        if self._roomy:
            base = place.y - 3 if box.probs else place.y + 5
            self._text(root, x, base, box.token, _LARGE, color, bold=bold)
            self._text(root, x, place.y + 12, box.probs, _SMALL, "notice")
        else:
            self._text(root, x, place.y + 4.5, box.token, _LARGE, color, bold=bold)
            end = x + cell_len(box.token) * _CELL * _LARGE + _SMALL
            self._text(root, end, place.y + 4, box.probs, _SMALL, "notice")

    def _outline(
        self, root: Xml.Element, verdict: NodeVerdict, x: float, y: float, width: float,
        height: float,
    ) -> None:  # fmt: skip
        """Round for accepted, an arrow for the target's own, a dashed corner for rejected."""
        color = self._color(verdict)
        if verdict is NodeVerdict.NOT_REACHED:
            return
        if verdict is NodeVerdict.BONUS:
            tip, end, middle = x + width + 10, y + height, y + height / 2
            shape = Xml.SubElement(
                root, "path", d=f"M{x:.1f} {y:.1f}H{x + width:.1f}L{tip:.1f} {middle:.1f}"
                f"L{x + width:.1f} {end:.1f}H{x:.1f}Z",
            )  # fmt: skip
        else:
            radius = 0 if verdict is NodeVerdict.REJECTED else height / 2.6
            shape = Xml.SubElement(
                root, "rect", x=f"{x:.1f}", y=f"{y:.1f}", width=f"{width:.1f}",
                height=f"{height:.1f}", rx=f"{radius:.1f}",
            )  # fmt: skip
        shape.set("fill", self._colors["background"])
        if verdict is NodeVerdict.REJECTED:
            shape.set("stroke-dasharray", "5 3")
        else:
            tinted = Xml.SubElement(root, shape.tag, dict(shape.attrib))
            tinted.set("fill", color)
            tinted.set("fill-opacity", f"{_FAINT}")
            shape = tinted
        shape.set("stroke", color)
        shape.set("stroke-width", "1.2" if verdict is NodeVerdict.REJECTED else "2")

    def _mark(self, root: Xml.Element, verdict: NodeVerdict, x: float, y: float) -> None:
        """A tick, a cross, an arrow, a point or a disc, drawn, as fonts may not have them."""
        color = self._color(verdict)
        if verdict in (NodeVerdict.ROOT, NodeVerdict.NOT_REACHED):
            radius = "4" if verdict is NodeVerdict.ROOT else "1.8"
            Xml.SubElement(root, "circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=radius, fill=color)
            return
        lines = {
            NodeVerdict.ACCEPTED: f"M{x - 4:.1f} {y:.1f}l3 4l6 -8",
            NodeVerdict.REJECTED: f"M{x - 4:.1f} {y - 4:.1f}l8 8m0 -8l-8 8",
            NodeVerdict.BONUS: f"M{x - 5:.1f} {y:.1f}h9m-4 -4l4 4l-4 4",
        }
        mark = Xml.SubElement(root, "path", d=lines[verdict], fill="none", stroke=color)
        mark.set("stroke-width", "2")

    def _legend(self, root: Xml.Element, y: float) -> None:
        x = float(_MARGIN)
        for verdict in list(NodeVerdict)[1:]:
            words = verdict.words
            width = _MARK + 14 + len(words) * 7.4
            self._outline(root, verdict, x, y - 11, width, 22)
            self._mark(root, verdict, x + 13, y)
            self._text(root, x + _MARK + 8, y + 4.5, words, 12, verdict.color, font=_SANS)
            x += width + 26
        words = "numbers: probability by the draft / by the target; width of a line: the draft's"
        self._text(root, x, y + 4.5, words, 12, "notice", font=_SANS)

    def _text(
        self, root: Xml.Element, x: float, y: float, text: str, size: int, color: str, *,
        bold: bool = False, font: str = _MONO,
    ) -> None:  # fmt: skip
        if not text:
            return
        element = Xml.SubElement(
            root, "text", x=f"{x:.1f}", y=f"{y:.1f}", fill=self._colors[color],
        )  # fmt: skip
        element.set("font-family", font)
        element.set("font-size", str(size))
        if bold:
            element.set("font-weight", "bold")
        element.text = text

    def _color(self, verdict: NodeVerdict) -> str:
        return self._colors[verdict.color]
