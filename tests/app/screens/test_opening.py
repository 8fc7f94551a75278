"""What is opened is where it belongs: the hit of a search in view, a race's result in its place."""

from pathlib import Path

import pytest
from rich.segment import Segment

from app.screens.sessions import SearchScreen
from app.store.archive import Archive
from tests.app.driving import Driver
from tests.app.records import recording, say
from tests.app.screens.test_race import over
from tests.app.screens.test_sessions import chatting, path, rows
from tests.fakes import RacingEngine

__all__ = ["path"]

PARTS = 16


def article(name: str, **words: int) -> str:
    """A long answer of paragraphs, lists, code and tables; words in some of its parts."""
    parts = []
    for part in range(PARTS):
        word = " ".join(word for word, at in words.items() if at == part) or "nothing"
        kinds = [
            f"Part {part} of {name} is *rather* long and has {word} in **it**. "
            + "So it is. " * 30,
            "\n".join(f"- item {item} of {name}" for item in range(9)) + f" and **{word}**",
            f"```\nfor each in range({part}):\n    print(each)\n\n{word} = each\n```",
            f"| {name} | what |\n|---|---|\n| {part} | {word} |\n| and | more |",
        ]
        parts.append(kinds[part % len(kinds)])
    return "\n\n".join(parts)


def in_view(chat: Driver) -> list[list[Segment]]:
    """The lines of the chat that are in view."""
    transcript = chat.app.chat.transcript
    return [transcript.item_at(y) or [] for y in range(transcript.size.height)]


def seen(chat: Driver) -> str:
    return "\n".join("".join(part.text for part in line) for line in in_view(chat))


def marked(chat: Driver) -> list[str]:
    """What is marked in view."""
    style = chat.app.chat.transcript.get_component_rich_style("transcript--match")
    parts = [part for line in in_view(chat) for part in line]
    return [part.text for part in parts if part.style and part.style + style == part.style]


async def open_hit(chat: Driver, words: str, hit: str = "") -> None:
    """Search and open a hit: the only one, or the newest that shows these words."""
    await chat.type(f"/search {words}", "enter")
    await chat.until(lambda: isinstance(chat.app.screen, SearchScreen) and bool(rows(chat)))
    for _ in range(next(at for at, row in enumerate(rows(chat)) if hit in row)):
        await chat.pilot.press("down")
    await chat.pilot.press("enter")
    await chat.until(lambda: chat.app.screen is chat.app.chat and not chat.app.workers)


# Hits


@pytest.mark.parametrize("at", [1, 10, PARTS - 1])
@pytest.mark.parametrize(("size", "last"), [((120, 44), True), ((120, 44), False), ((30, 8), True)])
async def test_a_hit_in_an_answer_is_in_view_and_marked(
    path: Path, size: tuple[int, int], at: int, last: bool
) -> None:
    with recording(path) as recorder:
        first = say(recorder, "the first", article("first"))
        found = say(recorder, "the second", article("second", zebra=at), first.id)
        if not last:
            say(recorder, "the third", article("third"), found.id)
    async with chatting(path, size=size) as chat:
        await open_hit(chat, "zebra")
        assert "zebra" in seen(chat)
        assert marked(chat) == ["zebra"]


@pytest.mark.parametrize("last", [True, False])
async def test_a_hit_in_a_message_is_in_view_with_the_beginning_of_its_answer(
    path: Path, last: bool
) -> None:
    with recording(path) as recorder:
        first = say(recorder, "the first", article("first"))
        found = say(recorder, "where the zebra is", article("second"), first.id)
        if not last:
            say(recorder, "the third", article("third"), found.id)
    async with chatting(path) as chat:
        await open_hit(chat, "zebra wher")
        assert marked(chat) == ["wher", "zebra"]
        assert "Part 0 of second" in seen(chat)


async def test_a_hit_is_where_most_of_the_words_stand_together(path: Path) -> None:
    text = article("it", zebra=2, lion=11) + "\n\nA zebra, and a lion."
    with recording(path) as recorder:
        say(recorder, "is there a lion?", text)
    async with chatting(path) as chat:
        await open_hit(chat, "zebra lion")
        assert marked(chat) == ["zebra", "lion"]


async def test_hits_are_in_view_on_any_branch_one_after_another(path: Path) -> None:
    names = {"alpha": 3, "beta": 7, "gamma": 13, "delta": 14}
    texts = [article("it", **{f"zebra {name}": at}) for name, at in names.items()]
    with recording(path) as recorder:
        first = say(recorder, "the first", texts[0])
        say(recorder, "the second", texts[1], first.id)
        say(recorder, "another second", texts[2], first.id)
        say(recorder, "another first", texts[3])
    async with chatting(path) as chat:
        for name in ("beta", "gamma", "delta", "alpha"):
            await chat.pilot.press("f6")  # tinted, and not
            await open_hit(chat, "zebra", f"zebra {name}")
            assert f"zebra {name}" in seen(chat)
            assert marked(chat) == ["zebra"]
        await chat.pilot.press("alt+left", "alt+left", "alt+right")
        assert chat.app.chat.transcript.follows  # another branch is shown from its end
        assert marked(chat) == []


async def test_remarks_on_a_chat_leave_the_hit_in_view(path: Path) -> None:
    with recording(path) as recorder:
        recorder.about("another model " * 30, None, None)
        say(recorder, "the first", "So it is.\n\n" * 40 + "zebra" + "\n\nSo it is." * 15)
    async with chatting(path) as chat:
        await open_hit(chat, "zebra")
        assert "another model" in chat.transcript
        assert marked(chat) == ["zebra"]


async def test_the_message_is_in_view_too_where_the_hit_is_near(path: Path) -> None:
    with recording(path) as recorder:
        first = say(recorder, "the first", article("first"))
        say(recorder, "the second", article("second", zebra=1), first.id)
    async with chatting(path) as chat:
        await open_hit(chat, "zebra")
        assert marked(chat) == ["zebra"]
        assert seen(chat).splitlines()[1].strip() == "the second"


async def test_a_hit_is_found_when_the_chat_comes_on_show(path: Path) -> None:
    with recording(path) as recorder:
        say(recorder, "the first", article("it", zebra=7))
    async with chatting(path, size=(60, 30)) as chat:
        await chat.pilot.press("f4")  # the tree takes the place of the chat
        await open_hit(chat, "zebra")
        assert not chat.app.chat.transcript.is_on_screen
        await chat.pilot.press("f4", "f4")
        await chat.until(lambda: marked(chat) == ["zebra"])


async def test_a_hit_stays_in_view_at_any_width_until_one_scrolls(path: Path) -> None:
    with recording(path) as recorder:
        first = say(recorder, "the first", article("it"))
        say(recorder, "the second", article("it", zebra=9), first.id)
    async with chatting(path, size=(120, 24)) as chat:
        await open_hit(chat, "zebra")
        for width in (70, 120, 40):
            await chat.pilot.resize_terminal(width, 24)
            await chat.until(lambda: marked(chat) == ["zebra"])
        chat.app.chat.transcript.scroll_to(y=0, animate=False)
        await chat.pilot.resize_terminal(100, 24)
        await chat.pilot.pause()
        assert marked(chat) == []


async def test_nothing_is_marked_any_more_once_the_chat_goes_on(path: Path) -> None:
    with recording(path) as recorder:
        say(recorder, "the zebra", "A zebra.")
    async with chatting(path) as chat:
        await open_hit(chat, "zebra")
        assert marked(chat) == ["zebra", "zebra"]
        await chat.ask("And then?")
        assert seen(chat).count("zebra") == 2
        assert marked(chat) == []


# Races


async def test_a_race_before_the_first_message_stays_in_the_session(path: Path) -> None:
    async with chatting(path, RacingEngine()) as chat:
        await chat.type("Why is the sky blue?", "f3")
        await over(chat)
        await chat.pilot.press("escape", "enter")
        await chat.finish()
        await chat.ask("And the sea?")
        before = chat.transcript
        assert before.index("Race, ") < before.index("Why is the sky blue?")
        await chat.type("/clear", "enter")
        assert "Race, " not in chat.transcript
        await chat.type("/load Why", "enter")
        await chat.until(lambda: "And the sea?" in chat.transcript)
        assert chat.transcript == before
        await chat.pilot.press("ctrl+r")
        await chat.finish()
        assert chat.transcript.count("Race, ") == 1
    async with chatting(path) as chat:
        await open_hit(chat, "sea")
        assert chat.transcript.count("Race, ") == 1


async def test_a_race_stands_after_the_message_it_was_run_after(path: Path) -> None:
    async with chatting(path, RacingEngine()) as chat:
        await chat.ask("the first")
        await chat.type("/race another prompt", "enter")
        await over(chat)
        await chat.pilot.press("escape")
        await chat.ask("the second")
        await chat.pilot.press("ctrl+e", "!", "enter")
        await chat.finish()
        await chat.pilot.press("f3")
        await over(chat)
        await chat.pilot.press("escape")
        before = chat.transcript
        await chat.pilot.press("alt+left")
        other = chat.transcript
        assert (before.count("Race, "), other.count("Race, ")) == (2, 1)
        await chat.pilot.press("alt+right")
    async with chatting(path) as chat:
        await chat.type("/load the first", "enter")
        await chat.until(lambda: "the second!" in chat.transcript)
        assert chat.transcript == before
        await chat.pilot.press("alt+left")
        assert chat.transcript == other


async def test_a_race_and_nothing_more_leaves_no_session(path: Path) -> None:
    async with chatting(path, RacingEngine()) as chat:
        await chat.type("Why is the sky blue?", "f3")
        await over(chat)
        await chat.pilot.press("escape", "ctrl+o")
        await chat.until(lambda: "no session yet" in chat.screen_text())
    assert Archive(path).sessions() == []
