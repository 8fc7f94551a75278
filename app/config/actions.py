"""Everything that keys and the command palette do, each action declared once, in `ACTIONS`.

From it come the bindings of the screens, the command palette, the help, the words of the key bar,
and what `[keys]` in the configuration file can change.
"""

from dataclasses import dataclass

from textual.binding import Binding, BindingType

from sequoia_core.config import Mode


@dataclass(frozen=True, slots=True)
class Action:
    """Something that a key or the palette does.

    Attributes:
        id: its context, which is the screen or widget where it acts, a dot and a name.
        keys: as Textual names them; none for an action of the palette alone.
        run: the action of Textual.
        title: for the palette and the settings screen.
        help: what it does, for the palette and the help; "" for neither.
        bar: its word in the key bar.
        in_palette: whether the palette offers it.
        priority: whether it acts before the focused widget sees the key.
        listed_with: id of the action in whose line of the help its keys are listed.
    """

    id: str
    keys: tuple[str, ...]
    run: str
    title: str
    help: str = ""
    bar: str = ""
    in_palette: bool = False
    priority: bool = False
    listed_with: str = ""

    @property
    def context(self) -> str:
        """Where it acts."""
        return self.id.partition(".")[0]


ACTIONS = (
    Action("app.palette", ("ctrl+p",), "command_palette", "Command palette", "command palette",
           "palette", priority=True),
    Action("app.picture", (), "app.picture", "Screenshot", "save the screen as an SVG here",
           in_palette=True),
    Action("app.quit", ("ctrl+q",), "app.quit", "Quit", "quit", "quit", in_palette=True,
           priority=True),

    Action("prompt.send", ("enter",), "send", "Send", "send", "send"),
    Action("prompt.new_line", ("shift+enter", "ctrl+j", "newline", "alt+enter"), "new_line",
           "New line", "new line"),

    Action("chat.stop", ("escape",), "stop", "Stop the answer",
           "stop the answer; its text so far stays", "stop", in_palette=True),
    Action("chat.pause", ("f2",), "pause", "Pause or resume",
           "pause or resume the decoding between steps", "pause", in_palette=True, priority=True),
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
    Action("chat.edit", ("ctrl+e",), "branch('edit')", "Edit a message",
           "edit the last message, pressed again or Up the one before; Enter branches off", "edit",
           in_palette=True, priority=True),
    Action("chat.again", ("ctrl+r",), "branch('again')", "Ask again",
           "ask the last message again; the answer there is stays", "again", in_palette=True,
           priority=True),
    Action("chat.branch_before", ("alt+left",), "branch('before')", "Branch before",
           "the branch before or after, at the message that says 2 of 3", in_palette=True,
           priority=True),
    Action("chat.branch_after", ("alt+right",), "branch('after')", "Branch after",
           "the branch after, at the message that says 2 of 3", in_palette=True, priority=True,
           listed_with="chat.branch_before"),
    Action("chat.sessions", ("ctrl+o",), "sessions", "Sessions",
           "all chats: open, rename, delete; after a kill, continue the last one", "sessions",
           in_palette=True, priority=True),
    Action("chat.search", (), "run_line('/search')", "Search", "in everything that was ever said",
           in_palette=True),
    Action("chat.clear", (), "run_line('/clear')", "Clear", "begin another chat", in_palette=True),
    Action("chat.race", ("f3",), "race", "Race the prompt",
           "plain and speculative decoding of a prompt, side by side", "race", in_palette=True),
    Action("chat.copy", ("ctrl+y",), "copy_answer", "Copy the last answer",
           "copy the last answer; Ctrl+C what is selected; /copy code a block of code",
           in_palette=True, priority=True),
    Action("chat.copy_code", (), "run_line('/copy code')", "Copy code",
           "the last code block of the last answer that has one", in_palette=True),
    Action("chat.tree", ("f4",), "tree", "Tree, heat map or none",
           "tree, heat map of acceptance, or neither (under 100 columns: for the chat)", "tree",
           in_palette=True, priority=True),
    Action("chat.why", (), "why", "Why", "explain the node pointed at in the tree",
           in_palette=True),
    Action("chat.tint", ("f6",), "tint", "Tint tokens by origin",
           "tint each token by where it came from", "tint", in_palette=True, priority=True),
    Action("chat.settings", ("f5",), "settings", "Settings",
           "settings, which are kept; keys can be changed there", "settings", in_palette=True,
           priority=True),
    Action("chat.show", (), "run_line('/show')", "Show settings", "settings, pair and tree",
           in_palette=True),
    *(
        Action(f"chat.mode_{mode.value}", (), f"run_line('/set mode {mode.value}')",
               f"Mode: {mode.value}", f"/set mode {mode.value}", in_palette=True)
        for mode in Mode
    ),
    Action("chat.help", ("f1",), "help", "Help", "keys and commands", "help", in_palette=True,
           priority=True),
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
    Action("search.next", ("down",), "move('down')", "Next hit", priority=True),
    Action("search.before", ("up",), "move('up')", "Hit before", priority=True),
    Action("search.page_down", ("pagedown",), "move('page_down')", "Next page", priority=True),
    Action("search.page_up", ("pageup",), "move('page_up')", "Page before", priority=True),

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
    Action("key.close", ("escape",), "dismiss(None)", "Leave it", priority=True),
    Action("key.default", ("backspace",), "default", "The default", priority=True),

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

    Action("replay.play", ("space",), "play", "Play or pause",
           "play or pause; at the end, play again", "pause", in_palette=True, priority=True),
    Action("replay.step_before", ("left_square_bracket",), "go('back')", "Step before",
           "one step back or on; pauses", "step", priority=True),
    Action("replay.step_after", ("right_square_bracket",), "go('forward')", "Step after",
           priority=True, listed_with="replay.step_before"),
    Action("replay.earlier", ("left",), "go('earlier')", "Two seconds back",
           "two seconds of the recording back or on", "2 s", priority=True),
    Action("replay.later", ("right",), "go('later')", "Two seconds on", priority=True,
           listed_with="replay.earlier"),
    Action("replay.first", ("home",), "go('first')", "Beginning", "to the beginning",
           in_palette=True, priority=True),
    Action("replay.last", ("end",), "go('last')", "End", "to the end", in_palette=True,
           priority=True),
    Action("replay.answer_before", ("p",), "go('answer back')", "Answer before",
           "where this answer begins, the one before; next", "answer", priority=True),
    Action("replay.answer_after", ("n",), "go('answer forward')", "Answer after", priority=True,
           listed_with="replay.answer_before"),
    Action("replay.faster", ("plus", "equals_sign"), "faster(1)", "Faster", "faster, slower",
           "speed", priority=True),
    Action("replay.slower", ("minus",), "faster(-1)", "Slower", priority=True,
           listed_with="replay.faster"),
    Action("replay.tree", ("f4",), "tree", "Tree, heat map or none",
           "tree, heat map of acceptance or neither", "tree", in_palette=True, priority=True),
    Action("replay.tint", ("f6",), "tint", "Tint tokens by origin",
           "tint each token by where it came from", "tint", in_palette=True, priority=True),
    Action("replay.help", ("f1", "question_mark"), "help", "Help", "this help", "help",
           in_palette=True, priority=True),
    Action("replay.close", ("escape",), "close", "Close what explains a node"),
    Action("replay.leave", ("q", "ctrl+d"), "app.quit", "Quit", "quit", "quit"),
)  # fmt: skip
"""In the order of the settings screen; within a context in the order of the help."""

_BY_ID = {each.id: each for each in ACTIONS}


def actions(*contexts: str) -> list[Action]:
    """The actions of these contexts, one context after the other."""
    return [each for context in contexts for each in ACTIONS if each.context == context]


def bindings(context: str) -> list[BindingType]:
    """The keys of a screen or widget, for its `BINDINGS`."""
    return [
        Binding(
            key=",".join(each.keys),
            action=each.run,
            description=each.title,
            show=False,
            priority=each.priority,
            id=each.id,
        )
        for each in actions(context)
        if each.keys
    ]


KeyRow = tuple[tuple[str, str], ...]
"""Ids of actions, or keys that cannot be changed, and what they do; for the key bar."""


def key_row(*items: str | tuple[str, str]) -> KeyRow:
    """A row of the key bar: ids, or pairs of ids and another word for what they do."""
    return tuple(each if isinstance(each, tuple) else (each, _BY_ID[each].bar) for each in items)
