"""What a recording is, and under it the caption of the moment on show."""

from typing import NamedTuple

from textual.content import Content
from textual.reactive import reactive
from typing_extensions import override

from ..present.accessible import is_accessible
from ..state.sanitize import fit, one_line
from .line import Line

_MARK = 3  # cells of the mark before a caption, and of the margin after it


class CaptionShown(NamedTuple):
    title: str = ""
    origin: str = ""  # when and on what it was recorded
    text: str = ""
    stands: bool = False  # the recording waits for it, or stopped there


class CaptionBar(Line):
    """A line of title and origin, and the caption in the lines under it."""

    ID = "caption"
    shown: reactive[CaptionShown] = reactive(CaptionShown())

    @override
    def render(self) -> Content:
        now, width = self.shown, self.size.width
        mark = " " if is_accessible(self) else "▌"
        style = "bold $foreground" if now.stands else "$notice"
        rows = max(1, self.size.height - 1)
        text = Content(one_line(now.text))
        lines = text.wrap(max(1, width - _MARK)) if now.text else []
        if len(lines) > rows:
            rest = " ".join(line.plain for line in lines[rows - 1 :])
            lines[rows - 1 :] = [Content(fit(rest, width - _MARK))]
        shown = [Content.assemble((f" {mark}", "$primary"), (each.plain, style)) for each in lines]
        if self.size.height > 1:
            shown.insert(0, self._heading(now, width))
        return Content("\n").join(shown)

    def _heading(self, now: CaptionShown, width: int) -> Content:
        """The title, and at the right as much of the origin as there is room for."""
        title = Content.styled(fit(f" {one_line(now.title)}", width).rstrip(), "bold $primary")
        room = width - title.cell_length - 3
        origin = fit(one_line(now.origin), room).rstrip() if room > 0 else ""
        gap = " " * max(0, width - title.cell_length - Content(origin).cell_length - 1)
        return Content.assemble(title, gap, (origin, "$notice"))
