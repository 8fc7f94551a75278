"""Copies text by the terminal's escape sequence OSC 52, also over SSH, and by local programs."""

import base64
import shutil
import subprocess
from collections.abc import Mapping
from typing import NamedTuple

from sequoia_core.errors import counted

MOST_BYTES = 74_994
"""Bytes of text whose base64 fits the 100,000 bytes that terminals accept in one sequence."""
_PROGRAM_SECONDS = 3.0


class Program(NamedTuple):
    """A program that puts its standard input into a clipboard."""

    command: tuple[str, ...]
    needs: str  # environment variable that it depends on; "" for none
    over_ssh: bool  # it reaches the person's clipboard over SSH too

    @property
    def name(self) -> str:
        return self.command[0]


PROGRAMS = (
    Program(("tmux", "load-buffer", "-w", "-"), "TMUX", over_ssh=True),
    Program(("wl-copy",), "WAYLAND_DISPLAY", over_ssh=False),
    Program(("xclip", "-selection", "clipboard"), "DISPLAY", over_ssh=True),
    Program(("xsel", "--clipboard", "--input"), "DISPLAY", over_ssh=True),
    Program(("pbcopy",), "", over_ssh=False),
    Program(("clip.exe",), "WSL_DISTRO_NAME", over_ssh=False),
)
"""tmux's is used if it is there, and the first of the others."""


def terminal_sequence(text: str, environ: Mapping[str, str]) -> str | None:
    """What to write to the terminal; None if the text is too long.

    In tmux it is wrapped: with the option `allow-passthrough` it reaches the outer terminal.
    """
    raw = text.encode("utf-8", "replace")
    if len(raw) > MOST_BYTES:
        return None
    sequence = f"\x1b]52;c;{base64.b64encode(raw).decode('ascii')}\x07"
    if environ.get("TMUX"):
        return "\x1bPtmux;" + sequence.replace("\x1b", "\x1b\x1b") + "\x1b\\"
    return sequence


def local_programs(environ: Mapping[str, str]) -> tuple[Program, ...]:
    """Programs that reach the person's clipboard: tmux's, and the best of the others."""
    remote = bool(environ.get("SSH_CONNECTION") or environ.get("SSH_TTY"))
    usable = [
        each
        for each in PROGRAMS
        if (not each.needs or environ.get(each.needs))
        and (each.over_ssh or not remote)
        and shutil.which(each.name, path=environ.get("PATH"))
    ]
    most = 2 if usable and usable[0].needs == "TMUX" else 1
    return tuple(usable[:most])


def copy_with(program: Program, text: str) -> bool:
    """Pass a text to a program, which may keep running to serve it; whether it succeeded."""
    try:
        done = subprocess.run(
            program.command,
            input=text.encode("utf-8", "replace"),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=_PROGRAM_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def copy_message(text: str, what: str, *, sent: bool, programs: list[str]) -> str:
    """One line on what was tried, as no terminal answers; `what` is "" for a selection."""
    size = counted(len(text), "character")
    ways = ["the terminal (OSC 52)", *programs] if sent else programs
    if ways:
        return f"copied {what or 'the selection'}, {size}: {' and '.join(ways)}"
    return (
        f"not copied: {size} are more than a terminal takes ({MOST_BYTES} bytes), and no clipboard "
        "program is here; /export FILE.md writes a file"
    )
