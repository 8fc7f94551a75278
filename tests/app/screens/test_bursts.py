"""Keys that come faster than the app takes them up: each does what it does when typed slowly."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from textual.events import Key, Paste

from app.app import SequoiaApp, Settings
from app.screens.chat.screen import ChatScreen
from sequoia_core.config import Mode
from tests.app.driving import Driver, driving
from tests.app.screens.test_branches import Remembering
from tests.app.screens.test_prompt import Listener


def keys(text: str) -> list[Key]:
    """The keys of a text, in which a newline is Enter."""
    return [Key("enter", "\r") if each == "\n" else Key(each, each) for each in text]


async def burst(chat: Driver, events: Sequence[Key | Paste]) -> None:
    """Press keys without a pause."""
    for event in events:
        chat.app.post_message(event)
    await chat.pilot.pause()


async def test_a_message_right_after_a_command_is_sent() -> None:
    engine = Listener()
    async with driving(engine) as chat:
        await chat.ask("first")
        await burst(chat, keys("/clear\nhi\n"))
        await chat.until(lambda: engine.prompts == ["first", "hi"])
        assert chat.prompt.text == ""
        assert [each.prompt for each in chat.session.history.branch] == ["hi"]


async def test_each_command_of_a_burst_is_carried_out() -> None:
    async with driving() as chat:
        await burst(chat, keys("/set temperature 0\n/set mode ar\n/set mode chain\n/set mode ar\n"))
        assert chat.session.settings.mode is Mode.AR
        assert chat.session.settings.temperature == 0
        assert chat.prompt.text == ""
        assert "mode is now ar" in chat.hint


async def test_what_is_typed_behind_a_refused_line_is_not_sent_alone() -> None:
    engine = Listener()
    async with driving(engine) as chat:
        await burst(chat, keys("/nothing\n"))
        assert "no command /nothing" in chat.hint
        await burst(chat, keys("hi"))
        assert chat.prompt.text == "/nothinghi"
        assert engine.prompts == []


@pytest.mark.parametrize("focus", ["#transcript", "#tree", None])
async def test_a_burst_goes_to_the_prompt_in_order_wherever_the_focus_is(focus: str | None) -> None:
    engine = Listener()
    async with driving(engine) as chat:
        await chat.ask("first")
        chat.app.chat.set_focus(chat.app.chat.query_one(focus) if focus else None)
        await burst(chat, [*keys("so "), Paste("it goes"), *keys("?\n")])
        await chat.until(lambda: engine.prompts == ["first", "so it goes?"])
        assert chat.prompt.text == ""
        assert chat.app.focused is chat.prompt


async def test_keys_pressed_before_the_screen_is_there_wait_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Listener()
    app = SequoiaApp(lambda progress: engine, Settings())
    mount = ChatScreen.on_mount

    def type_then_mount(screen: ChatScreen) -> None:
        assert all(app.takes(key) for key in keys("/set mode ar\nhi\n"))
        mount(screen)

    monkeypatch.setattr(ChatScreen, "on_mount", type_then_mount)
    async with app.run_test() as pilot:
        chat = Driver(app, pilot)
        await chat.until(lambda: engine.prompts == ["hi"])
        assert chat.session.settings.mode is Mode.AR
        assert chat.prompt.text == ""


async def test_the_line_behind_a_message_with_a_file_is_a_line_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.md").write_text("Remember.\n")
    monkeypatch.chdir(tmp_path)
    engine = Listener()
    async with driving(engine) as chat:
        await burst(chat, keys("see @a.md\nnext\n"))
        await chat.finish()
        assert engine.prompts == ["see a.md\n\na.md:\n```md\nRemember.\n```"]
        assert chat.prompt.text == "next"
        await chat.pilot.press("enter")
        await chat.finish()
        assert engine.prompts[1:] == ["next"]


async def test_a_key_with_priority_waits_for_the_text_before_it() -> None:
    engine = Remembering("Alpha.", "Beta.")
    async with driving(engine) as chat:
        await chat.ask("first")
        await burst(chat, [Key("ctrl+e", None), *keys("s"), Key("ctrl+r", None)])
        assert "the message was changed" in chat.hint
        assert chat.prompt.text == "firsts"
        assert engine.asked == [("first",)]


async def test_a_burst_while_a_message_is_edited_sends_the_new_version() -> None:
    engine = Remembering("Alpha.", "Beta.")
    async with driving(engine) as chat:
        await chat.ask("first")
        await burst(chat, [Key("ctrl+e", None), *keys("s\n")])
        await chat.finish()
        assert engine.asked[-1] == ("firsts",)
