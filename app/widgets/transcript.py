"""The conversation: messages one under another, held at the end until a person scrolls away."""

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widgets import Static

from ..answer import Answer
from ..visible import visible
from .answer_view import AnswerView
from .line import Line

WELCOME = """\
Every step of the decoding is drawn: a small draft model grows a tree of guesses, the target \
model reads all of them in one pass, and the path it accepts is kept, with one token of its own.

  ✔ accepted   ✘ rejected   · not reached   ➜ the target's own token

Type a message and press Enter. F2 pauses, Space then runs one step, [ and ] walk back and \
forth through the steps, F1 shows all keys, /? all commands."""


class Transcript(VerticalScroll, can_focus=True):
    """Messages and notes in order; nothing in them is ever read as markup."""

    def __init__(self) -> None:
        super().__init__(id="transcript")
        self._welcome = Static(Content(WELCOME), classes="welcome", markup=False)
        # At least as high as the view: an anchored scroll would push less to the bottom.
        self._messages = Vertical(self._welcome, id="messages")

    def compose(self) -> ComposeResult:
        """The messages."""
        yield self._messages

    def on_mount(self) -> None:
        """Stay at the end while text arrives."""
        self.border_title = "Chat"
        self.anchor()

    async def add_user(self, text: str) -> None:
        """A message of the person."""
        shown = visible(text).expandtabs(4)
        name = Line(Content.styled("You", "bold $user"))
        await self._add(Vertical(name, Static(Content(shown), markup=False), classes="user"))
        self.anchor()

    async def add_answer(self, answer: Answer, name: str) -> AnswerView:
        """An answer that will grow."""
        view = AnswerView(answer, name)
        await self._add(view)
        return view

    async def add_note(self, text: str, *, error: bool = False) -> None:
        """A line that is nobody's message: what a command says, a notice, an error."""
        classes = "note error" if error else "note"
        await self._add(Static(Content(visible(text)), classes=classes, markup=False))

    async def clear(self) -> None:
        """Back to the welcome text."""
        await self._messages.remove_children(".user, .answer, .note")
        self._welcome.display = True

    async def _add(self, widget: Vertical | Static) -> None:
        self._welcome.display = False
        await self._messages.mount(widget)
