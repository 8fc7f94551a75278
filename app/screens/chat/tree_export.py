"""`/export tree`: the tree of the step on show as a picture in a file."""

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sequoia_core.events import PairDescription
from sequoia_core.files import write_whole, written_whole

from ...present.tree_picture import tree_svg
from ...state.chat_session import ChatError
from ...state.step_cursor import StepCursor
from .export import new_file

DEFAULT_FILE = "tree.svg"
ENDINGS = (".svg", ".png")
_SECONDS = 30.0
_CHROMIUM = (
    "--headless", "--hide-scrollbars", "--force-device-scale-factor=2",
    "--window-size={width},{height}", "--user-data-dir={folder}", "--screenshot={png}", "{svg}",
)  # fmt: skip
CONVERTERS: Mapping[str, tuple[str, ...]] = {
    "rsvg-convert": ("--zoom", "2", "--output", "{png}", "{svg}"),
    "resvg": ("--zoom", "2", "{svg}", "{png}"),
    "inkscape": ("--export-type=png", "--export-dpi=192", "--export-filename={png}", "{svg}"),
    "chromium": _CHROMIUM,
    "google-chrome": _CHROMIUM,
}
"""Programs that make a PNG of an SVG, the lightest first, and their arguments."""


def tree_file(given: str, cursor: StepCursor) -> Path:
    """The file for the tree of the step on show; raises `SequoiaError` if there cannot be one."""
    if cursor.step is None:
        raise ChatError("no tree yet: send a message first")
    name = given or DEFAULT_FILE
    if Path(name).suffix not in ENDINGS:
        raise ChatError(f"a tree is drawn as {' or '.join(ENDINGS)}: /export tree FILE.svg")
    if Path(name).suffix == ".png" and not _converters():
        raise ChatError(
            "a PNG needs rsvg-convert (package librsvg2-bin), resvg, inkscape or chromium; "
            "or /export tree FILE.svg"
        )
    return new_file(name, "/export tree OTHER.svg")


async def export_tree(
    file: Path,
    cursor: StepCursor,
    pair: PairDescription | None,
    colors: Mapping[str, str],
) -> str:
    """Draw the step on show into a file; returns a line on it, or raises ChatError."""
    step, statistics = cursor.step, cursor.statistics
    assert step is not None
    so_far = statistics.totals.tokens_per_step if statistics is not None else 0.0
    try:
        svg = await asyncio.to_thread(tree_svg, step, pair, so_far, colors)
        if file.suffix == ".png":
            await asyncio.to_thread(_write_png, svg, file)
        else:
            await asyncio.to_thread(write_whole, file, svg, private=True)
    except OSError as error:
        reason = error.strerror or error
        raise ChatError(f"no picture of the tree: {file}: {reason}") from None
    return f"exported: {file} (the tree of step {step.index})"


def _converters() -> list[str]:
    return [name for name in CONVERTERS if shutil.which(name)]


def _write_png(svg: str, file: Path) -> None:
    """Convert with the first program that can. Raises OSError if none does."""
    found = re.search(r'width="(\d+)" height="(\d+)"', svg)
    width, height = found.groups() if found else ("1600", "900")
    with tempfile.TemporaryDirectory() as folder:
        source, png = Path(folder, "tree.svg"), Path(folder, "tree.png")
        source.write_text(svg, encoding="utf-8")
        places = {"svg": source, "png": png, "folder": folder, "width": width, "height": height}
        for name in _converters():
            command = [name, *(each.format_map(places) for each in CONVERTERS[name])]
            if CONVERTERS[name] is _CHROMIUM and os.geteuid() == 0:
                command.insert(1, "--no-sandbox")  # refuses to run for root otherwise
            if _succeeds(command) and png.exists():
                with written_whole(file, private=True) as target:
                    target.write(png.read_bytes())
                return
    raise OSError(f"{' and '.join(_converters())} could not make a PNG; try FILE.svg")


def _succeeds(command: list[str]) -> bool:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL, timeout=_SECONDS, check=False,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0
