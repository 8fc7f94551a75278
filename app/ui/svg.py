"""SVG pictures of a screen that fetch nothing: fonts are named, never loaded from a server."""

import re

_FONT_FACE = re.compile(r"@font-face \{[^}]*\}\s*")
_COMMENT = re.compile(r"<!--.*?-->\s*", re.DOTALL)
_FAMILY = "font-family: Fira Code, monospace;"
_LOCAL_FAMILY = (
    'font-family: "Fira Code", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace;'
)


def with_local_fonts(svg: str) -> str:
    """An SVG by rich without the fonts from a server; the drawing itself is not changed."""
    style, end, drawing = svg.partition("</style>")
    style = _COMMENT.sub("", _FONT_FACE.sub("", style)).replace(_FAMILY, _LOCAL_FAMILY)
    return style + end + drawing
