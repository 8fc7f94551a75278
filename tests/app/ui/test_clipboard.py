"""Copying: what is sent to a terminal, which programs are asked, and what a person is told."""

import base64
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from textual.selection import SELECT_ALL

from app.screens.chat.copies import code_blocks, copy_answer, copy_code
from app.state.chat_session import ChatError
from app.state.slash_commands import CopyRequest, SlashError, parse_command, parse_copy
from app.ui.clipboard import (
    MOST_BYTES,
    PROGRAMS,
    Program,
    copy_message,
    copy_with,
    local_programs,
    terminal_sequence,
)
from app.widgets.transcript import Transcript
from tests.app.driving import Driver, driving
from tests.fakes import ANSWER, make_answer, replay

OSC_52 = re.compile("\x1b\\]52;c;([A-Za-z0-9+/=]*)\x07")
CODE = code_blocks(ANSWER)[0][0]


def received(sequence: str) -> str:
    """What a terminal takes from OSC 52."""
    (encoded,) = OSC_52.findall(sequence)
    return base64.b64decode(encoded).decode()


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_a_terminal_gets_the_text_and_tmux_passes_on_just_that(text: str) -> None:
    bare = terminal_sequence(text, {})
    assert bare is not None
    assert received(bare) == text
    assert OSC_52.fullmatch(bare)
    wrapped = terminal_sequence(text, {"TMUX": "/tmp/tmux-0/default,1,0"})
    assert wrapped is not None
    inside = re.fullmatch("\x1bPtmux;(.*)\x1b\\\\", wrapped, re.DOTALL)
    assert inside is not None
    assert inside.group(1).replace("\x1b\x1b", "\x1b") == bare


def test_what_a_terminal_would_cut_is_not_sent() -> None:
    most = terminal_sequence("é" * (MOST_BYTES // 2), {})
    assert most is not None
    assert len(most) <= 100_000
    assert terminal_sequence("é" * (MOST_BYTES // 2 + 1), {}) is None


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with every program, each keeping what it is given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in PROGRAMS:
        path = folder / program.name
        path.write_text(f'#!/bin/sh\n{shutil.which("cat")} > "{path}.got"\n')
        path.chmod(0o755)
    return folder


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, ["pbcopy"]),
        ({"DISPLAY": ":0"}, ["xclip"]),
        ({"DISPLAY": ":0", "WAYLAND_DISPLAY": "wayland-0"}, ["wl-copy"]),
        ({"TMUX": "x"}, ["tmux", "pbcopy"]),
        ({"TMUX": "x", "DISPLAY": ":0"}, ["tmux", "xclip"]),
        ({"WSL_DISTRO_NAME": "Debian", "DISPLAY": ":0"}, ["xclip"]),
        # over SSH this machine's desktop is not the person's, but a forwarded display is
        ({"SSH_CONNECTION": "x"}, []),
        ({"SSH_TTY": "x", "WAYLAND_DISPLAY": "wayland-0"}, []),
        ({"SSH_CONNECTION": "x", "TMUX": "x"}, ["tmux"]),
        ({"SSH_CONNECTION": "x", "DISPLAY": "localhost:10.0"}, ["xclip"]),
    ],
)
def test_only_programs_that_reach_the_persons_clipboard_are_asked(
    programs: Path, variables: dict[str, str], expected: list[str]
) -> None:
    found = local_programs({**variables, "PATH": str(programs)})
    assert [program.name for program in found] == expected
    assert local_programs({**variables, "PATH": "/nowhere"}) == ()


def script(folder: Path, text: str) -> Program:
    path = folder / "program"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return Program((str(path),), "", over_ssh=True)


def test_a_program_took_a_text_only_if_it_says_so(tmp_path: Path) -> None:
    got = tmp_path / "got"
    assert copy_with(script(tmp_path, f'cat > "{got}"'), "grün\n日本")
    assert got.read_text(encoding="utf-8") == "grün\n日本"
    assert not copy_with(script(tmp_path, "echo no display >&2; exit 1"), "x")
    assert not copy_with(Program((str(tmp_path / "missing"),), "", over_ssh=True), "x")


def test_a_program_that_stays_to_serve_the_text_is_not_waited_for(tmp_path: Path) -> None:
    # as xclip does; with a pipe for its output this would last until the program is killed
    assert copy_with(script(tmp_path, "cat > /dev/null; sleep 2 &"), "x")


def test_the_message_says_what_was_tried() -> None:
    assert copy_message("abc", "the answer", sent=True, programs=["tmux"]) == (
        "copied the answer, 3 characters: the terminal (OSC 52) and tmux"
    )
    one = copy_message("a", "", sent=False, programs=["xclip"])
    assert one == "copied the selection, 1 character: xclip"
    none = copy_message("a" * 80_000, "", sent=False, programs=[])
    assert none.startswith("not copied: 80000 characters")


def test_code_blocks_are_those_a_person_sees() -> None:
    text = "a\n\n```python\nx = 1\n```\n- b\n\n      y\n\n~~~\n```\n~~~\n\n    z\n\n```\nopen"
    assert [(language, code) for code, language in code_blocks(text)] == [
        ("python", "x = 1\n"), ("", "y\n"), ("", "```\n"), ("", "z\n"), ("", "open"),
    ]  # fmt: skip
    assert code_blocks("no code, `none`") == []


def test_what_is_copied_is_counted_from_where_a_person_would() -> None:
    answers = ["one", "```\na\n```\n\n```sh\nb\n```", "three"]
    assert copy_answer(answers)[0] == "three"
    assert copy_answer(answers, 3)[0] == "one"
    assert copy_code(answers) == ("b\n", "code block 2 of 2 (sh)")
    assert copy_code(answers, 1)[0] == "a\n"
    with pytest.raises(ChatError, match="nothing to copy"):
        copy_answer([])
    with pytest.raises(ChatError, match="only 3 answers"):
        copy_answer(answers, 4)
    with pytest.raises(ChatError, match="only 2 code blocks"):
        copy_code(answers, 3)
    with pytest.raises(ChatError, match="no code"):
        copy_code(["none"])


@pytest.mark.parametrize(
    ("line", "asked"),
    [
        ("/copy", CopyRequest("answer", None)),
        ("/copy 2", CopyRequest("answer", 2)),
        ("/copy code", CopyRequest("code", None)),
        ("/copy code 3", CopyRequest("code", 3)),
        ("/copy selection", CopyRequest("selection", None)),
        ("/copy 0", None),
        ("/copy code x", None),
        ("/copy selection 1", None),
        ("/copy everything", None),
        ("/copy 1 2", None),
    ],
)
def test_copy_commands(line: str, asked: CopyRequest | None) -> None:
    if asked is not None:
        assert parse_copy(parse_command(line).words) == asked
        return
    with pytest.raises(SlashError, match="copy what"):
        parse_copy(parse_command(line).words)


class Terminal:
    """What the app writes past its screen."""

    def __init__(self, chat: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
        self._written: list[str] = []
        driver = chat.app._driver
        assert driver is not None
        monkeypatch.setattr(driver, "write", self._written.append)

    @property
    def copied(self) -> list[str]:
        return [received(each) for each in self._written if "]52;" in each]


@pytest.fixture
def no_desktop(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TMUX", "DISPLAY", "WAYLAND_DISPLAY", "SSH_CONNECTION", "SSH_TTY"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_desktop")
async def test_keys_and_commands_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with driving() as chat:
        terminal = Terminal(chat, monkeypatch)
        await chat.pilot.press("ctrl+y")
        assert "nothing to copy" in chat.hint
        await chat.ask()
        await chat.pilot.press(*"draft", "ctrl+y")
        assert terminal.copied == [ANSWER]
        assert chat.prompt.text == "draft"
        await chat.until(lambda: "copied the answer" in chat.hint)
        assert "OSC 52" in chat.screen_text()
        chat.prompt.text = ""
        await chat.type("/copy code", "enter")
        await chat.type("/copy code 2", "enter")
        assert "only 1 code block" in chat.hint
        chat.prompt.text = ""
        await chat.type("/copy selection", "enter")
        assert "nothing is selected" in chat.hint
        chat.prompt.text = ""
        chat.app.chat.selections = {chat.app.chat.query_one(Transcript): SELECT_ALL}
        await chat.pilot.press("ctrl+c")
        assert terminal.copied[:2] == [ANSWER, CODE]
        assert "Rayleigh scattering" in terminal.copied[2]
        assert chat.app.clipboard == terminal.copied[2]


@pytest.mark.usefixtures("no_desktop")
async def test_a_text_too_long_for_a_terminal_goes_to_a_program_or_is_refused(
    monkeypatch: pytest.MonkeyPatch, programs: Path
) -> None:
    long = "word " * 20_000
    async with driving() as chat:
        terminal = Terminal(chat, monkeypatch)
        monkeypatch.setenv("PATH", "/nowhere")
        chat.app.copy_to_clipboard(long, "the answer")
        await chat.until(lambda: "not copied" in chat.hint)
        monkeypatch.setenv("PATH", str(programs))
        monkeypatch.setenv("DISPLAY", ":0")
        chat.app.copy_to_clipboard(long, "the answer")
        await chat.until(lambda: "characters: xclip" in chat.hint)
        assert (programs / "xclip.got").read_text() == long
        assert terminal.copied == []


@pytest.mark.usefixtures("no_desktop")
async def test_what_would_act_when_pasted_is_copied_made_visible(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with driving(replay(make_answer("safe\x1b[201~rm -rf\x07"))) as chat:
        terminal = Terminal(chat, monkeypatch)
        await chat.ask()
        await chat.pilot.press("ctrl+y")
        assert terminal.copied == ["safe␛[201~rm -rf␇"]
