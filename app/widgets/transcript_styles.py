"""The styles of the transcript in the current theme; colours of code that stay readable in it."""

from dataclasses import dataclass

from rich.style import Style
from rich.syntax import PygmentsSyntaxTheme, SyntaxTheme
from textual.color import Color
from textual.widget import Widget
from typing_extensions import override

from ..config.themes import least_contrast
from ..present.markdown import MarkdownRenderer

STYLES = (
    "text", "user", "name", "heading", "note", "figures", "quiet", "error", "code", "fence", "fold",
    "walked", "walked-bonus", "match", "rank-0", "rank-1", "rank-2", "rank-3", "looked-up",
)  # fmt: skip
"""The classes `transcript--NAME` of the style sheet."""
CODE_STYLES = {True: "lightbulb", False: "xcode"}
"""Pygments styles for dark and for light themes: those whose palest colour is the most readable."""
_BLENDS = 20


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the lines of the transcript are drawn with: styles by the names in `STYLES`."""

    styles: dict[str, Style]
    markdown: MarkdownRenderer


def current_look(transcript: Widget) -> Look:
    styles = {name: transcript.get_component_rich_style(f"transcript--{name}") for name in STYLES}
    theme, background = transcript.app.current_theme, "default"
    colors: SyntaxTheme | str = "ansi_dark" if theme.dark else "ansi_light"
    if not transcript.app.native_ansi_color:
        fence = transcript.get_component_styles("transcript--fence").background
        ink = transcript.get_component_styles("transcript--text").color
        background = fence.hex6
        colors = ReadableCode(CODE_STYLES[theme.dark], fence, ink, least_contrast(theme))
    strong, code, quiet = styles["heading"], styles["code"], styles["quiet"]
    return Look(styles, MarkdownRenderer(strong, code, quiet, background, colors))


class ReadableCode(PygmentsSyntaxTheme):
    """A Pygments style whose colours are made `readable`."""

    def __init__(self, style: str, ground: Color, ink: Color, least: float) -> None:
        super().__init__(style)
        self._read_on = ground, ink, least
        self._readable: dict[tuple[str, ...], Style] = {}

    @override
    def get_style_for_token(self, token_type: tuple[str, ...]) -> Style:
        style = self._readable.get(token_type)
        if style is None:
            style = super().get_style_for_token(token_type)
            if style.color is not None and style.color.triplet is not None:
                color = readable(Color(*style.color.triplet), *self._read_on)
                style += Style(color=color.hex6)
            self._readable[token_type] = style
        return style


def readable(color: Color, ground: Color, ink: Color, least: float) -> Color:
    """The colour, blended with the ink as little as gives this contrast (WCAG 2) with the ground.

    No colour gets more contrast than the ink has.
    """
    blends = (color.blend(ink, step / _BLENDS) for step in range(_BLENDS))
    return next((blend for blend in blends if _contrast(blend, ground) >= least), ink)


def _contrast(first: Color, second: Color) -> float:
    dark, light = sorted((_luminance(first), _luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: Color) -> float:
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4
        for share in color.normalized
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
