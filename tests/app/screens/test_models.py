"""Other models in a running chat: chosen from a list or named, loaded, or left."""

import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pytest

from app.app import SequoiaApp, Settings
from app.config.model_choice import with_target
from app.config.model_list import ModelKind, ModelLoader, ModelRow
from app.screens.models import ModelsScreen
from app.store.recorder import DatabaseRecorder, Recorder
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.errors import ModelLoadError, TokenizerMismatchError
from sequoia_core.events import PairDescription, Progress
from sequoia_core.text.chat_template import Turn
from tests.app.driving import Driver
from tests.fakes import PAIR, make_answer, replay
from tests.replay_engine import ReplayEngine, Trace

GIB = 1 << 30
ROWS = (
    ModelRow(
        "Pairs", "embedded", Settings(pair="embedded"), "SmolLM2 ← bundled draft",
        size=98 << 20, needed=400 << 20, in_use=True,
    ),
    ModelRow(
        "Pairs", "llama-3.1-8b", Settings(pair="llama-3.1-8b"), "Llama 8B ← Llama 1B",
        size=17 * GIB, needed=18 * GIB, problem="needs 18.0 GiB, 11.0 GiB are free", here=False,
    ),
    ModelRow(
        "This folder", "tiny\nmodel", Settings(target="other/tiny"), "no draft",
        size=1 << 20, needed=9 << 20,
    ),
    ModelRow(
        "This folder", "cut.gguf", Settings(target="cut.gguf"),
        problem="truncated or no GGUF file",
    ),
)  # fmt: skip


class Noting(ReplayEngine):
    """Notes the turns that it is taken to."""

    def __init__(self, pair: PairDescription) -> None:
        super().__init__(Trace(pair, make_answer()))
        self.turns: Sequence[Turn] = ()

    def restore(self, turns: Sequence[Turn]) -> None:
        self.turns = turns


@dataclass
class FakeLoader(ModelLoader):
    """Loads engines without models; `loading` may wait or raise."""

    loading: Callable[[Progress], None] = lambda progress: None
    error: Exception | None = None  # of the check
    beside: bool = True  # what the check returns
    loaded: list[Settings] = field(default_factory=list)
    engine: Noting | None = None

    def rows(self, kind: ModelKind, settings: Settings) -> Iterator[ModelRow]:
        return iter(ROWS if kind is ModelKind.TARGET else ROWS[2:])

    def check(self, wanted: Settings, now: Settings, engine: ChatEngine | None = None) -> bool:
        if self.error is not None:
            raise self.error
        return self.beside

    def load(
        self, settings: Settings, progress: Progress, engine: ChatEngine | None = None
    ) -> ChatEngine:
        self.loading(progress)
        self.loaded.append(settings)
        name = (settings.target or settings.pair or "embedded").rpartition("/")[2]
        draft = settings.draft if settings.draft != "none" else None
        self.engine = Noting(msgspec.structs.replace(PAIR, target=name, draft=draft))
        return self.engine


@asynccontextmanager
async def choosing(
    loader: ModelLoader | None, recorder: Recorder | None = None
) -> AsyncIterator[Driver]:
    app = SequoiaApp(lambda progress: replay(), Settings(), recorder, models=loader)
    async with app.run_test(size=(120, 44)) as pilot:
        driver = Driver(app, pilot)
        await driver.ready()
        yield driver


async def choose(chat: Driver, *keys: str) -> None:
    """Open the list and press keys in it."""
    await chat.type("/model", "enter")
    await chat.until(lambda: "4 models" in chat.screen_text())
    await chat.pilot.press(*keys)


def said(chat: Driver) -> str:
    return " ".join(chat.transcript.split())


async def test_the_chat_goes_on_with_other_models(tmp_path: Path) -> None:
    loader, record = FakeLoader(), DatabaseRecorder(tmp_path / "sessions.db")
    async with choosing(loader, recorder=record) as chat:
        await chat.ask()
        await chat.type("/set temperature 0.3", "enter")
        await choose(chat, *"tiny", "enter")
        news = "tiny answers from here on; it has no draft: prompt lookup "
        await chat.until(lambda: news in said(chat))
        assert chat.session.settings == Settings(target="other/tiny", temperature=0.3)
        assert loader.engine is not None
        assert [turn.prompt for turn in loader.engine.turns] == ["Why is the sky blue?"]
        header = chat.screen_text().splitlines()[0]
        assert "tiny" in header
        assert PAIR.target not in header
        await chat.ask("And the sea?")
        names = [chat.app.chat.pages.answers[each.id].name for each in chat.session.history.branch]
        assert names == [PAIR.target, "tiny"]
    (info,) = record.archive.sessions()
    stored = record.archive.load(info.id)
    assert (stored.target, len(stored.history.branch)) == ("tiny", 2)


async def test_a_named_model_loads_with_progress_and_what_is_asked_waits() -> None:
    go_on = threading.Event()

    def loading(progress: Progress) -> None:
        progress("Loading tiny", 0.25)
        go_on.wait(20)

    async with choosing(FakeLoader(loading)) as chat:
        await chat.type("/model other/tiny", "enter")
        await chat.until(lambda: "Loading tiny 25%" in chat.hint)
        assert chat.screen_text().splitlines()[0].count("loading") == 1
        await chat.type("/model", "enter")
        assert "still loading" in chat.hint
        chat.prompt.put("")
        await chat.type("Why?", "enter")
        assert chat.entry.name == "Answer"
        go_on.set()
        await chat.finish()
        assert chat.entry.name == "tiny"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (TokenizerMismatchError("another tokenizer; take one of the same family"), "another tok"),
        (ModelLoadError("a/b: needs 16.0 GiB, 11.0 GiB are free; choose"), "needs 16.0 GiB, 11.0"),
    ],
)
async def test_what_does_not_go_together_is_refused_before_loading(
    error: Exception, line: str
) -> None:
    loader = FakeLoader(error=error)
    async with choosing(loader) as chat:
        before = chat.session.settings
        await chat.type("/draft a/b", "enter")
        await chat.until(lambda: line in chat.hint)
        assert f"; {PAIR.target} stays" in chat.hint
        assert loader.loaded == []
        assert chat.session.settings == before
        await chat.ask()
        assert chat.entry.name == PAIR.target


async def test_loading_is_left_with_the_models_before() -> None:
    waiting, go_on = threading.Event(), threading.Event()

    def loading(progress: Progress) -> None:
        waiting.set()
        while not go_on.is_set():
            progress("Downloading", None)
            go_on.wait(0.01)

    async with choosing(FakeLoader(loading)) as chat:
        await chat.type("/model other/tiny", "enter")
        await chat.until(waiting.is_set)
        await chat.pilot.press("escape")
        await chat.until(lambda: f"stopped; {PAIR.target} stays" in chat.hint)
        assert chat.session.pair == PAIR
        go_on.set()


async def test_models_that_are_loaded_again_show_the_same_tree() -> None:
    errors = [ModelLoadError("damaged")]

    def loading(_: Progress) -> None:
        if errors:
            raise errors.pop()

    loader = FakeLoader(loading, beside=False)
    async with choosing(loader) as chat:
        await chat.type("/show-tree on", "enter")
        await chat.ask()
        await chat.type("/model other/tiny", "enter")
        await chat.until(lambda: "damaged; " in chat.hint)
        assert loader.engine is not None
        await chat.ask()
        assert loader.engine.tree_choice.shown


async def test_quitting_does_not_wait_for_other_models() -> None:
    waiting = threading.Event()

    def loading(progress: Progress) -> None:
        waiting.set()
        pause = threading.Event()
        while not pause.wait(0.01):
            progress("Downloading", None)

    async with choosing(FakeLoader(loading)) as chat:
        await chat.type("/model other/tiny", "enter")
        await chat.until(waiting.is_set)
        await chat.pilot.press("ctrl+q")
    assert not chat.app.decoder.alive


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("/model nonsense", "'nonsense' is no pair, folder, GGUF file or hub id"),
        ("/model lama-2-7b", "did you mean llama-2-7b?"),
        ("/draft xyzzy", "/draft lists the models here"),
        ("/model embedded", "in use already"),
    ],
)
async def test_what_cannot_be_loaded_is_said_at_once(line: str, told: str) -> None:
    async with choosing(FakeLoader()) as chat:
        await chat.type(line, "enter")
        assert told in chat.hint
        if told.startswith("'"):
            assert chat.prompt.text == line


@pytest.mark.parametrize("line", ["/model", "/draft none"])
async def test_a_browsers_windows_keep_their_models_and_say_how_to_choose(line: str) -> None:
    async with choosing(None) as chat:
        await chat.type(line, "enter")
        assert "sequoia web --target MODEL" in chat.hint
        assert chat.prompt.text == line


async def test_an_answer_is_stopped_first() -> None:
    async with choosing(FakeLoader()) as chat:
        await chat.pause_at(1)
        await chat.type("/model other/tiny", "enter")
        assert "first" in chat.hint
        await chat.pilot.press("escape")
        await chat.finish()


async def test_a_model_that_does_not_fit_or_is_broken_is_not_taken() -> None:
    loader = FakeLoader()
    async with choosing(loader) as chat:
        await choose(chat)
        shown = chat.screen_text()
        assert "tiny model" in shown
        assert shown.count("too large") == shown.count("unusable") == 1
        for typed, why in (("8b", "needs 18.0 GiB, 11.0 GiB are free"), ("cut", "truncated")):
            await chat.pilot.press(*typed, "enter")
            assert isinstance(chat.app.screen, ModelsScreen)
            assert why in chat.screen_text()
            await chat.pilot.press(*["backspace"] * len(typed))
        await chat.pilot.press("escape")
        assert loader.loaded == []


async def test_the_list_takes_what_is_typed_and_not_listed() -> None:
    loader = FakeLoader()
    async with choosing(loader) as chat:
        await choose(chat, *"nowhere", "enter")
        assert "is no pair, folder" in chat.screen_text()
        await chat.pilot.press(*["backspace"] * 7, *"my/model", "enter")
        await chat.until(lambda: "model answers from here on" in said(chat))
        assert loader.loaded[-1] == with_target(Settings(), "my/model")


async def test_models_are_kept_for_the_next_start_only_if_that_is_wanted(
    config_home: Path,
) -> None:
    file = config_home / "config.toml"
    file.write_text('target = "old/one"  # mine\ndraft = "old/draft"\n')
    async with choosing(FakeLoader()) as chat:
        await choose(chat, *"tiny", "enter")
        await chat.until(lambda: "tiny answers from here on" in said(chat))
        assert "old/one" in file.read_text()
        await choose(chat, *"embedded", "ctrl+s")
        await chat.until(lambda: "kept for the next start" in said(chat))
        assert file.read_text() == 'pair = "embedded"\n'
        assert replace(chat.session.settings, theme="") == Settings(pair="embedded", theme="")
