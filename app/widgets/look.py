"""The styles of the transcript in the current theme."""

from dataclasses import dataclass, field

from rich.style import Style
from rich.syntax import SyntaxTheme
from textual.widget import Widget

from ..config.themes import least_contrast
from ..present.code_colors import CODE_STYLES, ReadableCode
from ..present.markdown import MarkdownRenderer, MarkdownStyles

STYLES = (
    "text", "user", "name", "note", "error", "figures", "heading", "code", "quiet", "fence",
    "walked", "walked-bonus", "match", "rank-0", "rank-1", "rank-2", "rank-3",
)  # fmt: skip
CSS = """
    Transcript {
        overflow-x: hidden;
        border-subtitle-color: $primary;
        & .transcript--text { color: $foreground; }
        & .transcript--user { color: $user; text-style: bold; }
        & .transcript--name, & .transcript--heading { color: $primary; text-style: bold; }
        & .transcript--note, & .transcript--figures, & .transcript--quiet { color: $notice; }
        & .transcript--error { color: $error; }
        & .transcript--code { color: $secondary; }
        & .transcript--fence { background: $surface; }
        & .transcript--walked { color: $accepted; background: $accepted 25%; text-style: bold; }
        & .transcript--walked-bonus { color: $bonus; background: $bonus 25%; text-style: bold; }
        & .transcript--match { color: $bonus; text-style: bold underline; }
        & .transcript--rank-0 { color: $bonus; text-style: bold; }
        & .transcript--rank-1 { color: $rank-1; }
        & .transcript--rank-2 { color: $rank-2; text-style: underline; }
        & .transcript--rank-3 { color: $rank-3; text-style: italic underline; }
    }
"""


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What the lines of the transcript are drawn with.

    Attributes:
        styles: by the names in `STYLES`.
        markdown: draws Markdown in them.
    """

    styles: dict[str, Style] = field(hash=False)
    markdown: MarkdownRenderer


def current_look(transcript: Widget) -> Look:
    """The look in the theme in use."""
    styles = {name: transcript.get_component_rich_style(f"transcript--{name}") for name in STYLES}
    markdown = MarkdownStyles(
        styles["heading"], styles["code"], styles["quiet"], *_code_colors(transcript)
    )
    return Look(styles, MarkdownRenderer(markdown))


def _code_colors(transcript: Widget) -> tuple[str, SyntaxTheme | str]:
    """Background and colours of code blocks."""
    theme = transcript.app.current_theme
    if transcript.app.native_ansi_color:
        return "default", "ansi_dark" if theme.dark else "ansi_light"
    fence = transcript.get_component_styles("transcript--fence").background
    ink = transcript.get_component_styles("transcript--text").color
    return fence.hex6, ReadableCode(CODE_STYLES[theme.dark], fence, ink, least_contrast(theme))
