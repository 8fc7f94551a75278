"""Everything that keys and the command palette do, each action declared once, in `ACTIONS`.

From it come the bindings of the screens, the command palette, the help, the words of the key bar,
and what `[keys]` in the configuration file can change.
"""

from dataclasses import dataclass
from functools import partial

from textual.binding import Binding, BindingType

from sequoia_core.config import Mode


@dataclass(frozen=True, slots=True)
class Action:
    id: str  # its context, which is the screen or widget where it acts, a dot and a name
    keys: tuple[str, ...]  # as Textual names them; none for an action of the palette alone
    run: str  # the action of Textual
    title: str  # for the palette and the settings screen
    help: str = ""  # what it does, for the palette and the help; "" for neither
    bar: str = ""  # its word in the key bar
    in_palette: bool = False
    priority: bool = False  # whether it acts before the focused widget sees the key
    listed_with: str = ""  # id of the action in whose line of the help its keys are listed

    @property
    def context(self) -> str:
        return self.id.partition(".")[0]


# in the palette, before the focused widget, or both
_shown = partial(Action, in_palette=True)
_first = partial(Action, priority=True)
_global = partial(Action, in_palette=True, priority=True)

ACTIONS = (
    _first("app.palette", ("ctrl+p",), "command_palette", "Command palette", "command palette",
           "palette"),
    _shown("app.picture", (), "app.picture", "Screenshot", "save the screen as an SVG here"),
    _global("app.quit", ("ctrl+q",), "app.quit", "Quit", "quit", "quit"),

    Action("prompt.send", ("enter",), "send", "Send", "send", "send"),
    Action("prompt.new_line", ("shift+enter", "ctrl+j", "newline", "alt+enter"), "new_line",
           "New line", "new line"),

    _shown("chat.stop", ("escape",), "stop", "Stop the answer",
           "stop the answer; its text so far stays", "stop"),
    _global("chat.pause", ("f2",), "pause", "Pause or resume",
            "pause or resume the decoding between steps", "pause"),
    Action("chat.step", ("space",), "single_step", "One step while paused",
           "exactly one step, while paused and the prompt is empty", "one step"),
    Action("chat.step_before", ("left", "left_square_bracket"), "walk('back')", "Step before",
           "walk through the steps of all answers, while the prompt is empty; keys that write do "
           "so in the tree, while paused, and while an earlier step is shown", "steps"),
    Action("chat.step_after", ("right", "right_square_bracket"), "walk('forward')", "Step after",
           listed_with="chat.step_before"),
    Action("chat.first_step", ("home",), "walk('first')", "First step",
           "first step, pressed again the answer before; back to live", "first step"),
    Action("chat.live", ("end",), "walk('live')", "Back to live", bar="live",
           listed_with="chat.first_step"),
    _global("chat.edit", ("ctrl+e",), "branch('edit')", "Edit a message",
            "edit the last message, pressed again or Up the one before; Enter branches off",
            "edit"),
    _global("chat.again", ("ctrl+r",), "branch('again')", "Ask again",
            "ask the last message again; the answer there is stays", "again"),
    _global("chat.branch_before", ("alt+left",), "branch('before')", "Branch before",
            "the branch before or after, at the message that says 2 of 3"),
    _global("chat.branch_after", ("alt+right",), "branch('after')", "Branch after",
            "the branch after, at the message that says 2 of 3", listed_with="chat.branch_before"),
    _global("chat.sessions", ("ctrl+o",), "run_line('/continue')", "Sessions",
            "all chats: open, rename, delete; after a kill, continue the last one", "sessions"),
    _shown("chat.search", (), "run_line('/search')", "Search", "in everything that was ever said"),
    _shown("chat.clear", (), "run_line('/clear')", "Clear", "begin another chat"),
    _shown("chat.race", ("f3",), "race", "Race the prompt",
           "plain and speculative decoding of a prompt, side by side", "race"),
    _global("chat.copy", ("ctrl+y",), "run_line('/copy')", "Copy the last answer",
            "copy the last answer; Ctrl+C what is selected; /copy code a block of code"),
    _shown("chat.copy_code", (), "run_line('/copy code')", "Copy code",
           "the last code block of the last answer that has one"),
    _global("chat.tree", ("f4",), "tree", "Tree, acceptance map or none",
            "tree, acceptance map, or neither (under 100 columns: for the chat)", "tree"),
    _shown("chat.why", (), "why", "Why", "explain the node pointed at in the tree"),
    _global("chat.tint", ("f6",), "tint", "Tint tokens by origin",
            "tint each token by where it came from", "tint"),
    _global("chat.settings", ("f5",), "run_line('/settings')", "Settings",
            "settings, which are kept; keys can be changed there", "settings"),
    _shown("chat.show", (), "run_line('/show')", "Show settings", "settings, pair and tree"),
    *(
        _shown(f"chat.mode_{mode.value}", (), f"run_line('/set mode {mode.value}')",
               f"Mode: {mode.value}", f"/set mode {mode.value}")
        for mode in Mode
    ),
    _global("chat.help", ("f1",), "run_line('/?')", "Help", "keys and commands", "help"),
    Action("chat.leave", ("ctrl+d",), "app.quit", "Quit", "quit, while the prompt is empty"),

    Action("help.close", ("escape", "f1", "q", "enter", "question_mark"), "dismiss", "Close"),

    Action("race.leave", ("escape",), "leave", "Stop, then back to the chat", bar="stop"),
    Action("race.pause", ("f2",), "pause", "Pause or resume", bar="pause"),
    Action("race.step", ("space",), "single_step", "One step while paused", bar="one step"),
    Action("race.again", ("r", "f3"), "again", "Race again", bar="race again"),
    Action("race.up", ("up",), "scroll(-1)", "Scroll both texts up"),
    Action("race.down", ("down",), "scroll(1)", "Scroll both texts down"),
    Action("race.page_up", ("pageup",), "scroll(-10)", "Page up"),
    Action("race.page_down", ("pagedown",), "scroll(10)", "Page down"),
    Action("race.home", ("home",), "scroll_to(0)", "To the beginning"),
    Action("race.end", ("end",), "scroll_to(1)", "To the end"),

    Action("search.close", ("escape",), "leave", "Close"),
    _first("search.next", ("down",), "move('cursor_down')", "Next hit"),
    _first("search.before", ("up",), "move('cursor_up')", "Hit before"),
    _first("search.page_down", ("pagedown",), "move('page_down')", "Next page"),
    _first("search.page_up", ("pageup",), "move('page_up')", "Page before"),

    Action("sessions.close", ("escape",), "leave", "Close"),
    Action("sessions.rename", ("r",), "rename", "Rename"),
    Action("sessions.delete", ("d", "delete"), "delete", "Delete"),
    Action("sessions.undo", ("u",), "undo", "Undo"),
    Action("sessions.search", ("slash",), "search", "Search"),

    Action("settings.close", ("escape", "f5"), "leave", "Close"),
    Action("settings.change", ("enter",), "change", "Change"),
    Action("settings.before", ("left",), "turn(-1)", "Value before"),
    Action("settings.after", ("right",), "turn(1)", "Value after"),
    Action("settings.default", ("d", "delete"), "default", "Back to the default"),
    Action("choice.close", ("escape",), "dismiss(None)", "Leave it"),
    _first("key.close", ("escape",), "dismiss(None)", "Leave it"),
    _first("key.default", ("backspace",), "default", "The default"),

    Action("tree.up", ("up",), "point(-1)", "Node before", "in the tree: the node before or after"),
    Action("tree.down", ("down",), "point(1)", "Node after", listed_with="tree.up"),
    Action("tree.page_up", ("pageup",), "page(-1)", "Page up"),
    Action("tree.page_down", ("pagedown",), "page(1)", "Page down"),
    Action("tree.why", ("enter",), "explain", "Why this node",
           "in the tree: why the node came out so (or click it)", "why"),
    Action("heat.up", ("up",), "scroll_up", "Scroll up"),
    Action("heat.down", ("down",), "scroll_down", "Scroll down"),
    Action("heat.page_up", ("pageup",), "page_up", "Page up"),
    Action("heat.page_down", ("pagedown",), "page_down", "Page down"),

    _global("replay.play", ("space",), "play", "Play or pause",
            "play or pause; at the end, play again", "pause"),
    _first("replay.step_before", ("left_square_bracket",), "go('back')", "Step before",
           "one step back or on; pauses", "step"),
    _first("replay.step_after", ("right_square_bracket",), "go('forward')", "Step after",
           listed_with="replay.step_before"),
    _first("replay.earlier", ("left",), "go('earlier')", "Two seconds back",
           "two seconds of the recording back or on", "2 s"),
    _first("replay.later", ("right",), "go('later')", "Two seconds on",
           listed_with="replay.earlier"),
    _global("replay.first", ("home",), "go('first')", "Beginning", "to the beginning"),
    _global("replay.last", ("end",), "go('last')", "End", "to the end"),
    _first("replay.answer_before", ("p",), "go('answer back')", "Answer before",
           "where this answer begins, the one before; next", "answer"),
    _first("replay.answer_after", ("n",), "go('answer forward')", "Answer after",
           listed_with="replay.answer_before"),
    _first("replay.faster", ("plus", "equals_sign"), "faster(1)", "Faster", "faster, slower",
           "speed"),
    _first("replay.slower", ("minus",), "faster(-1)", "Slower", listed_with="replay.faster"),
    _global("replay.tree", ("f4",), "tree", "Tree, acceptance map or none",
            "tree, acceptance map or neither", "tree"),
    _global("replay.tint", ("f6",), "tint", "Tint tokens by origin",
            "tint each token by where it came from", "tint"),
    _global("replay.help", ("f1", "question_mark"), "help", "Help", "this help", "help"),
    Action("replay.close", ("escape",), "close", "Close what explains a node"),
    Action("replay.leave", ("q", "ctrl+d"), "app.quit", "Quit", "quit", "quit"),
)  # fmt: skip
"""In the order of the settings screen; within a context in the order of the help."""


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


KeyRow = tuple[tuple[str, str], ...]
"""Ids of actions, or keys that cannot be changed, and what they do; for the key bar."""


def key_row(*items: str | tuple[str, str]) -> KeyRow:
    """A row of the key bar: ids, or pairs of ids and another word for what they do."""
    by_id = {each.id: each for each in ACTIONS}
    return tuple(each if isinstance(each, tuple) else (each, by_id[each].bar) for each in items)
