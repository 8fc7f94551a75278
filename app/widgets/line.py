"""A widget of fixed height that draws given content without ever causing a layout."""

from textual.content import Content
from textual.widget import Widget
from typing_extensions import override


class Line(Widget):
    """Shows the content it was given last; the style sheet sets its height."""

    ALLOW_SELECT = False
    DEFAULT_CSS = """
    Line { height: 1; text-wrap: nowrap; text-overflow: ellipsis; }
    """

    def __init__(self, content: str | Content = "", *, id: str | None = None) -> None:  # noqa: A002
        super().__init__(id=id)
        self._content = Content.from_text(content, markup=False)

    def show(self, content: str | Content) -> None:
        """Draw other content; plain text is never read as markup."""
        fresh = Content.from_text(content, markup=False)
        if not fresh.is_same(self._content):
            self._content = fresh
            self.refresh()

    @override
    def render(self) -> Content:
        return self._content
