"""Sessions on the screen: what was said comes back, in the list, by search, and after a kill."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import pytest
from textual import events
from textual.content import Content
from textual.widgets import Input, OptionList

from app.app import SequoiaApp, Settings
from app.screens.sessions import Place, SearchScreen, SessionsScreen
from app.state.slash_commands import USAGE
from app.store.archive import Archive
from app.store.database import DamagedError
from app.store.growing_answers import GrowingAnswers
from app.store.recorder import DatabaseRecorder
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.events import Event, Step
from tests.app.driving import Driver, driving
from tests.app.records import PATIENCE_SECONDS, exchange, record_chats, say, steps_in
from tests.fakes import ANSWER, make_answer, replay


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "data" / "sessions.db"


@asynccontextmanager
async def chatting(
    path: Path, engine: ChatEngine | None = None, size: tuple[int, int] = (120, 44)
) -> AsyncIterator[Driver]:
    """The app with a record."""
    async with driving(engine, size=size, recorder=DatabaseRecorder(path)) as chat:
        yield chat


def record_of(chat: Driver) -> DatabaseRecorder:
    recorder = chat.app.chat.recorder
    assert isinstance(recorder, DatabaseRecorder)
    return recorder


def rows(chat: Driver) -> list[str]:
    """The lines of the list on show."""
    if not chat.app.screen.query(OptionList):
        return []  # it is still being made
    options = chat.app.screen.query_one(OptionList)
    return [str(options.get_option_at_index(at).prompt) for at in range(options.option_count)]


async def listed(chat: Driver, *wanted: str) -> None:
    """Wait until the list shows these, in this order and no others."""

    def shown() -> bool:
        lines = rows(chat) if isinstance(chat.app.screen, SessionsScreen | SearchScreen) else []
        return len(lines) == len(wanted) and all(
            want in line for want, line in zip(wanted, lines, strict=True)
        )

    await chat.until(shown)


async def told(chat: Driver, words: str) -> None:
    await chat.until(lambda: words in chat.transcript.replace("\n▌", ""))


def said(text: str) -> str:
    """Text on one line, as wrapping makes no difference."""
    return " ".join(text.replace("▌", " ").split())


async def test_what_is_said_is_in_the_record_when_the_app_is_closed(path: Path) -> None:
    async with chatting(path) as chat:
        await chat.ask("Why is the sky blue?")
        await chat.ask("And the sea?")
    (info,) = Archive(path).sessions()
    first, second = Archive(path).load(info.id).history.branch
    assert (first.prompt, second.prompt) == ("Why is the sky blue?", "And the sea?")
    assert second.parent == first.id
    assert first.answer.verbatim == second.answer.verbatim == ANSWER
    steps = [event for event in make_answer() if isinstance(event, Step)]
    assert steps_in(Archive(path), second.id) == steps


async def test_quitting_in_the_middle_of_an_answer_keeps_it(path: Path) -> None:
    async with chatting(path) as chat:
        await chat.pause_at(5)
    (info,) = Archive(path).sessions()
    (only,) = Archive(path).load(info.id).history.branch
    assert only.answer.text
    assert ANSWER.startswith(only.answer.verbatim)
    assert len(steps_in(Archive(path), only.id)) >= 5
    assert only.answer.done


async def test_an_answer_that_quitting_ends_has_the_figures_of_all_its_steps(path: Path) -> None:
    async with chatting(path) as chat:
        await chat.pause_at(5)
        chat.app.chat.decoder.single_step()  # nobody draws it any more
        await chat.app.action_quit()
    (info,) = Archive(path).sessions()
    (only,) = Archive(path).load(info.id).history.branch
    assert only.answer.statistics[-1].totals.steps == len(steps_in(Archive(path), only.id))


async def test_a_chat_that_its_record_is_behind_stays_as_it_is(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chatting(path) as chat:
        await chat.ask("first question")
        record = record_of(chat)
        record.settle(PATIENCE_SECONDS)
        stored = record.archive.load(record.session or "")
        await chat.ask("second question")
        monkeypatch.setattr(record.archive, "load", lambda session: stored)
        chat.app.chat.sessions.open(Place(stored.info.id))
        await chat.until(lambda: "the record is behind" in chat.hint)
        assert "second question" in chat.transcript


async def test_a_session_is_opened_from_the_list_and_goes_on(path: Path) -> None:
    record_chats(path, ("old question", "old **answer**"), ("newer question", "newer"))
    async with chatting(path) as chat:
        await chat.pilot.press("ctrl+o")
        await listed(chat, "newer question", "old question")
        await chat.pilot.press("down", "enter")
        await told(chat, "old answer")
        assert "newer" not in chat.transcript
        await chat.ask("a third question")
    stored = Archive(path).find("old question")
    history = Archive(path).load(stored.id).history
    assert [each.prompt for each in history.branch] == ["old question", "a third question"]


async def test_slash_commands_open_the_list_and_load(path: Path) -> None:
    record_chats(path, ("one", "first answer"), ("two", "second answer"))
    async with chatting(path) as chat:
        await chat.type("/sessions", "enter")
        await listed(chat, "two", "one")
        await chat.pilot.press("escape")
        await chat.type("/load one", "enter")
        await told(chat, "first answer")
        await chat.type("/load nonsense", "enter")
        await chat.until(lambda: "no session is called" in chat.hint)
        assert "first answer" in chat.transcript


async def test_a_name_is_given_and_opens_the_session(path: Path) -> None:
    async with chatting(path) as chat:
        await chat.type("/save early", "enter")
        assert "nothing to save yet" in chat.hint
        await chat.pilot.press("ctrl+u")
        chat.prompt.clear()
        await chat.ask("Why?")
        await chat.type("/save my chat", "enter")
        await chat.until(lambda: "called my chat" in chat.hint)
        await chat.type("/save", "enter")
        assert "a name is missing" in chat.hint
    assert Archive(path).find("MY CHAT").title == "Why?"


async def test_renaming_in_the_list(path: Path) -> None:
    record_chats(path, ("one", "a"), ("two", "b"))
    async with chatting(path) as chat:
        await chat.pilot.press("ctrl+o")
        await listed(chat, "two", "one")
        await chat.pilot.press("r", *"rud", "enter")
        await listed(chat, "rud", "one")
        await chat.pilot.press("down", "r", *"RUD", "enter")
        await chat.until(lambda: "another session is called" in chat.screen_text())
        await chat.pilot.press("r", "x", "escape")
        await listed(chat, "rud", "one")
        await chat.pilot.press("up", "r", *["backspace"] * 3, "enter")
        await listed(chat, "two", "one")
        await chat.pilot.press("escape")
        assert chat.app.screen is chat.app.chat


async def test_deleting_and_bringing_back(path: Path) -> None:
    record_chats(path, ("one", "a"), ("two", "b"), ("three", "c"))
    async with chatting(path) as chat:
        await chat.pilot.press("ctrl+o")
        await listed(chat, "three", "two", "one")
        await chat.pilot.press("d")
        await chat.until(lambda: "deleted, u brings" in rows(chat)[0])
        await chat.pilot.press("enter")
        await chat.until(lambda: "deleted: u brings it back" in chat.screen_text())
        assert isinstance(chat.app.screen, SessionsScreen)
        await chat.pilot.press("down", "delete")
        await chat.until(lambda: "deleted, u brings" in rows(chat)[1])
        await chat.pilot.press("down", "u")
        await chat.until(lambda: "deleted, u brings" not in rows(chat)[1])
        await chat.pilot.press("u")
        await chat.until(lambda: "deleted, u brings" not in rows(chat)[0])
        await chat.pilot.press("u")
        await chat.until(lambda: "nothing was deleted" in chat.screen_text())
        await chat.pilot.press("d")
        await chat.until(lambda: "deleted, u brings" in "".join(rows(chat)))
    assert [info.title for info in Archive(path).sessions()] == ["three", "two"]


async def test_deleting_the_open_session_begins_another(path: Path) -> None:
    async with chatting(path) as chat:
        await chat.ask("first")
        await chat.pilot.press("ctrl+o")
        await listed(chat, "open here")
        await chat.pilot.press("d")
        await chat.until(lambda: "deleted, u brings" in rows(chat)[0])
        await chat.pilot.press("escape")
        await chat.until(lambda: "first" not in chat.transcript)
        await chat.ask("second")
    assert [info.title for info in Archive(path).sessions()] == ["second"]


async def test_clear_begins_another_session(path: Path) -> None:
    async with chatting(path) as chat:
        await chat.ask("first")
        await chat.type("/clear", "enter")
        await chat.ask("second")
    assert [info.title for info in Archive(path).sessions()] == ["second", "first"]


async def test_searching_shows_hits_as_one_types_and_opens_them(path: Path) -> None:
    record_chats(
        path,
        ("Why is the sky blue?", "Rayleigh scattering."),
        ("And the sea?", "It mirrors the **blue** [b]sky[/b]."),
    )
    async with chatting(path) as chat:
        await chat.type("/search sky", "enter")
        await listed(chat, "And the sea?", "Why is the sky blue?")
        assert "[b]sky[/b]" in rows(chat)[0]
        prompt = chat.app.screen.query_one(OptionList).get_option_at_index(1).prompt
        assert isinstance(prompt, Content)
        marked = [
            prompt.plain[span.start : span.end]
            for span in prompt.spans
            if "underline" in str(span.style)
        ]
        assert marked == ["sky"]
        await chat.pilot.press(*" ray")
        await listed(chat, "Why is the sky blue?")
        await chat.pilot.press("enter")
        await told(chat, "Rayleigh scattering.")
        await chat.type("/search", "enter")
        await chat.until(lambda: isinstance(chat.app.screen, SearchScreen))
        await chat.pilot.press(*"nothing at all")
        await chat.until(lambda: "no hit" in chat.screen_text())
        await chat.pilot.press("down", "up", "pagedown", "pageup", "enter", "escape")
        assert chat.app.screen is chat.app.chat


async def test_the_list_leads_to_the_search_and_back(path: Path) -> None:
    record_chats(path, ("one", "a"), ("two", "b"))
    async with chatting(path) as chat:
        await chat.pilot.press("ctrl+o")
        await listed(chat, "two", "one")
        await chat.pilot.press("slash", "o", "n", "e")  # while the search is still being made
        await listed(chat, "one")
        assert chat.app.screen.query_one(Input).value == "one"
        await chat.pilot.press("escape")
        await listed(chat, "two", "one")
        await chat.pilot.press("slash", "t", "w")
        await listed(chat, "two")
        await chat.pilot.press("enter")
        await told(chat, "two")
        assert chat.app.screen is chat.app.chat
        assert "one" not in chat.transcript


async def test_keys_that_come_in_a_burst_reach_the_search(path: Path) -> None:
    record_chats(path, ("one", "a"), ("udder", "b"))
    async with chatting(path) as chat:
        await chat.pilot.press("ctrl+o")
        await listed(chat, "udder", "one")
        for key, character in (("slash", "/"), ("u", "u"), ("d", "d"), ("d", "d")):
            chat.app.post_message(events.Key(key, character))
        await listed(chat, "udder")
        assert chat.app.screen.query_one(Input).value == "udd"
        await chat.pilot.press("escape", "escape")
    assert len(Archive(path).sessions()) == 2


async def test_hundreds_of_sessions_are_searched_and_listed(path: Path) -> None:
    record_chats(path, *((f"question {at}", f"answer number {at}") for at in range(300)))
    async with chatting(path) as chat:
        await chat.pilot.press("ctrl+o")
        await chat.until(
            lambda: isinstance(chat.app.screen, SessionsScreen) and len(rows(chat)) == 300
        )
        await chat.pilot.press("escape")
        await chat.type("/search answer", "enter")
        await chat.until(lambda: "the newest 200 hits" in chat.screen_text())
        await chat.pilot.press(*" 17")
        await listed(chat, *[f"question {at}" for at in (*range(179, 169, -1), 17)])


@contextmanager
def killed_window(path: Path) -> Iterator[DatabaseRecorder]:
    """What a killed window leaves: nothing is ended, and its lock is let go."""
    recorder = DatabaseRecorder(path)
    first = say(recorder, "first question")
    asked = exchange("second question", first.id)
    recorder.begin(asked)
    for event in make_answer()[:9]:
        recorder.event(asked.id, event)
    recorder.settle(PATIENCE_SECONDS)
    lock = recorder._writer._lock
    assert lock is not None
    lock.close()
    recorder._writer._lock = None
    yield recorder
    recorder._writer._answers = GrowingAnswers()
    recorder._writer.pending.clear()
    recorder.close()


async def test_after_a_kill_the_next_start_offers_to_continue(path: Path) -> None:
    with killed_window(path):
        async with chatting(path) as chat:
            await chat.until(lambda: "cut off in the middle of an answer" in said(chat.transcript))
            assert "first question" in chat.transcript
            await chat.pilot.press("ctrl+o")
            await chat.until(lambda: "second question" in chat.transcript)
            text = said(chat.transcript)
            assert "The sky is blue" in text
            assert "^r regenerates it" in text
            await chat.ask("third question")
    (info,) = Archive(path).sessions()
    branch = Archive(path).load(info.id).history.branch
    assert [each.prompt for each in branch] == [
        "first question", "second question", "third question",
    ]  # fmt: skip


async def test_an_offer_may_be_left_alone(path: Path) -> None:
    with killed_window(path):
        async with chatting(path) as chat:
            await chat.until(lambda: "cut off in the middle of an answer" in said(chat.transcript))
            await chat.ask("something else")
            await chat.pilot.press("ctrl+o")
            await listed(chat, "something else", "cut off")
    assert len(Archive(path).sessions()) == 2


async def test_while_an_answer_is_under_way_nothing_else_is_opened(path: Path) -> None:
    record_chats(path, ("one", "a"))
    async with chatting(path) as chat:
        await chat.pause_at(2)
        await chat.pilot.press("ctrl+o")
        await listed(chat, "Why is the sky blue?", "one")
        await chat.pilot.press("d")
        await chat.until(lambda: "an answer is being written in it" in chat.screen_text())
        await chat.pilot.press("down", "enter")
        await chat.until(lambda: "to stop the answer first" in chat.hint)
        await chat.type("/load one", "enter")
        assert "to stop the answer first" in chat.hint


async def test_the_open_session_can_be_deleted_once_its_answer_is_over(path: Path) -> None:
    hold, release = holding(6)
    async with chatting(path, replay(before=hold)) as chat:
        await chat.type("Why is the sky blue?", "enter")
        await chat.until(lambda: chat.steps == 5)
        await chat.type("/sessions", "enter")
        await listed(chat, "Why is the sky blue?")
        await chat.pilot.press("d")
        await chat.until(lambda: "an answer is being written in it" in chat.screen_text())
        release.set()
        await chat.until(lambda: not chat.session.busy)
        await chat.pilot.press("d")
        await chat.until(lambda: "deleted for good" in chat.screen_text())


async def test_a_damaged_record_is_told_and_the_chat_goes_on(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"no database " * 500)
    async with chatting(path) as chat:
        await chat.until(lambda: "is damaged" in said(chat.transcript))
        await chat.ask("anyway")
        assert "Rayleigh" in chat.transcript
        await chat.pilot.press("ctrl+o")
        await chat.until(lambda: "is damaged" in chat.screen_text())


@pytest.fixture
def unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(_archive: Archive, session: str) -> None:
        raise DamagedError(f"session {session} does not make sense")

    monkeypatch.setattr(Archive, "load", load)


@pytest.mark.usefixtures("unreadable")
async def test_a_damaged_session_is_said_at_the_prompt(path: Path) -> None:
    record_chats(path, ("one", "a"))
    async with chatting(path) as chat:
        await chat.pilot.press("ctrl+o")
        await listed(chat, "one")
        await chat.pilot.press("enter")
        await chat.until(lambda: "does not make sense" in chat.hint)


async def test_a_damaged_session_that_was_left_open_is_said_at_the_prompt(
    path: Path, request: pytest.FixtureRequest
) -> None:
    with killed_window(path):
        request.getfixturevalue("unreadable")
        async with chatting(path) as chat:
            await chat.until(lambda: "does not make sense" in chat.hint)


async def test_without_a_record_the_commands_say_so() -> None:
    app = SequoiaApp(lambda progress: replay(), Settings())
    async with app.run_test(size=(120, 44)) as pilot:
        chat = Driver(app, pilot)
        await chat.ready()
        await chat.ask("Why?")
        for command in ("/sessions", "/search sky", "/save blue", "/load blue", "/continue"):
            chat.prompt.text = ""
            await chat.type(command, "enter")
            assert "recording is off" in chat.hint, command
        chat.prompt.text = ""
        await chat.pilot.press("ctrl+o")
        assert app.screen is app.chat


@pytest.mark.parametrize("size", [(160, 50), (80, 24), (60, 20), (20, 5)])
@pytest.mark.parametrize("key", ["ctrl+o", "search"])
async def test_the_screens_fit_any_terminal(path: Path, size: tuple[int, int], key: str) -> None:
    odd = "a\x1b[31m title [bold]with[/bold] 天空天空天空天空天空天空天空天空天空天空 " * 3
    record_chats(path, (odd, odd), ("two", "b"))
    async with chatting(path, size=size) as chat:
        if key == "search":
            chat.app.chat.action_run_line("/search title")
        else:
            await chat.pilot.press(key)
        await chat.until(lambda: chat.app.screen is not chat.app.chat and bool(rows(chat)))
        await chat.pilot.resize_terminal(30, 8)
        await chat.pilot.resize_terminal(*size)
        await chat.pilot.press("escape")
        assert chat.app.screen is chat.app.chat


def holding(at: int) -> tuple[Callable[[Event], None], threading.Event]:
    """Stops a replay before a step until the event is set."""
    release = threading.Event()

    def hold(event: Event) -> None:
        if isinstance(event, Step) and event.index == at:
            release.wait(PATIENCE_SECONDS)

    return hold, release


def count_steps(archive: Archive) -> int:
    """Steps of all sessions that are written."""
    histories = [archive.load(info.id).history for info in archive.sessions()]
    return sum(len(steps_in(archive, each)) for history in histories for each in history.exchanges)


async def test_the_answer_under_way_is_in_the_record_as_it_grows(path: Path) -> None:
    hold, release = holding(6)
    async with chatting(path, replay(before=hold)) as chat:
        await chat.type("Why is the sky blue?", "enter")
        await chat.until(lambda: chat.steps == 5)
        record = record_of(chat)
        record.settle(PATIENCE_SECONDS)
        assert count_steps(record.archive) == 5
        release.set()
        await chat.finish()


async def test_the_record_does_not_wait_for_a_screen_that_is_busy(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with chatting(path) as chat:
        monkeypatch.setattr(chat.app.decoder, "drain", list)
        await chat.type("Why is the sky blue?", "enter")
        record = record_of(chat)
        wanted = len([event for event in make_answer() if isinstance(event, Step)])
        await chat.until(lambda: count_steps(record.archive) == wanted)
        assert chat.steps == 0
        monkeypatch.undo()
        await chat.finish()


@pytest.mark.parametrize("name", list(dict.fromkeys(usage.split()[0] for usage, _ in USAGE)))
async def test_every_command_that_help_lists_is_handled(
    path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command without a handler raises AssertionError, with which the app would end."""
    monkeypatch.chdir(path.parent.parent)  # some write a file
    async with chatting(path) as chat:
        await chat.ask()
        await chat.type(name, "enter")
        await chat.pilot.pause()


# Importing, and going on with the last chat


async def test_an_imported_chat_is_shown_recorded_and_gone_on_with(
    path: Path, tmp_path: Path
) -> None:
    file = tmp_path / "chat.json"
    file.write_text(
        '[{"role": "user", "content": "Hello, please name a colour"},'
        '{"role": "assistant", "content": "Blue."}, {"role": "user", "content": "Another?"}]'
    )
    engine = replay(make_answer())
    async with chatting(path, engine) as chat:
        await chat.type(f"/import {file}", "enter")
        await chat.until(lambda: "imported: 1 message" in chat.hint)
        assert "Blue." in chat.transcript
        assert chat.prompt.text == "Another?"
        await chat.pilot.press("enter")
        await chat.finish()
    (info,) = Archive(path).sessions()
    assert info.title == "Name a colour"
    first, second = Archive(path).load(info.id).history.branch
    assert (first.answer.verbatim, second.answer.verbatim) == ("Blue.", ANSWER)
    assert second.parent == first.id


@pytest.mark.parametrize("file", ["nowhere.json", "~nobody-here/chat.json"])
async def test_importing_needs_a_file_that_is_a_chat(path: Path, file: str) -> None:
    async with chatting(path) as chat:
        await chat.type("/import", "enter")
        assert "name a file" in chat.hint
        await chat.type(f" {file}", "enter")
        await chat.until(lambda: f"{file}: No such file" in chat.hint)
        assert chat.prompt.text == f"/import {file}"


async def test_the_last_chat_is_gone_on_with_at_the_start(path: Path) -> None:
    async with chatting(path) as chat:
        await chat.ask("first question")
    async with chatting(path) as chat:
        await chat.ask("second question")
    app = SequoiaApp(
        lambda progress: replay(make_answer()), Settings(), DatabaseRecorder(path), go_on=True
    )
    async with app.run_test(size=(120, 44)) as pilot:
        chat = Driver(app, pilot)
        await told(chat, "second question")
        assert "first question" not in chat.transcript
        await chat.ask("third question")
    (last, _) = Archive(path).sessions()
    assert [each.prompt for each in Archive(path).load(last.id).history.branch] == [
        "second question", "third question",
    ]  # fmt: skip


async def test_without_an_earlier_chat_a_new_one_begins(path: Path) -> None:
    app = SequoiaApp(
        lambda progress: replay(make_answer()), Settings(), DatabaseRecorder(path), go_on=True
    )
    async with app.run_test(size=(120, 44)) as pilot:
        chat = Driver(app, pilot)
        await chat.until(lambda: "there is no earlier chat" in chat.hint)
        await chat.ask("first question")
