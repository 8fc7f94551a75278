"""Branches on the screen: the engine follows, and every key does what it says."""

from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from app.config.settings import Settings
from app.state.answer import Answer
from app.state.history import Exchange, History
from app.store.recorder import Recorder
from sequoia_core.config import Mode, SamplingParams
from sequoia_core.errors import ContextFullError
from sequoia_core.events import Event, Step, TextDelta
from sequoia_core.text.chat_template import Turn
from tests.app.driving import Driver, driving
from tests.fakes import PAIR, BrokenEngine, make_answer
from tests.replay_engine import ReplayEngine, Trace


class Remembering(ReplayEngine):
    """Answers from a recording, and remembers as a conversation does what it is to follow.

    Attributes:
        turns: what the next prompt follows.
        asked: the prompts before each prompt, and the prompt.
        params, modes: what each was asked with.
        refusing: so many times more it goes to no other branch.
    """

    def __init__(self, *texts: str) -> None:
        recorded = [event for text in texts for event in make_answer(text)]
        super().__init__(Trace(PAIR, tuple(recorded)))
        self.turns: tuple[Turn, ...] = ()
        self.asked: list[tuple[str, ...]] = []
        self.params: list[SamplingParams] = []
        self.modes: list[Mode] = []
        self.refusing = 0

    def restore(self, turns: Sequence[Turn]) -> None:
        if self.refusing:
            self.refusing -= 1
            raise ContextFullError("no room")
        self.turns = tuple(turns)

    def clear(self) -> None:
        self.turns = ()

    def reply(
        self, prompt: str, params: SamplingParams, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        self.params.append(params)
        self.modes.append(self.tree_choice.mode)
        self.asked.append((*(turn.prompt for turn in self.turns), prompt))
        text, ids = "", tuple[int, ...]()
        for event in super().reply(prompt, params, should_stop):
            if isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, Step):
                ids += event.token_ids
            yield event
        if text:
            self.turns = (*self.turns, Turn(prompt, text, ids))


TEXTS = ("Alpha.", "Beta.", "Gamma.", "Delta.", "Epsilon.")


@dataclass
class Scene:
    """A chat of three exchanges, and the engine that it is held with."""

    engine: Remembering
    chat: Driver

    async def press(self, *keys: str) -> None:
        await self.chat.pilot.press(*keys)
        await self.chat.finish()

    def asked(self) -> tuple[str, ...]:
        """What was asked last, and what before it on that branch."""
        return self.engine.asked[-1]

    @property
    def shown(self) -> list[str]:
        """Which answers are on show, and the prompts before them."""
        words = (*(text.rstrip(".") for text in TEXTS), "first", "second", "third", "other")
        lines = self.chat.transcript.splitlines()
        return [word for line in lines for word in words if line.strip(" .") == word]

    @property
    def titles(self) -> list[str]:
        """What stands over the messages."""
        return [line for line in self.chat.transcript.splitlines() if line.startswith("You")]


@asynccontextmanager
async def holding(
    prompts: Sequence[str] = ("first", "second", "third"), recorder: Recorder | None = None
) -> AsyncIterator[Scene]:
    engine = Remembering(*TEXTS)
    async with driving(engine, recorder=recorder) as chat:
        for prompt in prompts:
            await chat.ask(prompt)
        yield Scene(engine, chat)


async def test_ctrl_r_asks_again_and_keeps_the_answer_there_is() -> None:
    async with holding() as scene:
        await scene.press("x", "ctrl+r")
        assert scene.asked() == ("first", "second", "third")
        assert scene.shown == ["first", "Alpha", "second", "Beta", "third", "Delta"]
        assert scene.titles == ["You", "You", "You  2 of 2"]
        assert scene.chat.prompt.text == "x"
        await scene.press("alt+left")
        assert scene.shown == ["first", "Alpha", "second", "Beta", "third", "Gamma"]
        assert scene.titles == ["You", "You", "You  1 of 2"]
        await scene.press("alt+right")
        assert scene.shown[-1] == "Delta"


async def test_ctrl_e_edits_the_last_message_and_both_branches_stay() -> None:
    async with holding() as scene:
        chat = scene.chat
        await chat.pilot.press("d", "ctrl+e")
        assert chat.prompt.text == "third"
        assert "edit message 3 of 3" in chat.screen_text()
        assert scene.titles == ["You", "You", "You  editing"]
        chat.prompt.text = "other"
        await scene.press("enter")
        assert scene.asked() == ("first", "second", "other")
        assert scene.shown == ["first", "Alpha", "second", "Beta", "other", "Delta"]
        assert scene.titles == ["You", "You", "You  2 of 2"]
        assert "ask something" in chat.screen_text()
        assert chat.prompt.text == "d"  # what was typed before is back
        chat.prompt.text = ""
        await scene.press("alt+left")
        assert scene.shown == ["first", "Alpha", "second", "Beta", "third", "Gamma"]
        await chat.ask("after that")
        assert scene.asked() == ("first", "second", "third", "after that")


@pytest.mark.parametrize("key", ["ctrl+e", "up"])
async def test_an_earlier_message_is_chosen_with_the_same_key_or_up(key: str) -> None:
    async with holding() as scene:
        chat = scene.chat
        await chat.pilot.press("ctrl+e", key)
        assert (chat.prompt.text, scene.titles[1]) == ("second", "You  editing")
        await chat.pilot.press(key)
        assert chat.prompt.text == "first"
        await chat.pilot.press(key)
        assert "first message" in chat.hint
        chat.prompt.text = "other"
        await scene.press("enter")
        assert scene.asked() == ("other",)
        assert scene.shown == ["other", "Delta"]
        await scene.press("alt+left")
        assert scene.shown == ["first", "Alpha", "second", "Beta", "third", "Gamma"]
        assert [turn.prompt for turn in scene.engine.turns] == ["first", "second", "third"]


async def test_escape_leaves_the_editing_and_the_draft_comes_back() -> None:
    async with holding() as scene:
        chat = scene.chat
        await chat.pilot.press(*"draft", "ctrl+e", "z", "up", "escape")
        assert chat.prompt.text == "draft"
        assert scene.titles == ["You", "You", "You"]
        await chat.pilot.press("ctrl+e", "up", "down", "down")
        assert chat.prompt.text == "draft"
        await scene.press("enter")
        assert scene.asked() == ("first", "second", "third", "draft")


async def test_what_was_typed_for_a_message_waits_until_one_comes_back_to_it() -> None:
    async with holding() as scene:
        await scene.chat.pilot.press("ctrl+e", "z", "up", "down")
        assert scene.chat.prompt.text == "thirdz"


async def test_up_inside_an_edited_message_of_many_lines_moves_the_cursor() -> None:
    async with holding(["first", "one\ntwo"]) as scene:
        await scene.chat.pilot.press("ctrl+e", "up")
        assert scene.chat.prompt.text == "one\ntwo"
        await scene.chat.pilot.press("up")
        assert scene.chat.prompt.text == "first"


async def test_siblings_of_the_edited_message_are_reached_from_where_it_stands() -> None:
    async with holding() as scene:
        chat = scene.chat
        await chat.pilot.press("ctrl+e", "up", "up")
        chat.prompt.text = "other"
        await scene.press("enter")
        await scene.press("alt+left")
        await chat.pilot.press("ctrl+e", "up", "up", "alt+right")
        assert scene.shown == ["other", "Delta"]
        assert (chat.prompt.text, scene.titles) == ("other", ["You  2 of 2 · editing"])
        await chat.pilot.press("q", "alt+left")  # what was typed is not left behind
        assert chat.prompt.text == "otherq"
        assert scene.titles == ["You  1 of 2 · editing", "You", "You"]
        await scene.press("enter")
        assert scene.asked() == ("otherq",)
        assert scene.titles == ["You  3 of 3"]


async def test_a_command_typed_while_editing_is_carried_out_and_the_editing_goes_on() -> None:
    async with holding() as scene:
        chat = scene.chat
        await chat.pilot.press("ctrl+e")
        chat.prompt.text = "/set temperature 0"
        await chat.pilot.press("enter")
        assert "temperature is now 0" in chat.hint
        assert chat.prompt.text == "third"
        await scene.press("ctrl+r")
        assert "the same answer comes again" in chat.hint
        assert scene.asked() == ("first", "second", "third")


@pytest.mark.parametrize("key", ["ctrl+r", "ctrl+e", "alt+left", "alt+right"])
async def test_with_nothing_to_branch_from_the_keys_say_so(key: str) -> None:
    async with driving() as chat:
        await chat.pilot.press(key)
        assert "yet" in chat.hint or "no other branch" in chat.hint
        assert chat.session.answer is None


async def test_at_the_ends_of_the_siblings_the_keys_say_so() -> None:
    async with holding() as scene:
        await scene.press("ctrl+r")
        await scene.press("alt+right")
        assert "last of 2" in scene.chat.hint
        await scene.press("alt+left", "alt+left")
        assert "first of 2" in scene.chat.hint
        assert scene.shown[-1] == "Gamma"


async def test_while_answering_branches_wait_and_editing_is_prepared() -> None:
    async with driving(Remembering("Alpha, and a few words more of it.")) as chat:
        await chat.ask("first")
        await chat.pause_at(1)
        for key in ("ctrl+r", "alt+left"):
            await chat.pilot.press(key)
            assert "to stop the answer first" in chat.hint or "no other branch" in chat.hint
        await chat.pilot.press("ctrl+e", "up", "x", "enter")
        assert "to stop the answer first" in chat.hint
        assert chat.prompt.text == "firstx"
        await chat.pilot.press("escape")
        await chat.finish()
        assert chat.prompt.text == "firstx"
        await chat.pilot.press("enter")
        await chat.finish()
        assert len(chat.session.history.exchanges) == 3
        assert [e.prompt for e in chat.session.history.branch] == ["firstx"]


async def test_a_branch_goes_on_where_it_was_left() -> None:
    """Back at a fork, the branch runs down to the leaf last visited below it."""
    async with holding() as scene:
        await scene.chat.pilot.press("ctrl+e", "up")
        scene.chat.prompt.text = "other"
        await scene.press("enter")
        assert scene.shown == ["first", "Alpha", "other", "Delta"]
        await scene.press("alt+left")
        assert scene.shown == ["first", "Alpha", "second", "Beta", "third", "Gamma"]


async def refused(scene: Scene, times: int) -> None:
    """Go to the branch before, to which the engine does not come so many times."""
    await scene.press("ctrl+r")
    scene.engine.refusing = times
    await scene.press("alt+left")
    await scene.chat.until(lambda: scene.engine.refusing < times)


async def test_a_branch_that_the_engine_refuses_is_tried_again_with_the_next_question() -> None:
    async with holding() as scene:
        await refused(scene, 1)
        await scene.chat.until(lambda: "no room" in scene.chat.hint)
        assert "the next question tries again" in scene.chat.hint
        await scene.chat.ask("after that")
        assert "no room" not in scene.chat.transcript
        assert scene.asked() == ("first", "second", "third", "after that")
        assert scene.shown[-3:] == ["third", "Gamma", "Epsilon"]


async def test_a_question_is_not_answered_on_another_branch_than_its_own() -> None:
    async with holding() as scene:
        chat = scene.chat
        await refused(scene, 2)
        before = len(scene.engine.asked)
        await chat.ask("after that")
        assert len(scene.engine.asked) == before
        assert "not answered" in chat.transcript
        failed = chat.session.last
        assert failed is not None
        assert failed.answer.failure is not None
        assert "no room" in failed.answer.failure
        await scene.press("ctrl+r")
        assert scene.asked() == ("first", "second", "third", "after that")
        assert chat.session.last is not failed
        await chat.ask("and then")
        assert scene.asked()[-2:] == ("after that", "and then")


async def test_one_line_tells_of_a_question_that_the_engine_could_not_follow() -> None:
    async with holding() as scene:
        chat = scene.chat
        scene.engine.refusing = 2
        await scene.press("ctrl+r")
        assert chat.transcript.count("no room") == 1
        assert chat.transcript.count("could not be taken") == 1


class Noting(Recorder):
    """Remembers what a record is told of branches."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str]] = []

    def begin(self, exchange: Exchange) -> None:
        self.told.append(("begin", exchange.prompt))

    def select(self, exchange: str) -> None:
        self.told.append(("select", exchange))


async def test_the_record_is_told_which_branch_is_on_show() -> None:
    told = Noting()
    async with holding(["first", "second"], told) as scene:
        screen = scene.chat.app.chat
        leaf = screen.session.history.branch[-1].id
        await scene.chat.pilot.press("ctrl+e", "ctrl+e", "z", "enter")
        await scene.chat.finish()
        await scene.press("alt+left")
        assert told.told[2:] == [("begin", "firstz"), ("select", leaf)]


async def test_clearing_forgets_every_branch() -> None:
    async with holding() as scene:
        await scene.press("ctrl+r")
        await scene.chat.pilot.press("ctrl+e")
        scene.chat.prompt.text = "/clear"
        await scene.chat.pilot.press("enter")
        assert scene.shown == []
        assert scene.chat.prompt.text == ""
        await scene.chat.pilot.press("alt+left")
        assert "no other branch" in scene.chat.hint
        await scene.chat.ask("second")
        assert scene.asked() == ("second",)


async def test_a_failed_answer_can_be_asked_again() -> None:
    async with driving(BrokenEngine(RuntimeError("boom"))) as chat:
        await chat.ask("first")
        await chat.pilot.press("ctrl+r")
        await chat.finish()
        assert chat.transcript.count("boom") == 1
        assert "You  2 of 2" in chat.transcript


async def test_a_chat_of_another_day_is_opened_where_it_was_left() -> None:
    async with holding([]) as scene:
        scene.chat.app.chat.branches.open(another_day(), None, {})
        await scene.chat.pilot.pause()
        assert scene.shown == ["first", "Alpha", "second", "Beta"]
        await scene.chat.ask("third")
        assert scene.engine.asked == [("first", "second", "third")]
        assert scene.engine.turns[0].answer_ids


async def test_a_chat_that_the_engine_refuses_says_so_when_it_is_opened() -> None:
    async with holding([]) as scene:
        scene.engine.refusing = 1
        scene.chat.app.chat.branches.open(another_day(), None, {})
        await scene.chat.until(lambda: "no room" in scene.chat.hint)


def another_day() -> History:
    history = History()
    first = history.begin("first", done("Alpha."), 0.0)
    history.begin("second", done("Beta."), 0.0)
    history.begin("other", done("Gamma."), 0.0, ())
    history.select(first)
    return history


def done(text: str) -> Answer:
    """A complete answer, as a record gives it back: without its steps."""
    answer = Answer(text)
    for event in make_answer(text):
        answer.add(event)
    answer.forget_steps()
    return answer


async def test_the_palette_has_the_branches() -> None:
    async with holding() as scene:
        commands = {c.title: c for c in scene.chat.app.get_system_commands(scene.chat.app.screen)}
        await commands["Regenerate"].callback()
        await scene.chat.finish()
        assert scene.titles[-1] == "You  2 of 2"
        await commands["Previous branch"].callback()
        await scene.chat.pilot.pause()
        assert scene.titles[-1] == "You  1 of 2"
        await commands["Edit a message"].callback()
        await scene.chat.pilot.pause()
        assert scene.titles[-1] == "You  1 of 2 · editing"


async def test_regenerated_with_other_settings_they_are_those_of_one_answer() -> None:
    async with holding() as scene:
        chat, asked = scene.chat, scene.engine.params
        await chat.type("/again temperature=0.9 mode=ar", "enter")
        await chat.finish()
        assert scene.asked() == ("first", "second", "third")
        assert (asked[-1].temperature, scene.engine.modes[-1]) == (0.9, Mode.AR)
        assert "temperature 0.9 · mode ar · " in " ".join(chat.transcript.split())
        assert chat.session.settings == Settings()
        await chat.ask("after that")
        assert (asked[-1].temperature, scene.engine.modes[-1]) == (0.6, Mode.SEQUOIA)
        assert chat.transcript.count("mode ar") == 1


async def test_wrong_settings_for_an_answer_begin_none_and_stay_in_the_prompt() -> None:
    async with holding(["first"]) as scene:
        for line in ("/again growmap=nowhere", "/again theme=fjord", "/again hot"):
            scene.chat.prompt.put(line)
            await scene.press("enter")
            assert scene.chat.prompt.text == line
            assert scene.chat.hint
        await scene.press("ctrl+e")
        scene.chat.prompt.text = line = "/again growmap=nowhere"
        await scene.press("enter")
        assert scene.chat.prompt.text == line
        assert scene.chat.session.edit is not None
        assert len(scene.engine.asked) == 1
