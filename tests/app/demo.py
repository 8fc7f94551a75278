"""The chat with a recorded answer: to look at the screen without any model, and to picture it.

`python -m tests.app.demo` opens it at the recorded pace; `... pictures` draws the pictures of
the documentation; `... record` lets the embedded pair answer anew, so that every figure in a
picture was measured.
"""

import asyncio
import os
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from app.app import SequoiaApp, Settings
from app.config.themes import load_theme, packaged_folder
from app.present.tree_picture import tree_svg
from app.state.summary import best_step
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.events import Event, Progress, Step, TreeChosen
from sequoia_core.recording.trace_file import Asked, Entry, recorded
from tests.replay_engine import ReplayEngine, Trace, read_trace

FOLDER = Path(__file__).parents[2] / "docs" / "img"
RECORDING = FOLDER / "answer.jsonl"
LARGER_TREES = Path(__file__).parents[2] / "app" / "scenes" / "4-larger.jsonl.gz"
PROMPT = "Write a Python function that reverses a string, and explain it."
GROWMAP = "smollm2-135m/greedy-8x3"


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture of the documentation: how the screen got there, and how it is looked at."""

    name: str
    theme: str
    size: tuple[int, int]
    keys: tuple[str, ...] = ()
    held_at: int = 40
    """Step before which the replay stands still; past the end, the answer is finished."""
    recording: Path = RECORDING  # of which the first answer is shown


SETTLE_SECONDS = 3.0
_POINTED = ("tab", "down", "enter")
"""To the tree, to a node of it, and why it came out so."""
END, BEST = 100_000, 0
"""For `held_at`: the answer is finished; after its step with most accepted tokens."""
PICTURES = (
    Picture("chat", "sequoia", (160, 50), held_at=BEST, recording=LARGER_TREES),
    Picture("looking-back", "midnight", (160, 50), ("left",) * 10, held_at=END),
    Picture("tints", "okabe-ito", (120, 44), ("f6",), held_at=END),
    Picture("narrow-tree", "high-contrast", (80, 24), ("f4",), held_at=40),
    Picture("why", "sequoia", (160, 50), ("left",) * 12 + _POINTED, held_at=END),
    Picture("heat-map", "fjord", (160, 50), ("f4",), held_at=END),
    Picture("help", "sequoia", (100, 44), ("f1",)),
)


def _pace(event: Event) -> None:
    if isinstance(event, Step):
        time.sleep(event.timings.total_ms / 1e3)


def paced_engine(progress: Progress) -> ChatEngine:
    """Answers as fast as the recorded steps say."""
    progress("loading the recorded answer", 0.5)
    return ReplayEngine(read_trace(RECORDING), before=_pace)


def record() -> None:
    """Let the embedded pair answer the prompt and keep the events."""
    from sequoia_core import Conversation, SamplingParams, TreeChoice, load_pair
    from sequoia_core.tree.files import find_growmap

    choice = TreeChoice(growmap=find_growmap(GROWMAP))
    chat = Conversation(load_pair(), tree_choice=choice, insight=True)
    params = SamplingParams(temperature=0.0, max_new_tokens=256)
    for _ in chat.reply("Hello!", SamplingParams(max_new_tokens=32)):
        pass  # warms up what the first answer of a process pays for
    chat.clear()
    asked = Asked(PROMPT, "demo", started=time.time(), temperature=params.temperature)
    for _ in recorded(RECORDING, chat.description, asked, chat.reply(PROMPT, params)):
        pass


def first_answer(path: Path) -> tuple[Trace, str, str, int]:
    """The first answer of a recording, its prompt, its tree, and its best step."""
    trace = read_trace(path)
    entries: list[Entry] = []
    for entry in trace.entries:
        if isinstance(entry, Asked) and entries:
            break
        entries.append(entry)
    prompt = next(each.prompt for each in entries if isinstance(each, Asked))
    tree = next(each.growmap for each in entries if isinstance(each, TreeChosen))
    steps = [each for each in entries if isinstance(each, Step)]
    # the last of the best, when there is most text
    return Trace(trace.description, tuple(entries)), prompt, tree, best_step(steps[::-1]).index


async def take(picture: Picture) -> str:
    """The picture as SVG."""
    release, held = threading.Event(), threading.Event()
    trace, prompt, growmap, best = first_answer(picture.recording)
    held_at = picture.held_at if picture.held_at != BEST else best + 1

    def hold(event: Event) -> None:
        if isinstance(event, Step) and event.index == held_at:
            held.set()
            release.wait()

    settings = Settings(temperature=0.0, growmap=growmap, theme=picture.theme)
    app = SequoiaApp(lambda progress: ReplayEngine(trace, before=hold), settings)
    async with app.run_test(size=picture.size) as pilot:
        await pilot.press(*prompt, "enter")
        while not held.is_set() and (app.chat.session.busy or app.chat.session.answer is None):
            await pilot.pause(0.05)
        await pilot.pause(SETTLE_SECONDS)  # pictures come only so often while an answer runs
        await pilot.press(*picture.keys)
        await pilot.pause(SETTLE_SECONDS)
        svg = app.export_screenshot(title="sequoia")
        release.set()
        return svg


def tree_picture() -> str:
    """The best step of the scene with larger trees, as `/export tree` draws it."""
    trace, _, _, best = first_answer(LARGER_TREES)
    step = next(each for each in trace.entries if isinstance(each, Step) and each.index == best)
    theme = load_theme(packaged_folder() / "sequoia.toml")
    assert theme.foreground is not None
    assert theme.background is not None
    grounds = {"foreground": theme.foreground, "background": theme.background}
    return tree_svg(step, trace.description, 0.0, theme.variables | grounds)


def main() -> None:
    """Open the demonstration, record the answer, or draw the pictures."""
    match sys.argv[1:]:
        case []:
            SequoiaApp(paced_engine, Settings(temperature=0.0, growmap=GROWMAP)).run()
        case ["record"]:
            record()
        case ["pictures"]:
            os.environ["COLORTERM"] = "truecolor"  # whatever terminal they are drawn from
            for picture in PICTURES:
                svg = asyncio.run(take(picture))
                (FOLDER / f"{picture.name}.svg").write_text(svg, encoding="utf-8")
            (FOLDER / "tree.svg").write_text(tree_picture(), encoding="utf-8")
        case _:
            sys.exit("usage: python -m tests.app.demo [record | pictures]")


if __name__ == "__main__":
    main()
