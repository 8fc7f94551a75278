"""The settings screen: what is changed holds at once and is written into the file."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from pathlib import Path

import pytest
from textual.widgets import Input, OptionList

from app.config.load import SettingsError, Source, load_settings
from app.config.preferences import Preferences
from app.config.settings import Setting, Settings, shown
from app.screens.chat.screen import ChatScreen
from app.screens.dialog import ChoiceScreen, KeyScreen
from app.screens.settings import SettingsScreen
from sequoia_core.config import Mode
from sequoia_core.errors import GrowMapError, ParameterError, SequoiaError
from tests.app.driving import Driver, driving

FILE = "# mine\ntemperature = 0.5  # warm\n"


@pytest.fixture
def file(config_home: Path) -> Path:
    path = config_home / "config.toml"
    path.write_text(FILE)
    return path


@asynccontextmanager
async def settings_open(**changes: float | str) -> AsyncIterator[Driver]:
    async with driving(settings=Settings(**changes)) as driver:  # type: ignore[arg-type]
        await driver.pilot.press("f5")
        await driver.until(lambda: isinstance(driver.app.screen, SettingsScreen))
        await driver.until(lambda: "Sampling" in driver.screen_text())
        yield driver


async def go_to(driver: Driver, name: str) -> None:
    screen = driver.app.screen
    assert isinstance(screen, SettingsScreen)
    at = next(
        at for at, item in enumerate(screen._items)
        if item is not None and name in (getattr(item, "name", ""), getattr(item, "id", ""))
    )  # fmt: skip
    screen.query_one(OptionList).highlighted = at
    await driver.pilot.pause()


def told(driver: Driver) -> str:
    screen = driver.app.screen
    assert isinstance(screen, SettingsScreen)
    return str(screen._frame.border_subtitle)


async def test_each_setting_is_on_the_screen_with_its_source(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SEQUOIA_TOP_K", "7")
    changed = {"temperature": 0.5, "seed": 3, "top_k": 7, "top_p": 0.9}
    async with driving(settings=Settings(**changed)) as driver:  # type: ignore[arg-type]
        driver.app.chat._preferences = Preferences({"seed": 3})
        await driver.pilot.press("f5")
        await driver.until(lambda: isinstance(driver.app.screen, SettingsScreen))
        screen = driver.app.screen
        assert isinstance(screen, SettingsScreen)
        await driver.until(lambda: bool(screen._items))
        sources = {
            each.name: screen._source(each) for each in screen._items if isinstance(each, Setting)
        }
    assert sources.keys() == {each.name for each in fields(Settings)} - {"keys"}
    assert sources["seed"] == Source.FLAG
    assert sources["top_k"] == Source.ENVIRONMENT
    assert sources["temperature"] == Source.FILE
    assert sources["top_p"] == Source.CHAT
    assert sources["device"] == Source.DEFAULT


async def test_a_typed_value_holds_at_once_and_is_written(file: Path) -> None:
    async with settings_open(temperature=0.5) as driver:
        await go_to(driver, "temperature")
        await driver.pilot.press("enter", "backspace", "9", "enter")
        await driver.until(lambda: driver.session.settings.temperature == 0.9)
        assert file.read_text() == FILE.replace("0.5", "0.9")
        assert "written" in told(driver)
        await driver.pilot.press("escape")
        await driver.until(lambda: "temperature 0.9" in driver.screen_text())
    assert load_settings({}).temperature == 0.9


async def test_a_value_out_of_range_is_told_and_nothing_changes(file: Path) -> None:
    async with settings_open(temperature=0.5) as driver:
        await go_to(driver, "temperature")
        await driver.pilot.press("enter", "-", "enter")
        await driver.until(lambda: "a number" in told(driver))
        assert driver.session.settings.temperature == 0.5
        assert file.read_text() == FILE
        assert driver.app.screen.query_one(Input).display  # it can be corrected
        await driver.pilot.press("escape", "escape")
        assert isinstance(driver.app.screen, ChatScreen)


async def test_one_of_few_values_is_chosen_or_turned_to(file: Path) -> None:
    async with settings_open(temperature=0.5) as driver:
        await go_to(driver, "mode")
        await driver.pilot.press("right")
        await driver.until(lambda: driver.session.settings.mode is Mode.GREEDY)
        await driver.pilot.press("left")
        await driver.until(lambda: driver.session.settings.mode is Mode.SEQUOIA)
        await driver.pilot.press("enter", "end", "enter")
        await driver.until(lambda: driver.session.settings.mode is list(Mode)[-1])
        assert f'mode = "{list(Mode)[-1].value}"' in file.read_text()


async def test_a_theme_is_shown_before_it_is_taken(file: Path) -> None:
    async with settings_open(temperature=0.5) as driver:
        await go_to(driver, "theme")
        await driver.pilot.press("enter")
        await driver.until(lambda: isinstance(driver.app.screen, ChoiceScreen))
        await driver.pilot.press("home")
        await driver.until(lambda: driver.app.theme == "contrast-light")
        await driver.pilot.press("escape")
        await driver.until(lambda: driver.app.theme == "sequoia")
        assert file.read_text() == FILE
        await driver.pilot.press("enter", "home", "enter")
        await driver.until(lambda: "contrast-light" in file.read_text())
        assert driver.app.theme == driver.session.settings.theme == "contrast-light"


async def test_a_theme_that_cannot_be_kept_is_not_left_on_show(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: Preferences, name: str, text: str) -> None:
        raise SequoiaError("the disk is full")

    async with settings_open(temperature=0.5) as driver:
        await go_to(driver, "theme")
        monkeypatch.setattr(Preferences, "write", refuse)
        await driver.pilot.press("enter")
        await driver.until(lambda: isinstance(driver.app.screen, ChoiceScreen))
        await driver.pilot.press("home", "enter")
        await driver.until(lambda: "the disk is full" in told(driver))
        assert driver.app.theme == driver.session.settings.theme == "sequoia"


async def test_the_default_comes_back(file: Path) -> None:
    async with settings_open(temperature=0.5) as driver:
        await go_to(driver, "temperature")
        await driver.pilot.press("d")
        await driver.until(lambda: driver.session.settings.temperature == 0.6)
        assert file.read_text() == "# mine\n"


async def test_a_setting_for_the_next_start_is_only_written(file: Path) -> None:
    async with settings_open(temperature=0.5) as driver:
        await go_to(driver, "dtype")
        await driver.pilot.press("right")
        await driver.until(lambda: 'dtype = "float32"' in file.read_text())
        await go_to(driver, "pair")
        await driver.pilot.press("enter", *"nonsense", "enter")
        await driver.until(lambda: "nonsense" in told(driver))
        assert "nonsense" not in file.read_text()


async def test_a_key_is_pressed_to_be_taken(file: Path) -> None:
    async with settings_open(temperature=0.5) as driver:
        await go_to(driver, "chat.tree")
        await driver.pilot.press("enter")
        await driver.until(lambda: isinstance(driver.app.screen, KeyScreen))
        await driver.pilot.press("f9")
        await driver.until(lambda: '"chat.tree" = "f9"' in file.read_text())
        assert driver.app.keys.of("chat.tree") == ("f9",)
        await driver.pilot.press("escape")
        await driver.until(lambda: "f9 tree" in driver.screen_text())
        await driver.pilot.press("f5")
        await go_to(driver, "chat.tree")
        await driver.pilot.press("d")
        await driver.until(lambda: driver.app.keys.of("chat.tree") == ("f4",))
        assert "chat.tree" not in file.read_text()


async def test_a_letter_is_taken_as_a_key_where_none_are_typed(file: Path) -> None:
    async with settings_open() as driver:
        await go_to(driver, "sessions.rename")
        await driver.pilot.press("enter", "x")
        await driver.until(lambda: '"sessions.rename" = "x"' in file.read_text())
        assert driver.app.keys.of("sessions.rename") == ("x",)


async def test_a_key_that_is_taken_is_refused_in_one_line(file: Path) -> None:
    async with settings_open(temperature=0.5) as driver:
        await go_to(driver, "chat.tree")
        await driver.pilot.press("enter", "f6")
        await driver.until(lambda: "chat.tint has it" in told(driver))
        assert driver.app.keys.of("chat.tree") == ("f4",)
        assert file.read_text() == FILE
        await driver.pilot.press("enter", "escape")
        assert driver.app.keys.of("chat.tree") == ("f4",)


async def test_a_file_that_breaks_meanwhile_is_told_and_not_overwritten(file: Path) -> None:
    async with settings_open(temperature=0.5) as driver:
        await go_to(driver, "temperature")
        file.write_text("temperature = = 1")
        await driver.pilot.press("enter", "backspace", "9", "enter")
        await driver.until(lambda: "not valid TOML" in told(driver))
        assert file.read_text() == "temperature = = 1"
        assert driver.session.settings.temperature == 0.5


async def test_the_system_prompt_waits_for_the_answer(file: Path) -> None:
    async with driving(settings=Settings(temperature=0.5)) as driver:
        await driver.pilot.press("f2")
        await driver.type("Why is the sky blue?", "enter")
        await driver.until(lambda: driver.session.busy)
        await driver.pilot.press("f5")
        await driver.until(lambda: "Sampling" in driver.screen_text())
        await go_to(driver, "system")
        await driver.pilot.press("enter", "x", "enter")
        await driver.until(lambda: "to stop the answer first" in told(driver))
        assert file.read_text() == FILE
        await driver.pilot.press("escape", "escape", "escape", "f2")
        await asyncio.sleep(0)


async def test_a_slash_command_opens_it() -> None:
    async with driving() as driver:
        await driver.type("/settings", "enter")
        await driver.until(lambda: isinstance(driver.app.screen, SettingsScreen))


def test_what_goes_above_the_file_is_said(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEQUOIA_TOP_K", "7")
    preferences = Preferences({"max_new_tokens": 9})
    assert "SEQUOIA_TOP_K" in preferences.write("top_k", "8").remark
    assert "--max-new-tokens" in preferences.write("max_new_tokens", "10").remark
    assert preferences.write("seed", "1").remark == ""


def test_a_pair_takes_the_place_of_a_target(file: Path) -> None:
    preferences = Preferences({"target": "a/b"})
    assert preferences.write("pair", "embedded").value == "embedded"


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("growmap", "nowhere", GrowMapError),
        ("top_p", "7", ParameterError),
        ("seed", "often", ParameterError),
        ("mode", "fast", ParameterError),
    ],
)
def test_nothing_is_written_that_the_next_start_would_refuse(
    file: Path, name: str, text: str, error: type[Exception]
) -> None:
    with pytest.raises(error):
        Preferences().write(name, text)
    assert file.read_text() == FILE


def test_several_texts_that_end_an_answer(file: Path) -> None:
    preferences = Preferences()
    assert preferences.write("stop", "a, b | c").value == ("a, b", "c")
    assert shown(preferences.load().settings.stop) == "a, b | c"
    assert preferences.write("stop", "").value == ()
    assert file.read_text() == FILE


async def test_without_a_readable_file_the_screen_still_opens(file: Path) -> None:
    file.write_text("= 1")
    with pytest.raises(SettingsError):
        Preferences().load()
    async with settings_open() as driver:
        assert "not valid TOML" in told(driver)
