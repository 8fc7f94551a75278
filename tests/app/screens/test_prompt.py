"""The prompt: what completes itself, what folds, files of messages, and where errors are read."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from textual.events import Paste
from typing_extensions import override

from app.app import Settings
from app.state.attachments import as_shown
from app.store.recorder import DatabaseRecorder
from app.widgets.transcript import Transcript
from sequoia_core.config import SamplingParams
from sequoia_core.events import Event, StopCheck
from tests.app.driving import Driver, driving
from tests.app.records import record_chats
from tests.fakes import PAIR, RacingEngine, make_answer
from tests.replay_engine import ReplayEngine, Trace

LONG = "\n".join(f"line {at}" for at in range(30))


class Listener(ReplayEngine):
    """Keeps the prompts that it is asked."""

    def __init__(self) -> None:
        super().__init__(Trace(PAIR, make_answer()))
        self.prompts: list[str] = []

    @override
    def reply(self, prompt: str, params: SamplingParams, should_stop: StopCheck) -> Iterator[Event]:
        self.prompts.append(prompt)
        return super().reply(prompt, params, should_stop)


def listed(chat: Driver) -> list[str]:
    """The rows of the list above the prompt."""
    shown = chat.prompt.completions
    return shown.render().plain.splitlines() if shown.display else []


async def typed(chat: Driver, text: str, row: str) -> None:
    """Type a text key by key, until a row is listed that begins so."""
    names = {"/": "slash", " ": "space", "@": "at", '"': "quotation_mark", "-": "minus"}
    await chat.pilot.press(*(names.get(key, key) for key in text))
    await chat.until(lambda: any(each[2:].startswith(row) for each in listed(chat)))


async def paste(chat: Driver, text: str) -> None:
    before = chat.prompt.text
    chat.prompt.post_message(Paste(text))
    await chat.until(lambda: chat.prompt.text != before or bool(chat.hint))


# Completion


async def test_a_slash_lists_commands_and_keys_choose_take_and_send() -> None:
    async with driving() as chat:
        await typed(chat, "/", "/set ")
        assert len(listed(chat)) == 8
        await chat.pilot.press("c", "l")
        await chat.until(lambda: len(listed(chat)) == 1)
        assert "begin a new chat" in listed(chat)[0]
        await chat.pilot.press("enter")
        assert chat.prompt.text == "/clear"
        await chat.pilot.press("enter")
        assert chat.prompt.text == ""
        await chat.until(lambda: not listed(chat))


async def test_settings_and_their_values_complete_one_after_the_other() -> None:
    async with driving() as chat:
        await typed(chat, "/set gr", "growmap")
        await chat.pilot.press("tab")
        assert chat.prompt.text == "/set growmap "
        await typed(chat, "chain/4", "chain/4")
        assert "5 nodes, depth 4" in listed(chat)[0]
        await chat.pilot.press(*["backspace"] * 7, *"adap", "tab", "enter")
        assert chat.session.settings.growmap == "adaptive"


async def test_growmaps_of_the_target_are_listed_first() -> None:
    async with driving() as chat:
        target = chat.session.pair
        assert target is not None
        chat.session.pair = replace(target, target="SmolLM2-135M-Instruct")
        await typed(chat, "/set growmap ", "smollm2-135m/")
        assert "smollm2-135m/" in listed(chat)[4]


async def test_words_of_a_command_each_say_what_they_do() -> None:
    async with driving() as chat:
        await typed(chat, "/draft ", "none")
        none, default = listed(chat)
        assert "prompt lookup alone" in none
        assert "the draft of this target" in default


async def test_what_ollama_has_pulled_completes_as_a_model(tmp_path: Path) -> None:
    manifest = tmp_path / "ollama/manifests/registry.ollama.ai/library/tiny/1b"
    manifest.parent.mkdir(parents=True)
    manifest.write_text("{}")
    async with driving() as chat:
        await typed(chat, "/model tiny", "tiny")
        await chat.until(lambda: any("tiny:1b" in each for each in listed(chat)))
        assert "of ollama" in " ".join(listed(chat))


async def test_up_and_down_go_round_and_escape_leaves_what_was_typed() -> None:
    async with driving(settings=Settings(mode="chain")) as chat:  # type: ignore[arg-type]
        await typed(chat, "/set mode ", "sequoia")
        first = listed(chat)[0]
        assert first.startswith("▸")
        await chat.pilot.press("up")
        assert listed(chat)[-1].startswith("▸")
        assert any(row[2:].startswith("chain") and "in use" in row for row in listed(chat))
        await chat.pilot.press("down")
        assert listed(chat)[0] == first
        await chat.pilot.press("escape")
        await chat.until(lambda: not listed(chat))
        assert chat.prompt.text == "/set mode "
        await chat.pilot.press("s")
        await chat.pilot.pause(0.1)
        assert not listed(chat)
        await chat.pilot.press(*["backspace"] * 11)
        await typed(chat, "/", "/set ")


async def test_more_rows_than_there_is_room_for_are_scrolled_to() -> None:
    async with driving() as chat:
        await typed(chat, "/set growmap ", "auto")
        await chat.pilot.press(*["down"] * 10)
        assert [at for at, row in enumerate(listed(chat)) if row.startswith("▸")] == [7]


async def test_recalled_lines_list_nothing() -> None:
    async with driving() as chat:
        for line in ("/show", "/set mode chain"):
            await chat.type(line, "enter")
        await chat.pilot.press("up", "up", "down")
        await chat.pilot.pause(0.1)
        assert chat.prompt.text == "/set mode chain"
        assert not listed(chat)


async def test_the_sides_of_a_race_complete_word_by_word_and_a_prompt_does_not() -> None:
    engine = RacingEngine()
    async with driving(engine) as chat:
        await typed(chat, "/race ", "plain")
        assert "one token for each pass" in listed(chat)[0]
        await chat.pilot.press(*"greedy-24", "tab")
        assert chat.prompt.text == "/race smollm2-135m/greedy-24x4 "
        await chat.until(lambda: any(row[2:].startswith("vs") for row in listed(chat)))
        await chat.pilot.press("tab")
        await typed(chat, "spec", "specinfer")
        await chat.pilot.press("enter")
        assert chat.prompt.text == "/race smollm2-135m/greedy-24x4 vs specinfer"
        await chat.pilot.press("colon", "space", "h", "i")
        assert not listed(chat)
        await chat.pilot.press("enter")
        await chat.until(lambda: bool(engine.asked))
        assert [side.label for side in engine.asked[0].sides] == ["greedy-24x4", "specinfer"]
        assert engine.asked[0].prompt == "hi"


async def test_one_word_to_race_is_sent_as_it_is_typed() -> None:
    engine = RacingEngine()
    async with driving(engine) as chat:
        await typed(chat, "/race ", "plain")
        await chat.pilot.press("h", "i", "enter")  # the letters are in "chain", in this order
        await chat.until(lambda: bool(engine.asked))
        assert engine.asked[0].prompt == "hi"


async def test_sessions_complete_by_their_names(tmp_path: Path) -> None:
    record_chats(
        tmp_path / "a.db", ("Why is the sky blue?", "So."), ("What is a tree?", "A plant.")
    )
    recorder = DatabaseRecorder(tmp_path / "a.db")
    try:
        async with driving(recorder=recorder) as chat:
            await typed(chat, "/load sky", "Why is the sky blue?")
            await chat.pilot.press("tab", "enter")
            await chat.until(lambda: "So." in chat.transcript)
    finally:
        recorder.close()


async def test_a_click_takes_a_row() -> None:
    async with driving() as chat:
        await typed(chat, "/set the", "theme")
        await chat.pilot.click("#completions", offset=(4, 1))
        assert chat.prompt.text == "/set theme "


async def test_opening_the_list_draws_no_line_of_the_transcript_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with driving() as chat:
        await chat.ask()
        drawn: list[str] = []
        for name in ("segments", "redraw", "on_resize"):
            monkeypatch.setattr(Transcript, name, lambda *_, name=name: drawn.append(name))
        await typed(chat, "/", "/set ")
        await chat.pilot.press("down", "s")
        await typed(chat, "e", "/settings")
        await chat.pilot.press("escape")
        await chat.until(lambda: not listed(chat))
        assert drawn == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "my file.py").write_text("x = 1\ny = 2\n")
    (tmp_path / "notes.md").write_text("Remember.\n")
    (tmp_path / ".hidden").write_text("secret")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG")
    (tmp_path / "chat.jsonl.gz").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def test_files_complete_and_the_model_reads_them(folder: Path) -> None:
    engine = Listener()
    async with driving(engine) as chat:
        await typed(chat, "look at @", "notes.md")
        assert [row[2:].split("  ")[0] for row in listed(chat)] == ["notes.md", "src/my file.py"]
        await chat.pilot.press(*"mfp", "enter")
        assert chat.prompt.text == 'look at @"src/my file.py" '
        await chat.pilot.press("enter")
        await chat.finish()
        sent = "look at src/my file.py\n\nsrc/my file.py:\n```py\nx = 1\ny = 2\n```"
        assert engine.prompts == [sent]
        assert chat.session.last is not None
        assert chat.session.last.prompt == sent
        assert "▸ src/my file.py (2 lines)" in chat.transcript
        assert "x = 1" not in chat.transcript
        await chat.pilot.press("ctrl+g")
        assert "x = 1" in chat.transcript
        await chat.pilot.press("ctrl+g")
        assert "x = 1" not in chat.transcript
        await chat.pilot.press("ctrl+e")
        assert as_shown(chat.prompt.text) == "look at src/my file.py\n\n[src/my file.py (2 lines)]"
        assert chat.prompt.whole == sent


async def test_a_line_of_the_transcript_opens_by_a_click(folder: Path) -> None:
    async with driving() as chat:
        await chat.type("@notes.md", "enter")
        await chat.finish()
        await chat.pilot.press("pageup")
        rows = chat.screen_text().splitlines()
        row = next(at for at, text in enumerate(rows) if "▸ notes.md (1 line)" in text)
        await chat.pilot.click(offset=(6, row))
        await chat.until(lambda: "Remember." in chat.screen_text())


async def test_in_a_folder_that_was_removed_no_file_is_found(folder: Path) -> None:
    gone = folder / "gone"
    gone.mkdir()
    os.chdir(gone)
    gone.rmdir()
    engine = Listener()
    async with driving(engine) as chat:
        await chat.type("see @notes.txt")
        await chat.pilot.pause()
        await chat.pilot.press("enter")
        await chat.until(lambda: "no file notes.txt" in chat.hint)
        assert engine.prompts == []


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("see @nope.py", "no file nope.py"),
        ("@photo.png?", "photo.png is an image"),
        ("see @notes.md:7", "notes.md has 1 line, so there is no line 7"),
        ("/race see @nope.py", "no file nope.py"),
    ],
)
async def test_what_cannot_be_attached_sends_nothing(folder: Path, text: str, error: str) -> None:
    engine = Listener()
    async with driving(engine) as chat:
        await chat.type(text, "enter")
        await chat.until(lambda: error in chat.hint)
        assert chat.prompt.text == text
        assert chat.session.last is None
        assert not engine.prompts


# Folds


async def test_a_long_paste_is_one_line_that_is_sent_whole() -> None:
    engine = Listener()
    async with driving(engine) as chat:
        await chat.pilot.press(*"see:", "space")
        await paste(chat, LONG + "\n")
        assert as_shown(chat.prompt.text) == "see: [pasted 30 lines]"
        await chat.pilot.press("!", "enter")
        await chat.finish()
        assert engine.prompts == [f"see: {LONG}!"]
        assert "▸ pasted 30 lines" in chat.transcript
        assert "line 7" not in chat.transcript
        await chat.pilot.press("up")
        assert as_shown(chat.prompt.text) == "see: [pasted 30 lines]!"


async def test_a_fold_opens_is_undone_and_goes_whole() -> None:
    async with driving() as chat:
        await paste(chat, LONG)
        await chat.pilot.press("ctrl+g")
        assert chat.prompt.text == LONG
        await chat.pilot.press("ctrl+g")
        assert as_shown(chat.prompt.text) == "[pasted 30 lines]"
        await chat.pilot.press("ctrl+g")
        assert chat.prompt.text == LONG
        await chat.pilot.press("ctrl+z")
        assert as_shown(chat.prompt.text) == "[pasted 30 lines]"
        await chat.pilot.press("a", "home", "right", "right", "b")
        assert as_shown(chat.prompt.text) == "[pasted 30 lines]ba"
        await chat.pilot.press("left", "backspace")
        assert chat.prompt.text == "ba"
        await chat.pilot.press("ctrl+z")
        assert chat.prompt.whole == f"{LONG}ba"
        await chat.pilot.click("#prompt", offset=(5, 1))
        assert chat.prompt.text == f"{LONG}ba"


async def test_short_pastes_stay_and_blocks_work_around_folds() -> None:
    engine = Listener()
    async with driving(engine) as chat:
        await paste(chat, "\n".join("abc"))
        assert chat.prompt.text == "a\nb\nc"
        chat.prompt.text = ""
        await chat.type('"""')
        await paste(chat, LONG + '\n"""doc"""')
        await chat.pilot.press("enter")
        assert "ends the block" in chat.hint
        await chat.type('"""', "enter")
        await chat.finish()
        assert engine.prompts == [LONG + '\n"""doc"""']


async def test_pasted_images_and_binary_are_refused() -> None:
    async with driving() as chat:
        await chat.pilot.press("a")
        for text, error in (("\x89PNG\r\n\x1a", "image"), ("\x00\x01\ufffd\x02", "no text")):
            await paste(chat, text)
            assert error in chat.hint
            assert chat.prompt.text == "a"
            chat.prompt.hint("")


async def test_what_reads_like_a_fold_and_is_none_stays(folder: Path) -> None:
    (folder / "log.md").write_text("It said [pasted 30 lines] and [notes.md (1 line)].\n")
    engine = Listener()
    async with driving(engine) as chat:
        await paste(chat, LONG)
        await chat.pilot.press(*" or [pasted 30 lines] in @log.md", "enter")
        await chat.finish()
        assert engine.prompts == [
            f"{LONG} or [pasted 30 lines] in log.md\n\n"
            "log.md:\n```md\nIt said [pasted 30 lines] and [notes.md (1 line)].\n```"
        ]
        await chat.pilot.press("ctrl+e")
        assert as_shown(chat.prompt.text) == (
            "[pasted 30 lines] or [pasted 30 lines] in log.md\n\n[log.md (1 line)]"
        )
        assert chat.prompt.whole == engine.prompts[0]
        assert "[pasted 30 lines] or [pasted 30 lines]" in chat.screen_text()


async def test_pastes_that_nothing_refers_to_are_forgotten() -> None:
    engine = Listener()
    async with driving(engine) as chat:
        kept, folds = LONG.replace("line", "kept"), chat.prompt.folds
        await paste(chat, LONG)
        await chat.pilot.press("backspace", "ctrl+z")
        assert chat.prompt.whole == LONG
        await chat.pilot.press("backspace")
        await paste(chat, kept)
        await chat.pilot.press("enter")
        await chat.finish()
        assert [*folds._texts.values()] == [kept]  # the history has it
        await paste(chat, LONG)
        await chat.pilot.press("ctrl+e")
        assert sorted(folds._texts.values()) == sorted([kept, LONG])  # the draft comes back
        await chat.pilot.press("escape")
        assert chat.prompt.whole == LONG
        chat.prompt.put("")
        assert [*folds._texts.values()] == [kept]


async def test_chats_that_can_be_imported_are_listed(folder: Path) -> None:
    (folder / "chat.json").write_text("{}")
    async with driving() as chat:
        await typed(chat, "/import ", "chat.jsonl.gz")
        assert [row[2:].split("  ")[0] for row in listed(chat)] == ["chat.json", "chat.jsonl.gz"]


# Errors


async def test_a_refusal_that_the_border_is_too_short_for_is_read_whole_above_it() -> None:
    async with driving(size=(60, 20)) as chat:
        before = chat.transcript
        await chat.type("/set growmap nope", "enter")
        whole = "there is auto, adaptive, dynamic, measured and what `sequoia growmap list` names"
        await chat.until(lambda: whole in " ".join(chat.screen_text().replace("│", "").split()))
        assert chat.transcript == before
        await chat.pilot.press("backspace")
        await chat.until(lambda: whole not in " ".join(chat.screen_text().split()))


async def test_an_error_stays_until_a_key_while_others_report() -> None:
    async with driving() as chat:
        chat.prompt.hint("something is wrong")
        chat.prompt.hint("loading 20%", passing=True)
        assert chat.hint == "something is wrong"
        await chat.pilot.press("x")
        assert chat.hint == ""


# The key bar


async def test_a_click_in_the_key_bar_does_what_the_key_does() -> None:
    async with driving(size=(160, 50)) as chat:
        await chat.ask()
        keys = chat.screen_text().splitlines()[-1]
        await chat.pilot.click("#keys", offset=(keys.index("tree"), 0))
        assert chat.app.chat.has_class("-heat")
        await chat.pilot.click("#keys", offset=(keys.index("left"), 0))
        await chat.until(lambda: chat.app.chat.inspector.cursor.at is not None)
        at = chat.app.chat.inspector.cursor.at
        await chat.pilot.click("#keys", offset=(keys.index("right"), 0))
        await chat.until(lambda: chat.app.chat.inspector.cursor.at != at)
        keys = chat.screen_text().splitlines()[-1]
        await chat.pilot.hover("#keys", offset=(keys.index("help"), 0))
        assert chat.app.chat.key_bar._pointed == "f1"
