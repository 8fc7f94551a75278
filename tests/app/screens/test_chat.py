"""The chat screen under real keys: every key, every refusal, every way text could do harm."""

import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace
from textual.events import Key, Paste
from textual.geometry import Offset, Region, Size
from textual.selection import SELECT_ALL, Selection
from typing_extensions import override

from app.app import SequoiaApp, Settings
from app.engine.messages import SystemRefused
from app.state.summary import best_step
from app.widgets.transcript import Transcript
from sequoia_core.chat.interface import ChatEngine
from sequoia_core.config import Lookup, Mode
from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.events import (
    DeviceMemory,
    Event,
    MemoryUse,
    Notice,
    NoticeKind,
    PrefillDone,
    PrefillProgress,
    Progress,
    Step,
    StopCheck,
)
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.files import growmap_names
from tests.app.driving import Driver, driving
from tests.fakes import PAIR, TREE_16, BrokenEngine, make_answer, replay, unmeasured, with_baseline
from tests.replay_engine import ReplayEngine, Trace

LAST = sum(isinstance(event, Step) for event in make_answer())


async def test_an_answer_is_shown_with_its_tree_and_figures() -> None:
    async with driving() as chat:
        await chat.ask("Why [bold]?")
        assert "Why [bold]?" in chat.transcript
        assert "Rayleigh scattering" in chat.transcript
        assert "**Rayleigh" not in chat.transcript
        shown = chat.screen_text()
        assert f", the best of {LAST}" in shown
        assert "tokens per pass" in shown
        assert "x faster than plain" in shown
        assert "➜" in shown
        assert chat.prompt.text == ""


async def test_a_speed_up_is_shown_only_once_measured() -> None:
    async with driving(replay(unmeasured(make_answer()))) as chat:
        await chat.ask()
        assert "tokens/s" in chat.screen_text()
        assert "plain" not in chat.screen_text()


async def test_a_prompt_sent_while_loading_is_answered_when_loaded() -> None:
    loaded = threading.Event()

    def factory(progress: Progress) -> ChatEngine:
        progress("reading weights", 0.25)
        loaded.wait(20)
        return replay()

    app = SequoiaApp(factory, Settings())
    async with app.run_test(size=(120, 44)) as pilot:
        chat = Driver(app, pilot)
        await chat.until(lambda: "reading weights 25%" in chat.hint)
        assert "loading" in chat.screen_text()
        await chat.type("Why?", "enter")
        assert app.chat.session.busy
        await chat.until(lambda: chat.screen_text().count("waiting for the model") == 2)
        assert "esc stop" in chat.screen_text()
        assert chat.entry.name == "Answer"
        loaded.set()
        await chat.finish()
        assert "Rayleigh" in chat.transcript
        assert chat.entry.name == PAIR.target
        assert f"{PAIR.target}\n" in chat.transcript
        assert "Answer\n" not in chat.transcript


async def test_a_cut_step_does_not_claim_more_tokens_than_it_gave() -> None:
    events = [
        replace(e, token_ids=e.token_ids[:1]) if isinstance(e, Step) and e.accepted else e
        for e in make_answer("A few words.")
    ]
    async with driving(replay(events), size=(160, 44)) as chat:
        await chat.ask()
        await chat.pilot.press("home")
        assert "1 target's own, cut to 1 token in" in chat.screen_text()


async def test_the_outcome_of_a_step_is_never_a_part_of_a_sentence() -> None:
    events = [
        replace(e, token_ids=e.token_ids[:1], timings=replace(e.timings, verify_ms=4321.5))
        if isinstance(e, Step) and e.accepted
        else e
        for e in make_answer("A few words.")
    ]
    for width in (100, 104, 112, 160):
        async with driving(replay(events), size=(width, 30)) as chat:
            await chat.ask()
            await chat.pilot.press("home")
            assert re.search(
                r"1( target's own)?, cut to 1 token( in \d+\.\d ms)? +(\d|as fast|│|$)",
                chat.screen_text(),
                re.MULTILINE,
            )


@pytest.mark.parametrize("accessible", [False, True])
async def test_a_plain_step_among_trees_says_what_it_is_for(accessible: bool) -> None:
    engine, chosen = replay(with_baseline(make_answer(), at=2)), Settings(accessible=accessible)
    async with driving(engine, chosen, size=(180, 44)) as chat:
        await chat.ask()
        await chat.pilot.press("home", "right")
        shown = " ".join(chat.screen_text().split())
        assert "plain step, to measure what plain decoding takes: 1 token in 21.0 ms" in shown
        assert "0 accepted" not in shown
        await chat.pilot.press("left")
        assert "plain step" not in chat.screen_text()


async def test_what_is_selected_in_the_chat_is_copied_from_the_prompt() -> None:
    async with driving() as chat:
        await chat.ask()
        chat.app.chat.selections = {chat.app.chat.query_one(Transcript): SELECT_ALL}
        await chat.pilot.press("ctrl+c")
        assert "because of Rayleigh scattering." in chat.app.clipboard


@pytest.mark.parametrize("look", ["sequoia", "sequoia-light", "terminal", "no colour"])
async def test_what_is_selected_in_the_chat_looks_selected(
    monkeypatch: pytest.MonkeyPatch, look: str
) -> None:
    if look == "no colour":
        monkeypatch.setenv("NO_COLOR", "1")
    async with driving(settings=Settings(theme=look)) as chat:
        await chat.ask()
        transcript = chat.app.chat.query_one(Transcript)
        whole = Region(0, 0, transcript.outer_size.width, transcript.outer_size.height)
        strips = transcript.render_lines(whole)
        row = next(at for at, strip in enumerate(strips) if "Rayleigh" in strip.text)
        first = transcript.scroll_offset.y + row - transcript.gutter.top
        chat.app.chat.selections = {transcript: Selection(Offset(0, first), Offset(8, first))}
        await chat.pilot.pause()
        marked = transcript.render_lines(whole)[row]
        assert marked.text == strips[row].text
        looks = [style for text, style, _ in marked for _ in text]
        before = [style for text, style, _ in strips[row] for _ in text]
        left = transcript.gutter.left
        same = [look == old for look, old in zip(looks, before, strict=True)]
        assert same == [not left <= at < left + 8 for at in range(len(same))]
        chosen = {(style.bgcolor, style.reverse) for style in looks[left : left + 8] if style}
        assert len(chosen) == 1
        colors = [(style.color, style.bgcolor) for style in looks if style]
        assert not [ink for ink, ground in colors if ink == ground and ink and not ink.is_default]
        assert chosen.isdisjoint((style.bgcolor, style.reverse) for style in before if style)


async def test_without_colour_only_the_token_of_a_rejected_node_is_struck_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with driving(size=(160, 50)) as chat:
        await chat.ask()
        await chat.pilot.press("left", "left")
        width, height = chat.tree.outer_size
        rows = Region(0, 0, width, height - 1)  # without the legend in the border
        struck = []
        for strip in chat.tree.render_lines(rows):
            parts = [text for text, style, _ in strip if style and style.strike]
            assert bool(parts) == ("✘" in strip.text)
            struck += parts
        assert struck
        assert all(text == text.strip() and text.startswith('"') for text in struck)


@pytest.mark.parametrize("part", ["transcript", "tree"])
async def test_typing_goes_to_the_prompt_wherever_the_focus_is(part: str) -> None:
    async with driving() as chat:
        await chat.ask()
        where = chat.app.chat.transcript if part == "transcript" else chat.tree
        where.focus()
        await chat.pilot.press("left_square_bracket", *"why?")
        assert chat.prompt.text == "why?"
        assert chat.app.focused is chat.prompt
        where.focus()
        await chat.pilot.pause()
        where.post_message(Paste(" And\nhow?"))
        await chat.until(lambda: chat.prompt.text == "why? And\nhow?")
        assert chat.app.focused is chat.prompt


async def test_typing_over_what_is_selected_from_elsewhere() -> None:
    async with driving() as chat:
        chat.prompt.put("hello")
        chat.app.chat.transcript.focus()
        await chat.pilot.press("space", "w")
        assert chat.prompt.text == "hello w"
        chat.prompt.select_all()
        chat.prompt.hint("a hint")
        chat.app.chat.transcript.focus()
        await chat.pilot.press("n")
        assert chat.prompt.text == "n"
        assert not chat.prompt.border_subtitle


async def test_a_burst_of_keys_loses_none_while_nothing_has_the_focus() -> None:
    async with driving() as chat:
        chat.app.chat.set_focus(None)
        for key in "why is it so?":
            chat.app.chat.post_message(Key("space" if key == " " else key, key))
        await chat.until(lambda: len(chat.prompt.text) >= 13)
        assert chat.prompt.text == "why is it so?"
        assert chat.app.focused is chat.prompt


async def test_blank_prompts_are_not_sent() -> None:
    async with driving() as chat:
        for text in ("", "  \n "):
            await chat.type(text, "enter")
            assert "empty" in chat.hint
            assert chat.session.answer is None
            chat.prompt.text = ""
        await chat.pilot.press("x")
        assert chat.hint == ""


async def test_typing_while_decoding_is_kept_and_sending_is_refused() -> None:
    async with driving() as chat:
        await chat.pause_at(2)
        await chat.pilot.press(*"next one", "enter")
        assert chat.prompt.text == "next one"
        assert "to stop the answer first" in chat.hint
        await chat.pilot.press("escape")
        await chat.finish()
        await chat.pilot.press("enter")
        await chat.finish()
        assert "next one" in chat.transcript
        assert chat.prompt.text == ""


async def test_escape_stops_and_the_partial_answer_stays() -> None:
    async with driving() as chat:
        await chat.pause_at(3)
        text = chat.session.answer.text if chat.session.answer else ""
        await chat.pilot.press("escape")
        await chat.finish()
        assert chat.session.answer is not None
        assert chat.session.answer.text == text != ""
        assert "stopped" in chat.transcript
        assert not chat.app.decoder.paused


async def test_why_the_forward_is_not_the_usual_one_is_said_once() -> None:
    pair = replace(PAIR, remark="PyTorch computes, which is slower: no library")
    async with driving(ReplayEngine(Trace(pair, make_answer()))) as chat:
        await chat.until(lambda: pair.remark in chat.transcript)
        await chat.ask()
        assert chat.transcript.count(pair.remark) == 1


async def test_f2_pauses_and_space_is_exactly_one_step() -> None:
    async with driving() as chat:
        await chat.pause_at(1)
        for count in range(2, 6):
            await chat.pilot.press("space")
            await chat.until(lambda count=count: chat.steps == count)  # type: ignore[misc]
            await chat.pilot.pause(0.05)
            assert chat.steps == count
        assert "paused" in chat.screen_text()
        await chat.pilot.press("f2")
        await chat.finish()
        assert chat.steps == LAST


async def test_space_is_a_space_once_there_is_text() -> None:
    async with driving() as chat:
        await chat.pause_at(2)
        await chat.pilot.press("a", "space", "b")
        assert chat.prompt.text == "a b"
        assert chat.steps == 2


async def test_space_steps_with_the_tree_in_focus_and_says_so_when_there_is_nothing() -> None:
    async with driving() as chat:
        await chat.pilot.press("f2", "space")
        assert "nothing to step" in chat.hint
        await chat.pilot.press("f2")
        await chat.pause_at(2)
        chat.tree.focus()
        await chat.pilot.press("space")
        await chat.until(lambda: chat.steps == 3)


@pytest.mark.parametrize("focus_tree", [False, True])
async def test_brackets_home_and_end_walk_through_the_steps(focus_tree: bool) -> None:
    async with driving() as chat:
        await chat.ask()
        if focus_tree:
            chat.tree.focus()
        assert chat.session.answer is not None
        steps = chat.session.answer.steps
        for key, at in (
            ("left", -1), ("left_square_bracket", -2),
            ("right_square_bracket", -1), ("home", 0), ("right_square_bracket", 1),
        ):  # fmt: skip
            await chat.pilot.press(key)
            assert chat.tree.step is steps[at]
            assert chat.entry.walked_step == steps[at].index
            assert f"Step {steps[at].index} of {LAST}" in chat.screen_text()
        assert "**Rayleigh" in chat.transcript
        await chat.pilot.press("end")
        assert chat.tree.step is best_step(steps)
        assert chat.entry.walked_step is None
        assert "**Rayleigh" not in chat.transcript


async def test_enter_sends_while_nothing_has_the_focus() -> None:
    async with driving() as chat:
        chat.app.chat.set_focus(None)
        for key, character in (("h", "h"), ("i", "i"), ("enter", "\r"), ("n", "n")):
            chat.app.chat.post_message(Key(key, character))
        await chat.until(lambda: chat.prompt.text == "n")
        await chat.finish()
        assert chat.session.answer is not None
        assert chat.session.answer.prompt == "hi"


@pytest.mark.parametrize("text", ["[x] done", "]", "[[wiki]]"])
async def test_a_message_may_begin_with_a_bracket(text: str) -> None:
    keys = [{"[": "left_square_bracket", "]": "right_square_bracket", " ": "space"}.get(c, c)
            for c in text]  # fmt: skip
    async with driving() as chat:
        await chat.ask()
        await chat.pilot.press(keys[0])
        assert "this key types; left, home go through the steps" in chat.hint
        await chat.pilot.press(*keys[1:])
        assert chat.prompt.text == text
        assert chat.session.answer is not None
        assert chat.tree.step is best_step(chat.session.answer.steps)
        chat.prompt.text = ""
        await chat.pilot.press("left", "left_square_bracket", "end", *keys)
        assert chat.prompt.text == text
        chat.prompt.text = ""
        chat.prompt.post_message(Paste(text))
        await chat.until(lambda: chat.prompt.text == text)


async def test_a_bracket_pressed_once_too_often_leaves_nothing_in_the_prompt() -> None:
    async with driving() as chat:
        await chat.ask()
        await chat.pilot.press("left", *["right_square_bracket"] * 3)
        assert "the best of" in chat.screen_text()
        assert chat.prompt.text == ""
        await chat.pilot.press("escape", "right_square_bracket")
        assert chat.prompt.text == "]"


async def test_brackets_walk_while_paused() -> None:
    async with driving() as chat:
        await chat.pause_at(3)
        await chat.pilot.press("left_square_bracket")
        assert "Step 2 of 3" in chat.screen_text()
        assert chat.prompt.text == ""


@pytest.mark.parametrize(
    ("presses", "row"),
    [
        (1, "f4 map, chat"), (2, "f4 chat"),
    ],
)  # fmt: skip
async def test_the_way_back_from_the_tree_is_shown_where_it_takes_the_room_of_the_chat(
    presses: int, row: str
) -> None:
    async with driving(size=(60, 20)) as chat:
        assert row not in chat.screen_text()
        await chat.ask()
        await chat.pilot.press(*["f4"] * presses)
        assert row in chat.screen_text()
        await chat.pilot.press("tab")
        assert row in chat.screen_text()
        await chat.pilot.press("escape")
        assert row not in chat.screen_text()
        assert "─ Chat ─" in chat.screen_text()


async def test_reading_the_prompt_is_seen_with_the_tree_on_show() -> None:
    read = threading.Event()
    begun, *rest = make_answer()
    events = [begun, PrefillProgress(256, 2048), *rest]

    def hold(event: Event) -> None:
        if isinstance(event, PrefillDone):
            read.wait(20)

    async with driving(replay(events, before=hold), size=(60, 20)) as chat:
        await chat.pilot.press("f4")
        await chat.type("Why?", "enter")
        await chat.until(lambda: "reading the prompt: 256 of 2048 tokens" in chat.screen_text())
        await chat.pilot.press("f4", "f4")
        assert chat.screen_text().count("reading the prompt: 256 of 2048 tokens") == 2
        read.set()
        await chat.finish()
        assert "reading" not in chat.screen_text()


async def test_the_header_names_the_tree_of_the_step_on_show() -> None:
    async with driving(size=(240, 50)) as chat:
        await chat.ask()
        assert "tree auto, 16 nodes, depth 4 " in chat.screen_text()
        await chat.type("/set growmap chain/4", "enter")
        await chat.until(lambda: "tree chain/4 " in chat.screen_text())
        assert "16 nodes" not in chat.screen_text().splitlines()[0]
        await chat.pilot.press("left")
        assert f"tree {TREE_16.growmap}, 16 nodes" in chat.screen_text()
        await chat.pilot.press("end")
        await chat.ask()
        assert "tree auto" not in chat.screen_text().splitlines()[0]
        assert "16 nodes" in chat.screen_text().splitlines()[0]


async def test_the_walked_step_is_highlighted_in_the_text() -> None:
    async with driving() as chat:
        await chat.ask()
        await chat.pilot.press("home")
        look = chat.app.chat.query_one(Transcript).look
        lines = [line for block in chat.entry.blocks() for line in block.lines(60, look)]
        marked = (look.styles["walked"].bgcolor, look.styles["walked-bonus"].bgcolor)
        text = "".join(
            part.text
            for line in lines
            for part in line
            if part.style and part.style.bgcolor in marked
        )
        assert chat.session.answer is not None
        assert text == "".join(s.text for s in chat.session.answer.spans if s.step == 1)


async def test_walking_while_decoding_does_not_hold_it_up() -> None:
    async with driving() as chat:
        await chat.pause_at(5)
        await chat.pilot.press("left_square_bracket", "f2")
        await chat.finish()
        assert chat.steps == LAST
        assert "Step 4 of" in chat.screen_text()
        await chat.pilot.press("escape")
        assert f", the best of {LAST}" in chat.screen_text()


async def test_brackets_are_typed_once_there_is_text() -> None:
    async with driving() as chat:
        await chat.ask()
        await chat.pilot.press("a", "left_square_bracket", "right_square_bracket")
        assert chat.prompt.text == "a[]"
        await chat.pilot.press("home", "b", "end", "c")
        assert chat.prompt.text == "ba[]c"


async def test_f6_tints_tokens_and_goes_back() -> None:
    async with driving() as chat:
        await chat.ask()
        before = chat.transcript
        await chat.pilot.press("f6")
        assert "**Rayleigh" in chat.transcript
        await chat.pilot.press("f6")
        assert chat.transcript == before


@pytest.mark.parametrize(
    ("size", "shown"),
    [((120, 40), (True, True, False, True)), ((80, 24), (False, True, True, False))],
)
async def test_f4_shows_tree_map_and_neither(
    size: tuple[int, int], shown: tuple[bool, ...]
) -> None:
    async with driving(size=size) as chat:
        panel, transcript = (
            chat.app.chat.query_one("#decoding"),
            chat.app.chat.query_one(Transcript),
        )
        for expected in shown:
            assert panel.display is expected
            assert transcript.display is (size[0] >= 100 or not expected)
            await chat.pilot.press("f4")


async def test_f1_opens_help_and_escape_closes_it_while_decoding_goes_on() -> None:
    async with driving() as chat:
        await chat.pause_at(1)
        await chat.pilot.press("f1")
        assert "Keys" in chat.screen_text()
        assert chat.app.screen is not chat.app.chat
        await chat.pilot.press("escape")
        assert chat.app.screen is chat.app.chat
        assert chat.session.busy


async def test_the_palette_carries_out_commands() -> None:
    async with driving() as chat:
        await chat.pilot.press("ctrl+p")
        await chat.pilot.press(*"theme: midnight")
        await chat.pilot.pause(0.2)
        await chat.pilot.press("enter")
        await chat.until(lambda: chat.app.theme == "midnight")
        commands = list(chat.app.get_system_commands(chat.app.screen))
        titles = {command.title for command in commands}
        assert {f"Mode: {mode.value}" for mode in Mode} < titles


async def test_over_another_screen_the_palette_changes_nothing_of_the_chat() -> None:
    async with driving() as chat:
        everywhere = {"Help", "Screenshot", "Quit", *(f"Theme: {n}" for n in chat.app.own_themes)}
        await chat.pilot.press("f1")
        over = {command.title for command in chat.app.get_system_commands(chat.app.screen)}
        assert over == everywhere
        await chat.pilot.press("escape")
        below = {command.title for command in chat.app.get_system_commands(chat.app.screen)}
        assert {"Clear", "Regenerate", "Sessions", "Race the prompt"} <= below - everywhere


@pytest.mark.parametrize("key", ["ctrl+q", "ctrl+d"])
async def test_quitting_joins_the_thread_in_mid_answer(key: str) -> None:
    async with driving() as chat:
        await chat.pause_at(2)
        await chat.pilot.press(key)
        await chat.pilot.pause()
    assert not chat.app.decoder.alive
    assert chat.app.return_code == 0


async def test_ctrl_d_deletes_while_there_is_text() -> None:
    async with driving() as chat:
        await chat.pilot.press("a", "b", "left", "ctrl+d")
        assert chat.prompt.text == "a"
        assert chat.app.is_running


async def test_new_lines_history_and_fences() -> None:
    async with driving() as chat:
        await chat.pilot.press("a", "ctrl+j", "b", "shift+enter", "c")
        assert chat.prompt.text == "a\nb\nc"
        await chat.pilot.press("enter")
        await chat.finish()
        await chat.type('"""one', "enter")
        assert chat.prompt.text == '"""one\n'
        await chat.type('two"""', "enter")
        await chat.finish()
        assert "  one\n  two" in chat.transcript
        await chat.pilot.press("d", "up")
        assert chat.prompt.text.startswith('"""one')
        await chat.pilot.press("up", "up", "up")
        assert chat.prompt.text == "a\nb\nc"
        await chat.pilot.press("down", "down", "down", "down", "down")
        assert chat.prompt.text == "d"


async def test_what_is_typed_right_behind_enter_is_not_lost() -> None:
    async with driving() as chat:
        chat.prompt.insert("one")
        await chat.pilot.press("enter", "t", "w", "x", "backspace", "o")
        await chat.finish()
        assert chat.prompt.text == "two"


NONSENSE = "a\x1b[31mred\x1b]0;title\x07\x00\x9b2J\u202e\r\nb\rc\t[bold]d[/bold] {e} $f"


async def test_pasted_nonsense_is_shown_and_harmless() -> None:
    async with driving() as chat:
        chat.prompt.post_message(Paste(NONSENSE))
        await chat.until(lambda: bool(chat.prompt.text))
        assert "\x1b" not in chat.prompt.text
        assert "␛[31mred" in chat.prompt.text
        assert chat.prompt.text.count("\n") == 2
        await chat.pilot.press("enter")
        await chat.finish()
        assert "[bold]d[/bold] {e} $f" in chat.transcript


async def test_a_huge_paste_is_taken_whole() -> None:
    async with driving() as chat:
        text = "\n".join("x" * 99 for _ in range(1000))
        chat.prompt.post_message(Paste(text))
        await chat.until(lambda: bool(chat.prompt.text))
        assert chat.prompt.whole == text
        await chat.pilot.press("ctrl+g")
        assert chat.prompt.text == text
        assert chat.prompt.size.height <= 10


async def test_a_paste_that_is_no_message_is_refused_and_the_draft_stays() -> None:
    async with driving() as chat:
        await chat.pilot.press("a")
        chat.prompt.post_message(Paste("x" * 1_000_001))
        await chat.until(lambda: bool(chat.hint))
        assert chat.prompt.text == "a"
        assert "1,000,001 characters" in str(chat.hint)


async def test_model_text_is_never_markup_nor_escapes() -> None:
    text = "[bold]x[/bold] \x1b[2J<script>alert</script> \x1b]8;;http://a\x07link [/] done."
    async with driving(replay(make_answer(text))) as chat:
        await chat.ask()
        for key in ("f6", "f6", "home", "end"):
            assert "[bold]x[/bold] ␛[2J<script>alert</script>" in chat.transcript
            await chat.pilot.press(key)
        shown = chat.screen_text()
        assert "\x1b" not in shown
        assert "\x07" not in shown


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("/set temperature 0.1", "temperature is now 0.1"),
        ("/set seed random", "seed is now random"),
        ("/set mode chain", "mode is now chain"),
        ("/set theme okabe-ito", "theme is now okabe-ito"),
        ("/set system Be brief.", "system is now Be brief."),
    ],
)
async def test_a_setting_says_at_the_prompt_what_it_is_now(line: str, shown: str) -> None:
    async with driving() as chat:
        await chat.type(line, "enter")
        assert chat.hint == shown
        assert shown not in chat.transcript
        assert chat.prompt.text == ""


async def test_only_the_last_list_of_settings_stays_in_the_chat() -> None:
    async with driving(replay(make_answer("One."), make_answer("Two."))) as chat:
        for count in (1, 2):
            await chat.ask()
            await chat.type(f"/set top_k {count}", "enter")
            await chat.type("/show", "enter")
            assert f"top_k           {count}\n" in chat.transcript
        assert chat.transcript.count("context window") == 1
        assert chat.transcript.index("Two.") < chat.transcript.index("context window")
        await chat.pilot.press("ctrl+r")  # on this branch there was none
        await chat.finish()
        assert "context window" not in chat.transcript
        await chat.pilot.press("alt+left")
        assert chat.transcript.count("context window") == 1


@pytest.mark.parametrize(
    ("line", "hint"),
    [
        ("/shwo", "Did you mean /show?"),
        ("/set temperature -1", "temperature is -1"),
        ("/set theme midnite", "did you mean midnight?"),
        ("/set growmap no-such-tree", "no-such-tree"),
        ("/tree", "f4 shows and hides it; /set growmap"),
        ("/pause", "f2 pauses"),
    ],
)
async def test_refused_commands_stay_in_the_prompt(line: str, hint: str) -> None:
    async with driving() as chat:
        await chat.type(line, "enter")
        assert hint in chat.hint
        assert chat.prompt.text == line


async def test_mode_and_growmap_reach_the_engine() -> None:
    engine = replay()
    async with driving(engine) as chat:
        name = growmap_names()[0]
        await chat.type(f"/set growmap {name}", "enter")
        await chat.type("/set mode greedy", "enter")
        await chat.until(lambda: engine.tree_choice.mode is Mode.GREEDY)
        assert engine.tree_choice.growmap is not None
        await chat.type("/set growmap auto", "enter")
        await chat.until(lambda: engine.tree_choice.growmap is None)
        await chat.type("/set growmap adaptive", "enter")
        await chat.type("/set lookup on", "enter")
        expected = TreeChoice(Mode.GREEDY, adaptive=True, lookup=Lookup.ON)
        await chat.until(lambda: engine.tree_choice == expected)


async def test_clear_forgets_and_is_refused_while_answering() -> None:
    async with driving() as chat:
        await chat.pause_at(2)
        for line in ("/clear", "/set system x"):
            await chat.type(line, "enter")
            assert "to stop the answer first" in chat.hint
            chat.prompt.text = ""
        await chat.pilot.press("escape")
        await chat.finish()
        await chat.type("/clear", "enter")
        assert "Rayleigh" not in chat.transcript
        assert "Try one of these" in chat.transcript
        assert chat.tree.step is None


@pytest.mark.parametrize("size", [(80, 11), (60, 8), (20, 5)])
async def test_a_hint_is_seen_where_the_prompt_has_no_frame(size: tuple[int, int]) -> None:
    async with driving(size=size) as chat:
        await chat.type("/foo", "enter")
        await chat.until(lambda: "no command" in chat.screen_text())
        assert "/foo" in chat.screen_text().splitlines()[size[1] - 2]
        await chat.pilot.press("backspace")
        await chat.until(lambda: "no command" not in chat.screen_text())
        assert "/fo" in chat.screen_text().splitlines()[size[1] - 1]


@pytest.mark.parametrize("size", [(80, 11), (20, 5)])
@pytest.mark.parametrize("look", ["no colour", "accessible"])
async def test_no_look_hides_what_is_typed_where_there_is_no_room_for_a_frame(
    size: tuple[int, int], look: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if look == "no colour":
        monkeypatch.setenv("NO_COLOR", "1")
    settings = Settings(accessible=look == "accessible")
    async with driving(settings=settings, size=size) as chat:
        await chat.type("/foo")
        await chat.until(lambda: "/foo" in chat.screen_text().splitlines()[size[1] - 1])
        await chat.pilot.press("enter")
        await chat.until(lambda: "no command" in chat.screen_text().splitlines()[size[1] - 1])
        assert "/foo" in chat.screen_text().splitlines()[size[1] - 2]
        assert look != "accessible" or not set("─-") & set(chat.screen_text().splitlines()[-1])
        chat.app.chat.transcript.focus()
        await chat.pilot.pause()
        assert "/foo" in chat.screen_text()


async def test_a_refused_system_prompt_is_not_said_to_be_in_use() -> None:
    class Narrow(ReplayEngine):
        def set_system_prompt(self, system_prompt: str | None) -> None:
            raise ParameterError(f"no room for {system_prompt!r}")

    engine = Narrow(Trace(PAIR, make_answer()))
    async with driving(engine, Settings(system="be kind")) as chat:
        await chat.type("/set system you are a pirate", "enter")
        await chat.until(lambda: "no room" in chat.screen_text())
        assert "the system prompt is not used" in chat.screen_text()
        assert chat.session.settings.system == "be kind"


async def test_a_late_refusal_changes_no_newer_system_prompt() -> None:
    async with driving(settings=Settings(system="fine")) as chat:
        take = chat.app.chat.reports.take
        take(SystemRefused("too long", refused="x", system_prompt="be kind"))
        assert chat.session.settings.system == "fine"
        take(SystemRefused("too long", refused="fine", system_prompt="be kind"))
        assert chat.session.settings.system == "be kind"


async def test_bye_quits() -> None:
    async with driving() as chat:
        await chat.type("/bye", "enter")
        await chat.pilot.pause()
    assert not chat.app.decoder.alive


async def test_an_error_is_a_line_and_the_chat_goes_on() -> None:
    async with driving(BrokenEngine(RuntimeError("boom [bold]"))) as chat:
        for _ in range(2):
            await chat.ask()
        assert chat.transcript.count("unexpected RuntimeError: boom [bold]") == 2


async def test_notices_are_shown() -> None:
    notice = Notice(NoticeKind.PRECISION, "near-ties may fall differently")
    async with driving(replay((notice, *make_answer()))) as chat:
        await chat.ask()
        assert "near-ties may fall differently" in chat.transcript


async def test_show_has_the_memory_as_it_is_after_an_answer() -> None:
    class Idle(ReplayEngine):
        tokens = 0

        @override
        def tune(self, should_stop: StopCheck) -> Iterator[Event]:
            self.tokens += 1
            yield MemoryUse((DeviceMemory("cpu", 7, self.tokens, 9, 0, 20, 30),))

    async with driving(Idle(Trace(PAIR, tuple(make_answer())))) as chat:
        await chat.ask()
        after = MemoryUse((DeviceMemory("cpu", 7, 2, 9, 0, 20, 30),))
        await chat.until(lambda: chat.session.memory == after)
        await chat.type("/show", "enter")
        assert "memory cpu: weights 7 B, KV cache 9 B" in " ".join(chat.transcript.split())


async def test_two_answers_and_only_the_trees_of_the_last() -> None:
    async with driving(replay(make_answer(), make_answer("Short."))) as chat:
        await chat.ask()
        first = chat.session.answer
        await chat.ask("more")
        assert "Rayleigh" in chat.transcript
        assert "Short." in chat.transcript
        assert first is not None
        assert first.steps == []


async def test_scrolling_up_lets_go_of_the_end_and_scrolling_down_takes_hold_again() -> None:
    async with driving(size=(60, 20)) as chat:
        await chat.pause_at(30)
        transcript = chat.app.chat.query_one(Transcript)
        assert transcript.scroll_offset.y == transcript.max_scroll_y > 0
        await chat.pilot.press("pageup")
        top = transcript.scroll_offset.y
        await chat.pilot.press("space")
        await chat.until(lambda: chat.steps == 31)
        assert transcript.scroll_offset.y == top < transcript.max_scroll_y
        await chat.pilot.press("pagedown", "pagedown", "f2")
        await chat.finish()
        assert transcript.scroll_offset.y == transcript.max_scroll_y


async def test_resizing_survives_every_size() -> None:
    held, release = threading.Event(), threading.Event()

    def before(event: Event) -> None:
        if isinstance(event, Step) and event.index == 20:
            held.set()
            release.wait(20)

    async with driving(replay(before=before), size=(160, 50)) as chat:
        await chat.type("Why?", "enter")
        for size in [(20, 5), (1, 1), (300, 90), (60, 20), (2, 40), (200, 3), (80, 24), (160, 50)]:
            for key in ("f4", "f4", "f4", "f6", "f6"):
                await chat.pilot.resize_terminal(*size)
                await chat.pilot.press(key)
        release.set()
        await chat.finish()
        assert chat.app.size == Size(160, 50)
        chat.app.chat.action_why()  # whatever F4 left on show
        await chat.until(lambda: "the best of 54" in chat.screen_text())


async def test_large_trees_are_scrolled_to_the_bonus_when_still() -> None:
    parents = tuple(-1 if i == 0 else (i - 1) // 3 for i in range(768))
    async with driving(
        replay(make_answer("A few words, and then a few more of them.", parents=parents))
    ) as chat:
        await chat.ask()
        assert chat.tree.max_scroll_y == 0  # folded
        await chat.pilot.press("tab", "asterisk")
        assert chat.tree.virtual_size.height == 770
        tops = set()
        for _ in range(chat.steps):
            await chat.pilot.press("left")
            assert "➜" in chat.screen_text()
            tops.add(chat.tree.scroll_offset.y)
        assert max(tops) > 0


def test_a_failed_load_is_one_line_and_return_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    def factory(progress: Progress) -> ChatEngine:
        raise ModelLoadError("no such model: a/b; " + "try another " * 30)

    app = SequoiaApp(factory, Settings())
    app.run(headless=True)
    assert app.return_code == 1
    errors = capsys.readouterr().err.strip().splitlines()
    assert [line.startswith("sequoia: no such model: a/b") for line in errors] == [True]


async def test_a_broken_theme_file_is_reported_and_skipped(config_home: Path) -> None:
    folder = config_home / "themes"
    folder.mkdir()
    (folder / "mine.toml").write_text("name = ")
    (folder / "good.toml").write_text('name = "good"\n[colors]\nprimary = "#123456"\n')
    async with driving(settings=Settings(theme="good")) as chat:
        assert "mine.toml" in chat.transcript.replace("\n", "")
        assert chat.app.theme == "good"
        await chat.ask()
        assert "➜" in chat.screen_text()


async def test_an_unknown_theme_is_said_and_the_default_used() -> None:
    async with driving(settings=Settings(theme="nope")) as chat:
        assert "no theme 'nope'" in chat.transcript
        assert chat.app.theme == "sequoia"


async def test_no_color_keeps_the_verdict_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    async with driving() as chat:
        await chat.ask()
        shown = chat.screen_text()
        assert all(glyph in shown for glyph in "✔✘·➜┃")


def test_the_app_starts_without_torch_and_transformers() -> None:
    code = (
        "import sys, app.app, tests.replay_engine;"
        "sys.exit(' '.join({'torch', 'transformers'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
