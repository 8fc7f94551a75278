"""What keys and palette do, declared in `actions.toml`: bindings, help and key bar follow it."""

from collections.abc import Iterator
from pathlib import Path

from textual.binding import Binding, BindingType

from sequoia_core.config import Mode
from sequoia_core.files import Record, decode, parse_toml


class Action(Record, frozen=True):
    id: str  # its context, which is the screen or widget where it acts, a dot and a name
    run: str  # the action of Textual
    title: str  # for the palette and the settings screen
    keys: tuple[str, ...] = ()  # as Textual names them; none for an action of the palette alone
    help: str = ""  # what it does, for the palette and the help; "" for neither
    bar: str = ""  # its word in the key bar
    in_palette: bool = False
    priority: bool = False  # whether it acts before the focused widget sees the key
    listed_with: str = ""  # id of the action in whose line of the help its keys are listed

    @property
    def context(self) -> str:
        return self.id.partition(".")[0]


def _declared() -> Iterator[Action]:
    table = parse_toml(Path(__file__).with_name("actions.toml").read_text("utf-8"))
    for context, entries in table.items():
        for name, entry in entries.items():
            yield decode(Action, {"id": f"{context}.{name}", **entry})
    for mode in Mode:
        command = f"/set mode {mode}"
        yield Action(
            f"chat.mode_{mode}", f"run_line('{command}')", f"Mode: {mode}", help=command,
            in_palette=True,
        )  # fmt: skip


ACTIONS = tuple(_declared())


def actions(*contexts: str) -> list[Action]:
    """The actions of these contexts, one context after the other."""
    return [each for context in contexts for each in ACTIONS if each.context == context]


def bindings(context: str) -> list[BindingType]:
    """The keys of a screen or widget, for its `BINDINGS`."""
    return [
        Binding(keys, each.run, each.title, show=False, priority=each.priority, id=each.id)
        for each in actions(context)
        if (keys := ",".join(each.keys))
    ]
