"""A widget of fixed height that draws given content: changing it never lays out anything."""

from textual.content import Content
from textual.widget import Widget


class Line(Widget):
    """Shows the content it was given last; the style sheet gives its height."""

    ALLOW_SELECT = False
    DEFAULT_CSS = """
    Line { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self, content: str | Content = "", *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._content = Content(content) if isinstance(content, str) else content

    def show(self, content: str | Content) -> None:
        """Draw other content; plain text is never read as markup."""
        fresh = Content(content) if isinstance(content, str) else content
        if fresh != self._content:
            self._content = fresh
            self.refresh()

    def render(self) -> Content:
        """The content."""
        return self._content
