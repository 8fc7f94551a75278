"""Colours of code that are readable on any theme's background."""

from rich.style import Style
from rich.syntax import PygmentsSyntaxTheme
from textual.color import Color
from typing_extensions import override

CODE_STYLES = {True: "lightbulb", False: "xcode"}
"""Pygments styles for dark and for light themes: those whose palest colour is the most readable."""
_STEPS = 20


class ReadableCode(PygmentsSyntaxTheme):
    """A Pygments style whose colours are blended with the text's colour until they are readable.

    Args:
        style: its name.
        ground: behind the code.
        ink: colour of text.
        least: contrast ratio of WCAG 2 that is wanted; no colour goes beyond that of `ink`.
    """

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
    """The colour, blended with the ink as little as gives this contrast with the ground."""
    for step in range(_STEPS):
        blended = color.blend(ink, step / _STEPS)
        if contrast(blended, ground) >= least:
            return blended
    return ink


def contrast(first: Color, second: Color) -> float:
    """Contrast ratio of WCAG 2, from 1 to 21."""
    dark, light = sorted((_luminance(first), _luminance(second)))
    return (light + 0.05) / (dark + 0.05)


def _luminance(color: Color) -> float:
    shares = (value / 255 for value in (color.r, color.g, color.b))
    red, green, blue = (
        share / 12.92 if share <= 0.04045 else ((share + 0.055) / 1.055) ** 2.4 for share in shares
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
