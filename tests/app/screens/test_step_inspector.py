"""Looking into the steps: explanation, acceptance map, and the walk over the whole chat."""

from collections.abc import Iterator, Sequence

import pytest
from rich.cells import cell_len

from app.present.tree_rows import tree_rows
from app.screens.step_screen import legend
from app.state.answer import Answer
from app.state.figures import speed_words
from app.store.database import DamagedError
from app.widgets.bars import StepBar
from app.widgets.tree_strip import TreeStrip
from app.widgets.why_panel import explain_node
from sequoia_core.events import (
    Event,
    FinishReason,
    Step,
)
from tests.app.driving import Driver, driving
from tests.app.insights import MemoryRecord, explained_answer
from tests.fakes import make_answer, replay, with_lookups
from tests.replay_engine import ReplayEngine


def recorded(*answers: Sequence[Event]) -> ReplayEngine:
    """An engine that gives these answers in turn."""
    return replay(*(answers or (explained_answer(),)))


def short(text: str) -> tuple[Event, ...]:
    return explained_answer(make_answer(text))


def lines_of(chat: Driver) -> list[str]:
    return chat.screen_text().split("\n")


async def test_enter_on_a_node_explains_it_and_escape_closes() -> None:
    async with driving(recorded(), size=(160, 50)) as chat:
        await chat.ask()
        chat.tree.focus()
        await chat.pilot.pause()
        assert chat.tree.node == (chat.tree.step.path[-1] if chat.tree.step else None)
        await chat.pilot.press("enter")
        panel = chat.app.chat.why_panel
        assert panel.explanation is not None
        assert panel.explanation.headline == "accepted"
        screen = chat.screen_text()
        assert "their ratio" in screen
        assert "random number" in screen
        await chat.pilot.press("down")
        assert panel.explanation.headline == "the target's own token"
        await chat.pilot.press(*["up"] * 20)
        assert panel.explanation.place == "the root of this step's tree"
        await chat.pilot.press("escape")
        assert not chat.app.chat.explains
        assert chat.prompt.has_focus


async def test_the_panel_follows_the_walk_through_the_steps() -> None:
    async with driving(recorded(), size=(160, 50)) as chat:
        await chat.ask()
        chat.tree.focus()
        await chat.pilot.press("enter", "left_square_bracket", "left_square_bracket")
        panel = chat.app.chat.why_panel
        assert str(panel.border_title) == f"Why · step {chat.steps - 1} of {chat.steps}"
        assert chat.tree.step is not None
        assert panel.explanation == explain_node(chat.tree.step, chat.tree.node)


async def test_escape_closes_the_panel_before_it_stops_the_answer() -> None:
    async with driving(recorded(), size=(160, 50)) as chat:
        await chat.pause_at(5)
        chat.tree.focus()
        await chat.pilot.press("enter", "escape")
        assert not chat.app.chat.explains
        assert chat.session.busy
        await chat.pilot.press("escape")
        await chat.finish()
        answer = chat.session.answer
        assert answer is not None
        assert answer.finished is not None
        assert answer.finished.reason is FinishReason.CANCELLED


async def test_the_tree_takes_the_pointer_and_a_second_click_asks() -> None:
    async with driving(recorded(), size=(160, 50)) as chat:
        await chat.ask()
        await chat.pilot.click(chat.tree, offset=(20, 4))
        node = chat.tree.node
        step = chat.tree.step
        assert step is not None
        assert node == tree_rows(step)[2].node
        assert not chat.app.chat.explains
        await chat.pilot.click(chat.tree, offset=(20, 4))
        assert chat.app.chat.explains


async def test_tab_leads_to_the_tree_and_the_mark_shows_where() -> None:
    async with driving(recorded(), size=(160, 50)) as chat:
        await chat.ask()
        assert "▸" not in chat.screen_text()
        await chat.pilot.press("tab")
        assert chat.tree.has_focus
        await chat.pilot.press("pageup")
        assert any("▸● " in line for line in lines_of(chat))


async def test_f4_goes_round_tree_map_and_neither() -> None:
    async with driving(recorded(), size=(160, 50)) as chat:
        await chat.ask()
        seen = []
        for _ in range(4):
            screen = chat.screen_text()
            seen.append(("draft target" in screen, "expected" in screen))
            await chat.pilot.press("f4")
        assert seen == [(True, False), (False, True), (False, False), (True, False)]


async def test_f4_goes_round_in_the_chats_place_where_it_is_narrow() -> None:
    async with driving(recorded(), size=(80, 24)) as chat:
        await chat.ask()
        seen = []
        for _ in range(5):
            screen, strip = chat.screen_text(), chat.app.chat.query_one(TreeStrip).display
            shown = "Chat" in screen, strip, chat.tree.region.area > 0, "expected" in screen
            seen.append(shown)
            await chat.pilot.press("f4")
        assert seen == [
            (True, True, False, False), (False, False, True, False), (False, False, False, True),
            (True, False, False, False), (True, True, False, False),
        ]  # fmt: skip


async def test_the_map_grows_with_the_answer_and_follows_the_walk() -> None:
    async with driving(recorded(), size=(160, 50)) as chat:
        await chat.pilot.press("f4")
        await chat.pause_at(6)
        assert "accepted in steps 1 to 6, smollm2-135m/16x4" in chat.screen_text()
        await chat.pilot.press("left_square_bracket", "left_square_bracket")
        assert "accepted in steps 1 to 4, smollm2-135m/16x4" in chat.screen_text()


@pytest.mark.parametrize("size", [(160, 50), (80, 24), (60, 20), (40, 12), (20, 5)])
async def test_no_size_is_too_small(size: tuple[int, int]) -> None:
    async with driving(recorded(), size=size) as chat:
        await chat.ask()
        await chat.pilot.press("f4")
        chat.tree.focus()
        await chat.pilot.press("enter", "down", "up", "f4", "f6")
        assert all(cell_len(line) <= size[0] for line in lines_of(chat))


async def test_what_a_model_writes_is_never_obeyed_in_the_panel() -> None:
    async with driving(recorded(), size=(160, 50)) as chat:
        await chat.ask()
        chat.tree.focus()
        await chat.pilot.press("enter")
        screen = chat.screen_text()
        assert "\x1b" not in screen
        assert "[b]x[/b]" in screen
        assert "␛[31m" in screen


# The walk over the whole chat


async def two_answers(chat: Driver) -> tuple[Answer, Answer]:
    await chat.ask("the first")
    first = chat.session.answer
    await chat.ask("the second")
    second = chat.session.answer
    assert first is not None
    assert second is not None
    return first, second


FIRST, SECOND = short("One two three four five six seven."), short("Eight nine ten eleven twelve.")


async def test_back_from_the_first_step_leads_into_the_answer_before() -> None:
    async with driving(recorded(FIRST, SECOND), size=(160, 50), recorder=MemoryRecord()) as chat:
        first, second = await two_answers(chat)
        assert not first.steps
        inspector = chat.app.chat.inspector
        await chat.walk("home", "left_square_bracket")
        assert inspector.cursor.answer is first
        of = len(first.steps)
        assert f"Step {of} of {of}, answer 1 of 2" in chat.screen_text()
        assert chat.session.answer is second
        entries = chat.app.chat.pages.answers.values()
        assert [each.walked_step for each in entries] == [of, None]
        await chat.walk("right_square_bracket")
        assert inspector.cursor.answer is second
        assert inspector.cursor.at == 0
        assert not first.steps, "old steps are let go"


async def test_home_twice_is_the_first_step_of_the_chat_and_end_returns() -> None:
    async with driving(recorded(FIRST, SECOND), size=(160, 50), recorder=MemoryRecord()) as chat:
        first, second = await two_answers(chat)
        walk = chat.app.chat.inspector
        await chat.walk("home", "home")
        assert (walk.cursor.answer, walk.cursor.at) == (first, 0)
        statistics = walk.cursor.statistics
        assert statistics is not None
        assert statistics.totals.steps == 1
        await chat.walk("home")
        assert "first step of the chat" in chat.hint
        await chat.walk("end")
        assert (walk.cursor.answer, walk.cursor.at) == (second, None)
        assert len(first.statistics) == 1


async def test_every_step_of_the_chat_is_visited_once_each_way() -> None:
    async with driving(recorded(FIRST, SECOND), size=(160, 50), recorder=MemoryRecord()) as chat:
        first, second = await two_answers(chat)
        walk = chat.app.chat.inspector
        counts = [sum(isinstance(e, Step) for e in events) for events in (FIRST, SECOND)]
        wanted = [(first, at) for at in range(counts[0])]
        wanted += [(second, at) for at in range(counts[1])]
        await chat.walk("home", "home")
        seen: list[tuple[Answer | None, int | None]] = []
        for _ in wanted:
            seen.append((walk.cursor.answer, walk.cursor.at))
            await chat.walk("right_square_bracket")
        assert seen == wanted
        assert walk.cursor.at is None
        back: list[tuple[Answer | None, int | None]] = []
        for _ in wanted:
            await chat.walk("left")
            back.append((walk.cursor.answer, walk.cursor.at))
        assert back == wanted[::-1]


async def test_an_answer_under_way_goes_on_while_an_old_one_is_looked_at() -> None:
    async with driving(recorded(FIRST, SECOND), size=(160, 50), recorder=MemoryRecord()) as chat:
        await chat.ask("the first")
        await chat.pilot.press("f2")
        await chat.type("the second", "enter")
        await chat.until(lambda: chat.steps == 1)
        await chat.walk("home", "left_square_bracket")
        old = chat.app.chat.inspector.cursor.answer
        assert old is not None
        assert old is not chat.session.answer
        held = len(old.spans)
        await chat.pilot.press("f2")
        await chat.finish()
        assert len(old.spans) == held
        assert chat.session.answer is not None
        assert chat.session.answer.text == "Eight nine ten eleven twelve."
        assert chat.app.chat.inspector.cursor.answer is old
        await chat.type("the third", "enter")
        await chat.finish()
        assert chat.app.chat.inspector.cursor.answer is chat.session.answer
        assert not old.steps


async def test_one_step_while_an_old_answer_is_looked_at_returns_to_live() -> None:
    async with driving(recorded(FIRST, SECOND), size=(160, 50), recorder=MemoryRecord()) as chat:
        await chat.ask("the first")
        await chat.pilot.press("f2")
        await chat.type("the second", "enter")
        await chat.until(lambda: chat.steps == 1)
        await chat.walk("home", "left_square_bracket")
        await chat.pilot.press("space")
        await chat.until(lambda: chat.steps == 2)
        assert chat.app.chat.inspector.cursor.answer is chat.session.answer
        assert chat.app.chat.inspector.cursor.at is None


async def test_steps_that_nobody_kept_are_said_to_be_gone() -> None:
    async with driving(recorded(FIRST, SECOND), size=(160, 50)) as chat:
        await chat.ask("the first")
        await chat.ask("the second")
        await chat.walk("home", "left_square_bracket")
        assert "answer 1 of 2 are not on record" in chat.hint
        assert chat.app.chat.inspector.cursor.answer is chat.session.answer


async def test_steps_that_cannot_be_read_are_said_to_be_gone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def damaged(self: MemoryRecord, exchange: str) -> Iterator[Step]:
        raise DamagedError(exchange)
        yield

    monkeypatch.setattr(MemoryRecord, "steps", damaged)
    async with driving(recorded(FIRST, SECOND), size=(160, 50), recorder=MemoryRecord()) as chat:
        await two_answers(chat)
        await chat.walk("home", "left_square_bracket")
        assert "answer 1 of 2 are not on record" in chat.hint


async def test_a_tint_comes_with_its_legend() -> None:
    async with driving(recorded(), size=(120, 44)) as chat:
        await chat.ask()
        await chat.pilot.press("f6")
        assert legend(80, looked_up=False).plain in chat.screen_text()
        await chat.pilot.press("f6")
        assert legend(80, looked_up=False).plain not in chat.screen_text()


@pytest.mark.parametrize("size", [(160, 50), (100, 30), (60, 20)])
async def test_what_was_looked_up_has_a_tint_and_a_word_of_its_own(size: tuple[int, int]) -> None:
    async with driving(replay(with_lookups(make_answer())), size=size) as chat:
        await chat.pilot.press("f6")
        await chat.ask()
        answer = chat.session.answer
        assert answer is not None
        words = [answer.spans[at].text.strip() for at in answer.lookups]
        transcript = chat.app.chat.transcript
        style = transcript.look.styles["looked-up"]
        drawn = [
            segment.text.strip()
            for block in chat.entry.blocks()
            for line in block.lines(size[0] - 4, transcript.look)
            for segment in line
            if segment.style is not None and segment.style == transcript.look.styles["text"] + style
        ]
        assert drawn == [word for word in words if word]
        assert "guess, looked up" in chat.screen_text()


@pytest.mark.parametrize("size", [(160, 50), (100, 30), (80, 24), (60, 20)])
async def test_the_step_bar_keeps_the_speed_of_the_step(size: tuple[int, int]) -> None:
    async with driving(size=size) as chat:
        await chat.ask()
        await chat.pilot.press("home")
        bar = next(each for each in chat.app.chat.query(StepBar) if each.region)
        outcome, *_ = bar.render().plain.splitlines()
        step = chat.app.chat.inspector.cursor.step
        assert step is not None
        assert outcome.rstrip().endswith(speed_words(step.speedup, short=True))
        assert f"{step.accepted} accepted + 1 target's own = {len(step.token_ids)}" in outcome
