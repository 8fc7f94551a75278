"""A replay shows at every moment what the chat showed then, however one gets there."""

import io
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from textual.pilot import Pilot
from textual.widgets import Static
from typer.testing import CliRunner

from app import cli
from app.config.settings import Settings
from app.screens.help import ReplayHelp
from app.screens.replay import ReplayApp, ReplayScreen
from app.state.answer import Answer
from app.state.player import SPEEDS, Player, TraceLoader
from app.state.timeline import PAUSE_SECONDS, PROMPT_SECONDS, ItemKind, Timeline
from app.widgets.acceptance_map import AcceptanceView
from app.widgets.bars import SeekBar, clock
from app.widgets.caption_bar import CaptionBar
from app.widgets.key_bar import KeyBar
from app.widgets.transcript import Transcript
from app.widgets.tree_view import TreeView
from app.widgets.why_panel import WhyPanel
from sequoia_core.errors import TraceError
from sequoia_core.events import Event, Failed, Finished, Notice, NoticeKind, PrefillDone, Step
from sequoia_core.recording.trace_file import (
    Asked,
    Caption,
    Entry,
    SceneInfo,
    TraceReader,
    write_event,
    write_header,
)
from tests.fakes import PAIR, make_answer

FIRST = Asked("Why is the sky blue?", "one", None, 1000.0, 0.0)
SECOND = Asked("And the sea?", "two", "one", 1060.0, 0.0)
AGAIN = Asked("And the sea at night?", "three", "one", 1120.0, 0.0)
SHORT = "The sea takes the colour of the sky above it."


def chat() -> list[Entry]:
    """Two answers, and another branch from the first."""
    return [
        FIRST, *make_answer(),
        SECOND, Notice(NoticeKind.PRECISION, "near-ties"), *make_answer(SHORT),
        AGAIN, *make_answer("Black, but for the moon."),
    ]  # fmt: skip


def written(entries: Iterable[Entry], scene: SceneInfo | None = None) -> str:
    file = io.StringIO()
    write_header(file, PAIR, scene)
    for entry in entries:
        write_event(file, entry)
    return file.getvalue()


def recording(folder: Path, entries: Iterable[Entry] | None = None) -> Path:
    path = folder / "chat.jsonl"
    path.write_text(written(chat() if entries is None else entries), encoding="utf-8")
    return path


def timeline(entries: Iterable[Entry]) -> Timeline:
    line = Timeline()
    for entry in entries:
        line.add(entry)
    return line


# Moments


def grown(events: Sequence[Event], steps: int) -> Answer:
    """The answer as the chat had it right after a step."""
    answer = Answer("")
    for event in events:
        if steps == len(answer.steps) and steps:
            break
        answer.add(event)
    return answer


def test_each_moment_shows_what_the_chat_showed_after_that_step() -> None:
    events = make_answer()
    line = timeline([FIRST, *events])
    count = sum(isinstance(event, Step) for event in events)
    assert [moment.steps for moment in line.moments] == list(range(count + 1))
    for at in range(1, count):
        shown, known = line.view(at).answer, grown(events, at)
        assert (shown.text, shown.steps, shown.statistics) == (
            known.text, known.steps, known.statistics,
        )  # fmt: skip
        assert not shown.done
        assert shown.tree_at(at) == known.tree_at(at)
    assert line.view(0).answer.text == ""
    assert not line.view(0).answer.steps
    assert line.view(count).answer.text == grown(events, count).text
    assert line.view(count).answer.finished == events[-1]


def test_steps_take_their_recorded_time_and_the_prompt_time_to_be_read() -> None:
    events = list(make_answer(SHORT))
    line = timeline([FIRST, *events, SECOND, *events])
    steps = [event for event in events if isinstance(event, Step)]
    times = [moment.seconds for moment in line.moments]
    gaps = [after - before for before, after in pairwise(times)]
    first = PROMPT_SECONDS + steps[0].timings.total_ms / 1e3
    later = [step.timings.total_ms / 1e3 for step in steps[1:]]
    assert gaps == pytest.approx([first, *later, PAUSE_SECONDS, first, *later])


def test_a_long_prompt_takes_as_long_as_it_was_read() -> None:
    slow = PrefillDone(prompt_tokens=9000, cached_tokens=0, seconds=7.0)
    line = timeline([FIRST, slow, *make_answer(SHORT)[2:]])
    step = line.view(1).answer.steps[0]
    assert line.moments[1].seconds == pytest.approx(7.0 + step.timings.total_ms / 1e3)


def test_a_branch_shows_what_leads_to_it_and_says_that_it_is_one() -> None:
    line = timeline(chat())
    items = line.view(len(line.moments) - 1).items
    assert [(item.kind, item.exchange) for item in items] == [
        (ItemKind.PROMPT, "one"),
        (ItemKind.ANSWER, "one"),
        (ItemKind.NOTE, "three"),
        (ItemKind.PROMPT, "three"),
        (ItemKind.ANSWER, "three"),
    ]
    assert "answer 2 in this place" in items[2].text


def test_notes_appear_when_they_were_made_and_a_failure_at_the_end() -> None:
    steps = make_answer()[:6]
    late = Notice(NoticeKind.PLAIN_DECODING, "no tree pays")
    line = timeline([FIRST, *steps, late, *make_answer()[6:8], Failed("no memory")])
    texts = [[item.text for item in line.view(at).items] for at in range(len(line.moments))]
    shown = ["no tree pays" in each for each in texts]
    assert shown == sorted(shown)
    assert not shown[2]
    assert shown[3]
    assert [("no memory" in each) for each in texts] == [False] * (len(texts) - 1) + [True]


def test_a_trace_without_prompts_is_a_chat_of_its_answers() -> None:
    line = timeline([*make_answer("One."), *make_answer("Two.")])
    assert len(line.recorded) == 2
    items = line.view(len(line.moments) - 1).items
    assert [item.kind for item in items] == [ItemKind.PROMPT, ItemKind.ANSWER] * 2


def test_prompts_that_do_not_fit_together_are_shown_all_the_same() -> None:
    lost = Asked("Hm?", "one", "nowhere")
    line = timeline([FIRST, *make_answer("One."), lost, *make_answer("Two.")])
    assert len(line.recorded) == 2
    assert line.view(len(line.moments) - 1).answer.text == "Two."


# Captions

NODE = 2  # of a tree of the fakes
CAPTIONS = {0: ("A prompt.", None), 2: ("The first.", None), 3: ("A node.", NODE)}
"""By the number of steps after which they stand."""


def captioned() -> list[Entry]:
    """An answer with captions, two of them at its second step."""
    entries: list[Entry] = [FIRST, Caption(CAPTIONS[0][0], 4.0)]
    for event in make_answer():
        entries.append(event)
        if isinstance(event, Step) and event.index in CAPTIONS:
            text, node = CAPTIONS[event.index]
            entries.append(Caption(text, 4.0, node))
            if event.index == 2:
                entries.append(Caption("The second.", 0.0))
    return [*entries, Caption("The end.", 4.0)]


def test_a_caption_is_a_moment_that_takes_its_time() -> None:
    entries = captioned()
    line, plain = timeline(entries), timeline(e for e in entries if not isinstance(e, Caption))
    assert line.seconds == pytest.approx(plain.seconds + 16.0)
    known = [(m.steps, m.caption.text if m.caption else "", m.captioned) for m in line.moments]
    assert known[:6] == [
        (0, "A prompt.", True), (1, "A prompt.", False), (2, "The first.", True),
        (2, "The second.", True), (3, "A node.", True), (4, "A node.", False),
    ]  # fmt: skip
    assert len(line.moments) == len(plain.moments) + 1
    times = [moment.seconds for moment in line.moments]
    assert times[1] - times[0] == pytest.approx(4.0 + plain.moments[1].seconds)
    assert times[3] - times[2] == pytest.approx(4.0)
    assert known[-1][1:] == ("The end.", True)
    player = Player(line)
    player.playing = True
    player.advance(times[-1] + 3.9)
    assert (player.at, player.playing) == (len(times) - 1, True)
    player.advance(0.2)
    assert not player.playing


def test_captions_before_the_first_prompt_have_no_place_and_others_end_with_their_answer() -> None:
    line = timeline([Caption("Too early.", 9.0), *captioned(), SECOND, *make_answer(SHORT)])
    assert line.moments[0].caption == Caption("A prompt.", 4.0)
    begins = line.recorded[1].first
    assert line.moments[begins].caption is None
    assert line.view(begins).answer.text == ""


# Playing


MOVES = ["back", "forward", "earlier", "later", "first", "last", "answer back", "answer forward"]


@settings(deadline=None, max_examples=60)
@given(moves=st.lists(st.sampled_from([*MOVES, "toggle", "faster", "slower", "wait"])))
def test_time_and_moment_agree_whatever_keys_are_pressed(moves: list[str]) -> None:
    line = timeline(chat())
    player = Player(line)
    for move in moves:
        match move:
            case "toggle":
                player.toggle()
            case "faster" | "slower":
                player.faster(1 if move == "faster" else -1)
            case "wait":
                player.advance(0.3)
            case _:
                player.go(move)
        assert 0 <= player.at < len(line.moments)
        assert line.moments[player.at].seconds <= player.seconds + 1e-9
        assert player.at + 1 == len(line.moments) or (
            player.seconds < line.moments[player.at + 1].seconds
        )
        assert player.speed in SPEEDS
        assert not (player.playing and player.ended)


def test_playing_shows_every_moment_in_order_and_stops_at_the_end() -> None:
    line = timeline(chat())
    player = Player(line)
    player.playing = True
    seen = [player.at]
    while player.playing:
        player.advance(0.01)
        seen.append(player.at)
    assert sorted(set(seen)) == list(range(len(line.moments)))
    assert seen == sorted(seen)
    player.toggle()
    assert (player.at, player.playing) == (0, True)


def test_twice_the_speed_takes_half_as_long() -> None:
    line = timeline(chat())
    ticks = []
    for speed in (1.0, 2.0):
        player = Player(line, speed)
        player.playing, count = True, 0
        while player.playing:
            player.advance(0.01)
            count += 1
        ticks.append(count)
    assert ticks[0] == pytest.approx(2 * ticks[1], abs=2)


def test_it_waits_at_the_end_of_what_is_known_while_there_is_more_to_come() -> None:
    entries = [FIRST, *make_answer()]
    line = timeline(entries[:8])
    player = Player(line)
    player.playing = player.growing = True
    player.advance(1000.0)
    assert player.playing
    assert player.at == len(line.moments) - 1
    for entry in entries[8:]:
        line.add(entry)
    player.growing = False
    player.advance(1000.0)
    assert player.at == len(line.moments) - 1
    assert not player.playing


def test_answers_are_gone_through_one_by_one() -> None:
    line = timeline(chat())
    player = Player(line)
    begins = [each.first for each in line.recorded]
    seen = []
    for _ in range(4):
        player.go("answer forward")
        seen.append(player.at)
    assert seen == [begins[1], begins[2], len(line.moments) - 1, len(line.moments) - 1]
    for expected in (begins[2], begins[1], begins[0], begins[0]):
        player.go("answer back")
        assert player.at == expected


# Loading


def load(path: Path) -> TraceLoader:
    loading = TraceLoader(TraceReader(path))
    while not loading.done:
        loading.drain()
    return loading


def test_a_trace_longer_than_its_beginning_arrives_whole(tmp_path: Path) -> None:
    entries = [entry for turn in range(12) for entry in (Asked("?", str(turn)), *make_answer())]
    loading = load(recording(tmp_path, entries))
    assert len(entries) > 400
    assert len(loading.timeline.moments) == sum(isinstance(e, Step | Asked) for e in entries)
    assert loading.share == 1.0
    assert loading.note == ""
    loading.close()


def test_a_torn_last_line_is_told_and_what_is_before_it_shown(tmp_path: Path) -> None:
    path = recording(tmp_path)
    path.write_text(path.read_text("utf-8")[:-20], encoding="utf-8")
    loading = load(path)
    assert "only half written" in loading.note
    assert len(loading.timeline.recorded) == 3
    loading.close()


def test_damage_at_the_beginning_refuses_and_later_shows_what_is_before_it(tmp_path: Path) -> None:
    entries = [entry for turn in range(12) for entry in (Asked("?", str(turn)), *make_answer())]
    lines = written(entries).split("\n")
    path = tmp_path / "damaged.jsonl"
    path.write_text("\n".join([*lines[:3], "nonsense", *lines[3:]]), encoding="utf-8")
    with pytest.raises(TraceError, match="line 4"):
        TraceLoader(TraceReader(path))
    path.write_text("\n".join([*lines[:350], "nonsense", *lines[350:]]), encoding="utf-8")
    loading = load(path)
    assert "line 351" in loading.note
    assert len(loading.timeline.moments) == sum(
        isinstance(entry, Step | Asked) for entry in entries[:349]
    )
    loading.close()


def test_a_trace_without_an_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="holds no answer"):
        TraceLoader(TraceReader(recording(tmp_path, [])))


# The screen


@dataclass
class Replay:
    """A running replay, and short names for its parts."""

    app: ReplayApp
    pilot: Pilot[None]

    @property
    def player(self) -> Player:
        return self.app.replay.player

    @property
    def step(self) -> Step | None:
        return self.app.replay.query_one(TreeView).step

    @property
    def chat(self) -> str:
        return "\n".join(self.app.replay.query_one(Transcript)._layout.text())

    @property
    def bar(self) -> str:
        return self.app.replay.query_one(SeekBar).render().plain

    def screen_text(self) -> str:
        return "\n".join(strip.text for strip in self.app.screen._compositor.render_strips())

    async def press(self, *keys: str) -> None:
        await self.pilot.press(*keys)
        await self.pilot.pause()


@asynccontextmanager
async def replaying(
    folder: Path, entries: Iterable[Entry] | None = None, size: tuple[int, int] = (120, 44)
) -> AsyncIterator[Replay]:
    """A replay that is paused at its beginning and has read everything."""
    reader = TraceReader(recording(folder, entries))
    loading = TraceLoader(reader)
    app = ReplayApp(ReplayScreen(loading, Player(loading.timeline)), Settings())
    async with app.run_test(size=size) as pilot:
        replay = Replay(app, pilot)
        while not loading.done:
            await pilot.pause(0.01)
        await pilot.pause()
        yield replay


async def test_steps_are_walked_with_tree_text_and_figures(tmp_path: Path) -> None:
    async with replaying(tmp_path) as replay:
        assert replay.step is None
        assert FIRST.prompt in replay.chat
        await replay.press("right", "right_square_bracket")
        assert replay.step is not None
        assert replay.step.index == 2
        text = replay.app.replay.view.answer.text
        assert text
        assert text.split()[0] in replay.chat
        assert "rayleigh" not in replay.chat.lower() or "rayleigh" in text.lower()
        await replay.press("left_square_bracket")
        assert replay.step is not None
        assert replay.step.index == 1


async def test_end_shows_all_and_home_begins_again(tmp_path: Path) -> None:
    async with replaying(tmp_path) as replay:
        await replay.press("end")
        assert "Black, but for the moon." in replay.chat
        assert "At sunset the light crosses more air" in replay.chat
        assert "answer 2 in this place" in replay.chat
        assert SHORT not in replay.chat
        assert "answer 3 of 3" in replay.bar
        await replay.press("p", "p")
        assert SECOND.prompt in replay.chat
        assert AGAIN.prompt not in replay.chat
        await replay.press("home")
        assert SECOND.prompt not in replay.chat
        assert FIRST.prompt in replay.chat
        await replay.press("right_square_bracket", "n")
        assert SECOND.prompt in replay.chat
        assert "At sunset the light crosses more air" in replay.chat


async def test_space_plays_to_the_end_and_plus_makes_it_faster(tmp_path: Path) -> None:
    async with replaying(tmp_path) as replay:
        await replay.press(*["plus"] * 9, "minus", "plus")
        assert replay.player.speed == SPEEDS[-1]
        await replay.press("space")
        for _ in range(400):
            if replay.player.ended:
                break
            await replay.pilot.pause(0.01)
        await replay.pilot.pause()
        assert not replay.player.playing
        assert "Black, but for the moon." in replay.chat
        await replay.press(*["minus"] * 9, "space")
        assert replay.player.playing
        assert FIRST.prompt in replay.chat
        await replay.press("space")
        assert not replay.player.playing


async def test_keys_move_by_time_and_a_click_on_the_bar_goes_there(tmp_path: Path) -> None:
    async with replaying(tmp_path) as replay:
        await replay.press("shift+right")
        assert replay.player.seconds == pytest.approx(2.0)
        await replay.press("comma")
        assert replay.player.seconds == 0.0
        bar = replay.app.replay.query_one(SeekBar)
        left, _, cells = bar._parts()
        await replay.pilot.click(SeekBar, offset=(left.cell_length + cells // 2, 0))
        await replay.pilot.pause()
        middle = replay.player.timeline.seconds / 2
        assert replay.player.seconds == pytest.approx(middle, rel=0.05)


async def test_what_was_shown_on_the_way_does_not_matter(tmp_path: Path) -> None:
    async with replaying(tmp_path) as replay:
        await replay.press(*["right_square_bracket"] * 5)
        there = replay.screen_text()
        await replay.press("end", "f6", "p", "home", "n", "f6", "home")
        await replay.press(*["right_square_bracket"] * 5)
        assert replay.screen_text() == there


async def test_a_remark_that_quotes_a_file_is_no_escape_and_no_markup(tmp_path: Path) -> None:
    async with replaying(tmp_path) as replay:
        replay.app.show_note("bad \x1b[31m[b]line")
        await replay.pilot.pause()
        (note,) = replay.app._notifications
        assert (note.message, note.markup) == ("bad ␛[31m[b]line", False)


async def test_help_tree_and_tint_have_their_keys(tmp_path: Path) -> None:
    async with replaying(tmp_path, size=(80, 24)) as replay:
        await replay.press("end", "f4")
        assert replay.app.replay.query_one(TreeView).display
        assert replay.app.replay.has_class("-tree-shown")
        await replay.press("f4", "f1")
        assert isinstance(replay.app.screen, ReplayHelp)
        assert "Glossary" in str(replay.app.screen.query_one(Static).content)
        await replay.press("escape", "f6")
        assert replay.app.replay.query_one(Transcript).tinted
        await replay.press("q")
    assert not replay.app.is_running


async def test_a_node_is_explained_and_time_stands_still_for_it(tmp_path: Path) -> None:
    async with replaying(tmp_path) as replay:
        await replay.press(*["right_square_bracket"] * 4, "space")
        replay.app.replay.query_one(TreeView).focus()
        await replay.press("enter")
        assert not replay.player.playing
        assert replay.app.replay.has_class("-why")
        told = replay.app.replay.query_one(WhyPanel).explanation
        assert told is not None
        await replay.press("down")
        assert replay.app.replay.query_one(WhyPanel).explanation != told
        await replay.press("escape")
        assert not replay.app.replay.has_class("-why")


async def test_a_caption_is_shown_and_explains_its_node(tmp_path: Path) -> None:
    async with replaying(tmp_path, captioned()) as replay:
        bar = replay.app.replay.query_one(CaptionBar)
        assert bar.display
        assert "A prompt." in bar.render().plain
        seen = []
        for _ in range(6):
            await replay.press("right")
            screen = replay.app.replay
            explained = screen.query_one(WhyPanel).explanation if screen.explains else None
            seen.append((bar.shown.text, bar.shown.stands, explained))
        assert replay.step is not None
        assert [each[:2] for each in seen] == [
            ("", False), ("The first.", True), ("The second.", True), ("A node.", True),
            ("", False), ("", False),
        ]  # fmt: skip
        assert [each[2] is None for each in seen] == [True, True, True, False, True, True]
        await replay.press("left", "left")
        why = replay.app.replay.query_one(WhyPanel).explanation
        assert why == seen[3][2]
        await replay.press("escape")
        assert not replay.app.replay.explains


async def test_a_caption_that_is_over_stays_only_while_it_plays_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("app.screens.replay.monotonic", lambda: 0.0)  # it plays, but no time passes
    async with replaying(tmp_path, captioned()) as replay:
        bar = replay.app.replay.query_one(CaptionBar)
        await replay.press("right", "space")
        assert replay.player.playing
        assert (bar.shown.text, bar.shown.stands) == ("A prompt.", False)
        await replay.press("space")
        assert bar.shown.text == ""


async def test_enter_goes_on_from_a_caption_and_space_stops(tmp_path: Path) -> None:
    async with replaying(tmp_path, captioned()) as replay:
        player = replay.player
        await replay.press("enter")
        assert player.playing
        assert player.at >= 1
        await replay.press("home", "space")
        assert not player.playing
        assert player.at == 0
        await replay.press("tab", "right", "right", "space", "enter")
        assert not player.playing, "Enter in the tree explains a node"
        assert replay.app.replay.explains


async def test_a_caption_obeys_nothing_and_fits(tmp_path: Path) -> None:
    evil = Caption("\x1b[31m[bold]red[/] " + "long " * 190, 1.0)
    async with replaying(tmp_path, [FIRST, evil, *make_answer()], size=(60, 20)) as replay:
        shown = replay.screen_text()
        assert "\x1b" not in shown
        assert "[bold]red[/]" in shown
        assert replay.app.replay.query_one(CaptionBar).size.height == 3


async def test_a_recording_without_captions_has_no_room_for_them(tmp_path: Path) -> None:
    async with replaying(tmp_path) as replay:
        assert not replay.app.replay.query_one(CaptionBar).display


async def test_the_heat_map_counts_up_to_the_step_on_show(tmp_path: Path) -> None:
    async with replaying(tmp_path) as replay:
        await replay.press("f4", *["right_square_bracket"] * 4)
        assert replay.app.replay.query_one(AcceptanceView).display
        assert replay.app.replay.query_one(AcceptanceView)._map.steps == 4
        await replay.press("left_square_bracket")
        assert replay.app.replay.query_one(AcceptanceView)._map.steps == 3
        await replay.press("f4")
        assert replay.app.replay.has_class("-tree-hidden")


async def test_keys_are_those_that_a_person_chose(tmp_path: Path) -> None:
    reader = TraceReader(recording(tmp_path))
    loading = TraceLoader(reader)
    wanted = {"replay.play": ("f9",), "chat.pause": ("f8",)}
    app = ReplayApp(ReplayScreen(loading, Player(loading.timeline)), Settings(keys=wanted))
    async with app.run_test(size=(120, 44)) as pilot:
        await pilot.press("space")
        assert not app.replay.player.playing
        await pilot.press("f9")
        assert app.replay.player.playing
        bar = app.replay.query_one(KeyBar)
        assert "f9 pause" in bar.render().plain


async def test_accessible_it_tells_its_place_in_words(tmp_path: Path) -> None:
    reader = TraceReader(recording(tmp_path))
    loading = TraceLoader(reader)
    settings = Settings(accessible=True)
    app = ReplayApp(ReplayScreen(loading, Player(loading.timeline)), settings)
    async with app.run_test(size=(120, 44)) as pilot:
        await pilot.press("end")
        await pilot.pause()
        told = app.replay.query_one(SeekBar).render().plain
        assert told.startswith("paused, 0:0")
        assert told.isascii()


async def test_nothing_recorded_is_obeyed(tmp_path: Path) -> None:
    evil = "\x1b[31m[bold]red[/]\x07"
    entries = [Asked(evil, "one"), *make_answer("x \x1b]0;title\x07 [red]y[/red]")]
    async with replaying(tmp_path, entries) as replay:
        await replay.press("end")
        shown = replay.screen_text()
        assert "\x1b" not in shown
        assert "\x07" not in shown
        assert "[bold]red[/]" in shown


async def test_no_letter_is_under_the_scroll_bar_that_a_jump_brings(tmp_path: Path) -> None:
    async with replaying(tmp_path, size=(80, 24)) as replay:
        await replay.press("end")
        transcript = replay.app.replay.query_one(Transcript)
        assert transcript.show_vertical_scrollbar
        assert transcript._layout.width == transcript.scrollable_content_region.width


@pytest.mark.parametrize("size", [(20, 5), (40, 10), (60, 20)])
async def test_a_small_terminal_has_room_for_it(tmp_path: Path, size: tuple[int, int]) -> None:
    async with replaying(tmp_path, size=size) as replay:
        await replay.press("end", "f4", "left_square_bracket", "f4")
        assert len(replay.screen_text().split("\n")) == size[1]


def test_a_time_reads_as_minutes_and_seconds() -> None:
    assert [clock(seconds) for seconds in (0, 9.96, 61.25, 3600)] == [
        "0:00.0", "0:09.9", "1:01.2", "60:00.0",
    ]  # fmt: skip


# The command


def test_what_is_wrong_with_a_file_is_one_line(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.jsonl"
    damaged.write_text(written([]) + "nonsense\n", encoding="utf-8")
    newer = tmp_path / "newer.jsonl"
    newer.write_text(written([]).replace('"version": 3', '"version": 4'), encoding="utf-8")
    for path, complaint in (
        (tmp_path / "missing", "No such file"),
        (damaged, "damaged at line 2"),
        (newer, "version 4"),
    ):
        done = CliRunner().invoke(cli.app, ["replay", str(path)])
        assert done.exit_code == 1
        assert complaint in done.stderr
        assert done.stderr.count("\n") == 1
    done = CliRunner().invoke(cli.app, ["replay", str(recording(tmp_path))])
    assert done.exit_code == 2
    assert "needs a terminal" in done.stderr


def test_no_model_code_is_loaded_for_it() -> None:
    heavy = {"torch", "transformers", "numpy", "tokenizers", "jinja2", "huggingface_hub", "aiohttp"}
    code = (
        "import sys, app.screens.replay, app.commands.chat, app.config.settings; "
        "import sequoia_core.recording.trace_file; "
        f"print(*({heavy!r} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    assert done.stdout.split() == []


def test_finished_answers_are_whole() -> None:
    line = timeline(chat())
    assert all(
        isinstance(recorded.exchange.answer.finished, Finished) for recorded in line.recorded
    )
