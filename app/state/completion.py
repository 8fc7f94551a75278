"""What is typed at the cursor that can be completed, and which suggestions match it."""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from .attachments import mention
from .slash_commands import COMPLETED, command_name, is_command

COMMANDS, WORDS, VALUES, FILES, EXPORTS = "commands", "words", "values", "files", "exports"
ANSWER_WORDS, SIDES = "settings of one answer", "sides"
"""Sources of suggestions; those of other arguments are in `slash_commands.toml`."""
MOST = 50  # suggestions that one can move to
_SEEN = 300  # characters before the cursor in which a file's name is looked for
_MENTION = re.compile(r'(?:^|[\s(\[{])(@(?:"([^"\n]*)|([^\s"@]*)))$')
_PROMPT = re.compile(r":(?:\s|$)")  # a colon that one follows in `/race`
_SEPARATORS = "/-_. "


@dataclass(frozen=True, slots=True)
class Suggestion:
    text: str  # compared with what is typed, and written for it
    help: str = ""  # one line
    goes_on: bool = False  # something else is typed after it


@dataclass(frozen=True, slots=True)
class Typing:
    """Text at the cursor that can be completed."""

    source: str  # of suggestions
    typed: str
    length: int  # characters before the cursor that a suggestion replaces
    of: str = ""  # what else its suggestions depend on: a command, a setting, the name of a file

    def written(self, suggestion: Suggestion) -> str:
        """What takes the place of the typed text."""
        text = mention(suggestion.text) if self.source == FILES else suggestion.text
        return text + " " if suggestion.goes_on and not text.endswith("=") else text


def typing_at(before: str, *, alone: bool) -> Typing | None:
    """What is typed at the end of a line up to the cursor; None for usual text.

    Only a line that is `alone` in the prompt can be a command.
    """
    command = _typed_command(before) if alone and is_command(before) else None
    if command is not None and command.source != SIDES:
        return command
    found = _MENTION.search(before[-_SEEN:])
    if found is None:
        return command
    name = found[3] if found[2] is None else found[2]
    return Typing(FILES, name, len(found[1]))


def _typed_command(before: str) -> Typing | None:
    """Of a command, and its argument; None where that is a prompt."""
    word, space, words = before.partition(" ")
    if not space:
        return Typing(COMMANDS, word, len(word))
    command, argument = command_name(word), words.lstrip()
    if command == "set":
        name, space, value = argument.partition(" ")
        if space:
            return Typing(VALUES, value.lstrip(), len(value.lstrip()), name)
    if command == "again":  # its last word, NAME=VALUE
        word = argument.rpartition(" ")[2]
        name, equals, value = word.partition("=")
        if equals:
            return Typing(VALUES, value, len(value), name)
        return Typing(ANSWER_WORDS, word, len(word), command)
    source = COMPLETED.get(command, WORDS)
    if source == SIDES:  # the last of their words
        sides, space, word = argument.rpartition(" ")
        prompt = _PROMPT.search(argument)
        return None if prompt else Typing(source, word, len(word), sides + space)
    return Typing(source, argument, len(argument), argument if source == EXPORTS else command)


def matching(
    typed: str, suggestions: Iterable[Suggestion], *, begins: bool = False
) -> list[Suggestion]:
    """Those that begin with the text, then those with it elsewhere, then with its letters in order.

    Only the first where it `begins` them. Within each group they keep their order.
    (`textual.fuzzy` tries every way to match the letters, whose number explodes with the length of
    a path.)
    """
    wanted = typed.casefold()
    ranked = [
        (rank, at, each)
        for at, each in enumerate(suggestions)
        if (rank := _rank(wanted, each.text.casefold())) is not None and (rank < 2 or not begins)
    ]
    return [each for _, _, each in sorted(ranked)[:MOST]]


def _rank(wanted: str, text: str) -> int | None:
    if text.startswith(wanted):
        return 0
    if text.rpartition("/")[2].startswith(wanted):
        return 1
    if wanted in text:
        starts = (text[at - 1] in _SEPARATORS for at in _places(wanted, text))
        return 2 if any(starts) else 3
    letters = iter(text)
    return 4 if all(letter in letters for letter in wanted) else None


def _places(wanted: str, text: str) -> Iterable[int]:
    return (found.start() for found in re.finditer(re.escape(wanted), text))
