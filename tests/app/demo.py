"""The chat with replayed events: to look at the screen without any model, and to picture it.

`python -m tests.app.demo` opens it at the pace of a real machine; with a folder it writes the
pictures of the documentation there.
"""

import asyncio
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from app.app import ChatSettings, SequoiaApp
from app.messages import LoadProgress
from sequoia_core.events import Event, Step
from sequoia_core.protocols import ChatEngine
from tests.fakes import replay


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the documentation: how the screen got there, and how it is looked at."""

    name: str
    theme: str
    size: tuple[int, int]
    keys: tuple[str, ...] = ()
    held_at: int = 31
    """Step before which the replay stands still; past the end, the answer is finished."""


PICTURES = (
    Picture("chat", "sequoia", (160, 50), held_at=49),
    Picture("looking-back", "midnight", (160, 50), ("left_square_bracket",) * 6, held_at=99),
    Picture("tints", "okabe-ito", (120, 44), ("f6",), held_at=99),
    Picture("narrow-tree", "high-contrast", (80, 24), ("f4",)),
    Picture("help", "sequoia", (100, 40), ("f1",)),
)


def _pace(event: Event) -> None:
    if isinstance(event, Step):
        time.sleep(event.timings.total_ms / 1e3)


def paced_engine(progress: LoadProgress) -> ChatEngine:
    """Answers as fast as the recorded steps say."""
    progress("loading the recorded answer", 0.5)
    return replay(before=_pace)


async def take(picture: Picture) -> str:
    """The picture as SVG."""
    release, held = threading.Event(), threading.Event()

    def hold(event: Event) -> None:
        if isinstance(event, Step) and event.index == picture.held_at:
            held.set()
            release.wait()

    settings = ChatSettings(theme=picture.theme)
    app = SequoiaApp(lambda progress: replay(before=hold), settings)
    async with app.run_test(size=picture.size) as pilot:
        await pilot.press(*"Why is the sky blue?", "enter")
        while not held.is_set() and (app.chat.busy or app.chat.answer is None):
            await pilot.pause(0.05)
        await pilot.pause(0.3)
        await pilot.press(*picture.keys)
        await pilot.pause(0.3)
        svg = app.export_screenshot(title="sequoia")
        release.set()
        return svg


def main() -> None:
    """Open the demonstration, or write the pictures into the folder given."""
    if len(sys.argv) == 1:
        SequoiaApp(paced_engine, ChatSettings()).run()
        return
    for picture in PICTURES:
        svg = asyncio.run(take(picture))
        Path(sys.argv[1], f"{picture.name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    main()
