"""What is completed at the cursor, and what matches first."""

import pytest

from app.state.completion import ANSWER_WORDS, FILES, SIDES, Suggestion, Typing, matching, typing_at


@pytest.mark.parametrize(
    ("before", "typing"),
    [
        ("/", Typing("commands", "/", 1)),
        ("/se", Typing("commands", "/se", 3)),
        ("/set ", Typing("words", "", 0, "set")),
        ("/set growmap sm", Typing("values", "sm", 2, "growmap")),
        ("/again temp", Typing(ANSWER_WORDS, "temp", 4, "again")),
        ("/again mode=ar growmap=sm", Typing("values", "sm", 2, "growmap")),
        ("/load my  chat", Typing("sessions", "my  chat", 8, "load")),
        ("/export a", Typing("exports", "a", 1, "a")),
        ("/race greedy vs pl", Typing(SIDES, "pl", 2, "greedy vs ")),
        ("/race greedy vs plain: why", None),
        ("/race look at @src/a", Typing(FILES, "src/a", 6)),
        ("see @src/a", Typing(FILES, "src/a", 6)),
        ('see (@"my fi', Typing(FILES, "my fi", 7)),
        ("me@example", None),
        ("@a.py and", None),
        ("usual text", None),
        ("//comment", None),
    ],
)
def test_what_is_typed_at_the_cursor(before: str, typing: Typing | None) -> None:
    assert typing_at(before, alone=True) == typing


def test_a_slash_in_a_message_of_several_lines_is_no_command() -> None:
    assert typing_at("/se", alone=False) is None


def test_beginnings_come_before_words_before_letters_in_order() -> None:
    names = ["xray", "b/raw", "array", "ra", "my-rate", "roar", "none"]
    found = matching("Ra", map(Suggestion, names))
    assert [each.text for each in found] == ["ra", "b/raw", "my-rate", "xray", "array", "roar"]
    found = matching("Ra", map(Suggestion, names), begins=True)
    assert [each.text for each in found] == ["ra", "b/raw"]


def test_a_file_is_written_so_that_it_is_read_again() -> None:
    typing = Typing(FILES, "my", 3)
    assert typing.written(Suggestion("my file.py", goes_on=True)) == '@"my file.py" '
    assert typing.written(Suggestion("a.py", goes_on=True)) == "@a.py "
    again = Typing(ANSWER_WORDS, "te", 2)
    assert again.written(Suggestion("temperature=", goes_on=True)) == "temperature="
