"""A lane of a race: its figures, its growing text, and the tree of its last step."""

from collections.abc import Sequence
from typing import Any, ClassVar

from rich.segment import Segment
from rich.style import Style
from rich.text import Text
from textual.app import ComposeResult
from textual.containers import Vertical
from textual.content import Content
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip
from typing_extensions import override

from sequoia_core.events import Step

from ..present.accessible import is_accessible, step_in_words
from ..present.minimap import minimap
from ..state.race_state import LanePart
from .blocks import wrap
from .line import Line

AROUND_TITLE = 6  # cells of a frame that its title leaves free
_WRITERS = tuple(f"lane-text--writer-{writer}" for writer in range(5))


def _wrapped(
    parts: tuple[LanePart, ...], own_from: int, width: int, styles: tuple[Style, ...], tinted: bool
) -> list[Strip]:
    style, own_style, *writers = styles
    line = Text()
    for text, writer in parts:
        word = text.lstrip()
        # blanks stay as they are, since an underlined one reads as a character
        line.append(text[: len(text) - len(word)])
        line.append(word, writers[writer] if tinted else None)
    if tinted:  # the tints stay
        own_style = Style(bgcolor=own_style.bgcolor, bold=own_style.bold)
    line.stylize(own_style, own_from)
    rows = wrap(line, width) or [[]]
    return [Strip(Segment.apply_style(row, style)).adjust_cell_length(width, style) for row in rows]


class LaneText(ScrollView, can_focus=False):
    """Plain lines, held at the end; tokens tinted by who wrote them, differences highlighted."""

    COMPONENT_CLASSES: ClassVar[set[str]] = {"lane-text--text", "lane-text--own", *_WRITERS}

    def __init__(self) -> None:
        super().__init__()
        self.own_from: int | None = None
        self.tinted = True
        self._parts: Sequence[LanePart] = ()
        self._lines: list[Strip] = []
        self._wrapped: dict[tuple[Any, ...], list[Strip]] = {}  # by all that it depends on
        self._following = True

    @property
    def text(self) -> str:
        return "".join(part.text for part in self._parts)

    def show(self, parts: Sequence[LanePart], own_from: int | None, *, tinted: bool) -> None:
        """Draw a text that differs from the other lane from the character `own_from` on."""
        shown = tuple(parts)
        if (shown, own_from, tinted) != (self._parts, self.own_from, self.tinted):
            self._parts, self.own_from, self.tinted = shown, own_from, tinted
            self._draw()

    def on_resize(self) -> None:
        self._draw()

    @override
    def notify_style_update(self) -> None:
        super().notify_style_update()
        self.call_later(self._draw)  # component styles change only after this

    def _draw(self) -> None:
        width = self.scrollable_content_region.width
        if width <= 0:
            return
        names = ("lane-text--text", "lane-text--own", *_WRITERS)
        styles = tuple(map(self.get_component_rich_style, names))
        own_from = len(self.text) if self.own_from is None else self.own_from
        self._lines, before, self._wrapped = [], self._wrapped, {}
        for paragraph in _paragraphs(self._parts):
            length = sum(len(part.text) for part in paragraph)
            key = paragraph, min(max(0, own_from), length), width, styles, self.tinted
            # while a text grows, only its last paragraph changes
            lines = before.get(key) or self._wrapped.get(key) or _wrapped(*key)
            self._wrapped[key] = lines
            self._lines += lines
            own_from -= length + 1
        following = self._following
        self.virtual_size = Size(width, len(self._lines))
        if following:
            self.scroll_to(y=self.max_scroll_y, animate=False, force=True)
        self.refresh()

    @override
    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        super().watch_scroll_y(old_value, new_value)
        self._following = new_value >= self.max_scroll_y

    def watch_show_vertical_scrollbar(self) -> None:
        """Set the position of a new scroll bar, which begins at the top."""
        if self.show_vertical_scrollbar:
            self.vertical_scrollbar.position = self.scroll_y

    @override
    def render_line(self, y: int) -> Strip:
        at = y + self.scroll_offset.y
        blank = Strip.blank(self.scrollable_content_region.width, self.rich_style)
        return self._lines[at] if at < len(self._lines) else blank


def _paragraphs(parts: Sequence[LanePart]) -> list[tuple[LanePart, ...]]:
    """The lines of a text without their ends."""
    paragraphs: list[list[LanePart]] = [[]]
    for text, writer in parts:
        first, *others = text.split("\n")
        paragraphs[-1].append(LanePart(first, writer))
        paragraphs += [[LanePart(line, writer)] for line in others]
    return list(map(tuple, paragraphs))


class LanePanel(Vertical):
    """A frame with a line of figures, the text, and a small tree; no step changes their sizes."""

    def __init__(self, *, id: str) -> None:  # noqa: A002
        super().__init__(id=id)
        self.headline, self.text, self.minimap = Line(), LaneText(), Line()
        self.headline.add_class("headline")
        self.minimap.add_class("minimap")
        self._frame = ("", "")
        self._mapped: tuple[Step | None, Size, bool] = (None, Size(), False)

    @override
    def compose(self) -> ComposeResult:
        yield from (self.headline, self.text, self.minimap)

    def entitle(self, title: Content, progress: str) -> None:
        """Set the words in the frame, which are not read as markup."""
        if (title.plain, progress) != self._frame:
            self._frame = title.plain, progress
            self.border_title, self.border_subtitle = title, Content(progress)

    def show_tree(self, step: Step | None) -> None:
        """Draw the tree of a step, or say what it came to where pictures are not read."""
        size, in_words = self.minimap.size, is_accessible(self)
        if (step, size, in_words) == self._mapped:
            return  # the other lane took a step
        self._mapped = step, size, in_words
        if step is None or not size:
            self.minimap.show("")
        elif in_words:
            self.minimap.show(step_in_words(step))
        else:
            self.minimap.show(Content("\n").join(minimap(step, *size)))
