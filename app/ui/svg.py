"""Pictures of a screen as SVG that fetch nothing: fonts are named, never loaded from a server."""

import re

_FONT_FACE = re.compile(r"@font-face \{[^}]*\}\s*")
_COMMENT = re.compile(r"<!--.*?-->\s*", re.DOTALL)
_FAMILY = "font-family: Fira Code, monospace;"
_LOCAL_FAMILY = (
    'font-family: "Fira Code", "Cascadia Mono", "DejaVu Sans Mono", Menlo, Consolas, monospace;'
)


def with_local_fonts(svg: str) -> str:
    """An SVG of rich without its fonts from a third party's server.

    The text of the screen, which may read like a style, stays as it is.
    """
    style, end, drawing = svg.partition("</style>")
    style = _COMMENT.sub("", _FONT_FACE.sub("", style)).replace(_FAMILY, _LOCAL_FAMILY)
    return style + end + drawing
