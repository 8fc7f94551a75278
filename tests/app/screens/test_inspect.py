"""Looking into the steps: why a node came out so, the heat map, the walk over the whole chat."""

from collections.abc import Iterator, Sequence
from math import prod

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from rich.cells import cell_len

from app.present.acceptance_map import AcceptanceMap, expected_rate
from app.present.node_explanation import explain_node
from app.present.tree_rows import BONUS_NODE, NodeVerdict, ordinal, tree_rows
from app.screens.step_views import LEGEND
from app.state.answer import Answer, Chosen
from app.store.errors import DamagedError
from sequoia_core.events import (
    Event,
    FinishReason,
    Origin,
    Outcome,
    Step,
    TreeChosen,
)
from sequoia_core.recording.replay_engine import ReplayEngine
from tests.app.driving import Driver, driving
from tests.app.insights import MemoryRecord, told
from tests.fakes import PARENTS_16, TREE_16, make_answer, make_step, replay

STEPS = [event for event in told() if isinstance(event, Step)]
PLAIN = [event for event in make_answer() if isinstance(event, Step)]
EVERY = st.sampled_from(STEPS)


# Words and figures


@given(step=EVERY, data=st.data())
def test_every_row_of_a_tree_can_be_explained(step: Step, data: st.DataObject) -> None:
    row = data.draw(st.sampled_from(tree_rows(step)))
    told = explain_node(step, row.node)
    assert told.verdict is row.verdict
    assert told.token == row.token
    assert told.headline
    assert told.place
    assert told.quantities or told.reason
    assert told.columns
    if row.verdict is NodeVerdict.ROOT:
        assert "given" in told.reason


@given(step=EVERY, data=st.data())
def test_the_figures_decide_as_the_walk_did(step: Step, data: st.DataObject) -> None:
    tried = [at for at, node in enumerate(step.nodes) if node.draw is not None]
    if not tried:
        return
    at = data.draw(st.sampled_from(tried))
    figures = {each.symbol: float(each.value) for each in explain_node(step, at).quantities}
    node = step.nodes[at]
    assert set(figures) == {"p", "q", "p / q", "r"}
    assert figures["p / q"] == pytest.approx(figures["p"] / figures["q"], rel=2e-3, abs=1e-3)
    assert (figures["r"] < figures["p / q"]) == (node.outcome is Outcome.ACCEPTED)
    assert node.outcome.value in next(
        each.remark for each in explain_node(step, at).quantities if each.symbol == "r"
    )


def test_a_rejected_node_shows_what_it_left_and_its_successor_what_it_met() -> None:
    step = next(s for s in STEPS if any(s.nodes[i].rank == 2 for i in s.path))
    accepted = next(i for i in step.path if step.nodes[i].rank == 2)
    before = next(
        i
        for i, node in enumerate(step.nodes)
        if node.parent == step.nodes[accepted].parent and node.rank == 1
    )
    assert step.insight is not None
    trial = step.insight.trial(before)
    assert trial is not None
    left = explain_node(step, before).columns[-1]
    met = explain_node(step, accepted).columns[-1]
    assert (left.title, met.title) == ("left of target", "held against")
    assert left.ranking == met.ranking == trial.residual


def test_the_bonus_says_what_it_was_drawn_from() -> None:
    leaf = next(s for s in STEPS if not any(n.parent == s.path[-1] for n in s.nodes))
    assert "own distribution" in explain_node(leaf, BONUS_NODE).reason
    cut = next(s for s in STEPS if any(n.parent == s.path[-1] for n in s.nodes))
    told = explain_node(cut, BONUS_NODE)
    assert "rejected: drawn from what that left" in told.reason
    assert told.columns[-1].title == "drawn from this"


def test_a_node_that_was_not_reached_says_whose_doing_that_is() -> None:
    step = make_step(1, "so", [(" of", 1), (" it", 0)])
    beside = next(i for i, n in enumerate(step.nodes) if n.parent == 0 and n.rank == 2)
    assert explain_node(step, beside).reason == '"·of" before it was accepted.'
    below = next(i for i, n in enumerate(step.nodes) if n.parent == beside)
    assert explain_node(step, below).reason.endswith("was not reached.")


def test_greedy_decoding_names_the_token_it_wanted() -> None:
    step = STEPS[1]
    greedy = replace(
        step,
        nodes=tuple(
            replace(
                n,
                draw=None,
                accept_prob=None if n.draw is None else float(n.outcome is Outcome.ACCEPTED),
            )
            for n in step.nodes
        ),
        insight=replace(step.insight, trials=()) if step.insight else None,
    )
    rejected = next(i for i, n in enumerate(step.nodes) if n.outcome is Outcome.REJECTED)
    assert greedy.insight is not None
    opinion = greedy.insight.opinion(step.nodes[rejected].parent)
    assert opinion is not None
    told = explain_node(greedy, rejected)
    assert told.reason.startswith("Greedy decoding takes the target's most")
    assert len(told.columns) == 2
    told = explain_node(greedy, step.path[1])
    assert told.reason.startswith("It is the target's most probable token")


def test_an_older_step_says_that_it_knows_no_more() -> None:
    for row in tree_rows(PLAIN[1]):
        told = explain_node(PLAIN[1], row.node)
        assert "not recorded" in told.heading
        assert told.columns == ()


def test_a_large_tree_says_what_was_left_out() -> None:
    step = STEPS[0]
    assert step.insight is not None
    cut = replace(step, insight=replace(step.insight, opinions=step.insight.opinions[:1]))
    deep = next(i for i, node in enumerate(step.nodes) if node.depth == 2)
    assert "kept only for the path" in explain_node(cut, deep).heading


# The heat map


def filled(steps: Sequence[Step], tree: TreeChosen = TREE_16) -> Answer:
    answer = Answer("?")
    answer.add(tree)
    for step in steps:
        answer.add(step)
    return answer


def position_of(step: Step, at: int) -> tuple[int, ...]:
    node = step.nodes[at]
    return () if node.parent < 0 else (*position_of(step, node.parent), node.rank)


@given(count=st.integers(1, len(STEPS)))
def test_the_map_counts_each_place(count: int) -> None:
    heat = AcceptanceMap()
    heat.follow(filled(STEPS[:count]), None, Chosen(TREE_16))
    rows = heat.rows()
    assert heat.steps == count
    assert [row.position for row in rows] == sorted(row.position for row in rows)
    assert len(rows) == len(PARENTS_16) - 1
    for row in rows:
        there = [
            step.nodes[at].outcome
            for step in STEPS[:count]
            for at in range(len(step.nodes))
            if position_of(step, at) == row.position
        ]
        accepted = sum(outcome is Outcome.ACCEPTED for outcome in there)
        assert row.rate.value == pytest.approx(accepted / len(there))
        above = next((r.rate.value for r in rows if r.position == row.position[:-1]), 1.0)
        assert row.rate.value is not None
        assert above is not None
        assert row.rate.value <= above
        assert row.expected == pytest.approx(
            prod(TREE_16.expected_by_rank[rank - 1] for rank in row.position)
        )


@given(places=st.lists(st.integers(0, len(STEPS) - 1), min_size=1, max_size=12))
def test_walking_to_and_fro_counts_as_from_scratch(places: list[int]) -> None:
    answer, heat = filled(STEPS), AcceptanceMap()
    for at in places:
        heat.follow(answer, at, Chosen(TREE_16))
        fresh = AcceptanceMap()
        fresh.follow(answer, at, Chosen(TREE_16))
        assert heat.rows() == fresh.rows()
        assert not heat.follow(answer, at, Chosen(TREE_16))


def test_another_tree_begins_another_map() -> None:
    answer, heat = filled(STEPS[:20]), AcceptanceMap()
    heat.follow(answer, None, Chosen(TREE_16))
    later = Chosen(replace(TREE_16, growmap="another"), since=11)
    assert heat.follow(answer, None, later)
    assert (heat.first, heat.last, heat.steps) == (11, 20, 10)
    assert max(row.rate.trials for row in heat.rows()) == 10


def test_what_was_looked_up_is_no_place_and_unknown_ranks_expect_nothing() -> None:
    step = STEPS[0]
    nodes = (*step.nodes[:-1], replace(step.nodes[-1], origin=Origin.LOOKUP))
    heat = AcceptanceMap()
    heat.follow(filled([replace(step, nodes=nodes)]), None, None)
    assert len(heat.rows()) == len(nodes) - 2
    assert {row.expected for row in heat.rows()} == {None}
    assert expected_rate((1, 4), (0.5, 0.2)) is None


# The screen


def recorded(*answers: Sequence[Event]) -> ReplayEngine:
    """An engine that gives these answers in turn."""
    return replay(*(answers or (told(),)))


def short(text: str) -> tuple[Event, ...]:
    return told(make_answer(text))


def lines_of(chat: Driver) -> list[str]:
    return chat.screen_text().split("\n")


async def test_enter_on_a_node_explains_it_and_escape_closes() -> None:
    async with driving(recorded(), size=(160, 50)) as chat:
        await chat.ask()
        chat.tree.focus()
        await chat.pilot.pause()
        assert chat.tree.node == (chat.tree.step.path[-1] if chat.tree.step else None)
        await chat.pilot.press("enter")
        panel = chat.app.chat.views.why_panel
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
        assert not chat.app.chat.views.explains
        assert chat.prompt.has_focus


async def test_the_panel_follows_the_walk_through_the_steps() -> None:
    async with driving(recorded(), size=(160, 50)) as chat:
        await chat.ask()
        chat.tree.focus()
        await chat.pilot.press("enter", "left_square_bracket", "left_square_bracket")
        panel = chat.app.chat.views.why_panel
        assert str(panel.border_title) == f"Why · step {chat.steps - 2} of {chat.steps}"
        assert chat.tree.step is not None
        assert panel.explanation == explain_node(chat.tree.step, chat.tree.node)


async def test_escape_closes_the_panel_before_it_stops_the_answer() -> None:
    async with driving(recorded(), size=(160, 50)) as chat:
        await chat.pause_at(5)
        chat.tree.focus()
        await chat.pilot.press("enter", "escape")
        assert not chat.app.chat.views.explains
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
        assert not chat.app.chat.views.explains
        await chat.pilot.click(chat.tree, offset=(20, 4))
        assert chat.app.chat.views.explains


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
        for _ in range(4):
            screen = chat.screen_text()
            seen.append(("draft target" in screen, "expected" in screen, "Chat" in screen))
            await chat.pilot.press("f4")
        assert seen == [
            (False, False, True), (True, False, False), (False, True, False), (False, False, True)
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
        entries = [e for e in (chat.app.chat.inspector._entry,) if e is not None]
        assert [e.walked_step for e in entries] == [of]
        assert chat.entry.walked_step is None
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
        for _ in wanted[1:]:
            await chat.walk("left")
            back.append((walk.cursor.answer, walk.cursor.at))
        assert back == wanted[-2::-1]


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


def test_ordinals_are_said_as_people_say_them() -> None:
    said = {
        1: "1st",
        2: "2nd",
        3: "3rd",
        4: "4th",
        11: "11th",
        12: "12th",
        21: "21st",
        113: "113th",
    }
    assert {rank: ordinal(rank) for rank in said} == said


async def test_a_tint_comes_with_its_legend() -> None:
    async with driving(recorded(), size=(120, 44)) as chat:
        await chat.ask()
        await chat.pilot.press("f6")
        assert LEGEND.plain in chat.screen_text()
        await chat.pilot.press("f6")
        assert LEGEND.plain not in chat.screen_text()
