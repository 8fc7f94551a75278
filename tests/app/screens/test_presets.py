"""`/preset`: a system prompt by its name begins another chat; own ones are kept in a file."""

from pathlib import Path

from app.config.presets import find_preset, load_presets
from app.config.settings import Settings
from tests.app.driving import driving
from tests.app.picturing import Stage


async def test_a_preset_is_the_system_prompt_of_a_new_chat() -> None:
    async with driving() as chat:
        await chat.ask()
        await chat.type("/preset teacher", "enter")
        await chat.until(lambda: "the system prompt is teacher now" in chat.hint)
        assert chat.session.settings.system == find_preset("teacher")
        assert not chat.session.history.exchanges
        await chat.type("/preset default", "enter")
        await chat.until(lambda: chat.session.settings.system is None)


async def test_a_preset_is_chosen_from_the_list_which_marks_the_one_in_use() -> None:
    async with driving(settings=Settings(system=find_preset("concise"))) as chat:
        await chat.type("/preset", "enter")
        await chat.until(lambda: "in use" in chat.screen_text())
        (row,) = (row for row in chat.screen_text().splitlines() if "in use" in row)
        assert " concise " in row
        await chat.pilot.press("down", "enter")
        names = ["default", *load_presets()]
        chosen = names[names.index("concise") + 1]
        await chat.until(lambda: chat.session.settings.system == find_preset(chosen))


async def test_the_system_prompt_of_a_chat_is_kept_and_deleted(config_home: Path) -> None:
    async with driving() as chat:
        await chat.type("/preset save mine", "enter")
        assert "no system prompt to keep" in chat.hint
        chat.prompt.clear()
        await chat.type("/set system You are a pirate.", "enter")
        await chat.type("/preset save mine", "enter")
        await chat.until(lambda: "kept: /preset mine" in chat.hint)
        assert 'mine = "You are a pirate."' in (config_home / "presets.toml").read_text()
        await chat.type("/preset delete mine", "enter")
        await chat.until(lambda: "preset mine is deleted" in chat.hint)
        await chat.type("/preset mine", "enter")
        await chat.until(lambda: "no preset 'mine'" in chat.hint)
        assert chat.prompt.text == "/preset mine"


async def test_no_preset_is_taken_while_an_answer_runs() -> None:
    async with driving() as chat:
        await chat.pause_at(1)
        await chat.type("/preset teacher", "enter")
        assert "Press esc" in chat.hint
        assert chat.prompt.text == "/preset teacher"
        assert chat.session.settings.system is None


async def test_the_list_of_presets(stage: Stage) -> None:
    async with stage.chat(settings=Settings(system=find_preset("editor"))) as chat:
        await chat.type("/preset", "enter")
        await chat.until(lambda: "in use" in chat.screen_text())
