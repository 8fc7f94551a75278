"""Edited and continued answers: each is a version of its own, which the chat goes on from."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typing_extensions import override

from app.config.settings import Settings
from app.screens.chat.export import as_json, as_markdown
from app.state.chat_import import read_chat
from app.store.archive import Archive
from app.store.recorder import DatabaseRecorder
from sequoia_core.config import Mode, SamplingParams
from sequoia_core.events import AnswerStart, Event, FinishReason, Step, TextDelta
from sequoia_core.text.chat_template import Turn
from tests.app.driving import Driver, driving
from tests.app.screens.test_branches import Remembering
from tests.fakes import make_answer
from tests.replay_engine import Trace, read_trace


class Continuing(Remembering):
    """Remembers also which answers it continued."""

    def __init__(self, *texts: str, reason: FinishReason = FinishReason.LENGTH) -> None:
        super().__init__(*texts)
        answers = (make_answer(text, reason=reason) for text in texts)
        trace = Trace(self.description, tuple(event for answer in answers for event in answer))
        super(Remembering, self).__init__(trace)
        self.continued: list[Turn] = []

    @override
    def continue_answer(
        self, turn: Turn, params: SamplingParams, should_stop: Callable[[], bool]
    ) -> Iterator[Event]:
        self.continued.append(turn)
        self.params.append(params)
        self.modes.append(self.tree_choice.mode)
        text, ids = turn.answer, turn.answer_ids
        for event in super(Remembering, self).reply(turn.prompt, params, should_stop):
            if isinstance(event, TextDelta):
                text += event.text
            elif isinstance(event, Step):
                ids += event.token_ids
            yield event
        self.turns = (*self.turns, Turn(turn.prompt, text, ids))


def said(chat: Driver) -> str:
    return " ".join(chat.transcript.split())


async def test_an_answer_that_was_cut_goes_on_in_its_place() -> None:
    engine = Continuing("One two", " three four", "Five.")
    async with driving(engine) as chat:
        await chat.ask("count")
        first = chat.session.answer
        assert first is not None
        assert "cut at max_new_tokens" in said(chat)
        await chat.pilot.press("alt+c")
        await chat.finish()
        (turn,) = engine.continued
        assert (turn.prompt, turn.answer) == ("count", "One two")
        assert turn.answer_ids == tuple(first.token_ids)
        assert "One two three four" in said(chat)
        assert "You 2 of 2" in said(chat)
        answer = chat.session.answer
        assert answer is not None
        assert answer.footer().startswith("continued")
        decoded = sum(len(step.token_ids) for step in answer.steps)
        assert answer.statistics[-1].totals.tokens == decoded
        assert len(answer.token_ids) == decoded + len(first.token_ids)
        await chat.ask("on")
        assert [turn.answer for turn in engine.turns] == ["One two three four", "Five."]
        await chat.pilot.press("alt+left")
        assert "three" not in chat.transcript


async def test_an_answer_is_edited_and_the_chat_goes_on_from_it() -> None:
    engine = Continuing("One two", "Next.", reason=FinishReason.STOP)
    async with driving(engine) as chat:
        await chat.ask("count")
        await chat.type("draft")
        await chat.pilot.press("alt+e")
        assert chat.prompt.text == "One two"
        assert "edit answer 1 of 1" in chat.screen_text()
        assert "You editing the answer" in said(chat)
        keys = chat.app.chat.key_bar.render().plain
        assert "enter keep as a new version  alt+c let the model go on" in keys
        await chat.pilot.press("enter")
        assert "nothing was changed" in chat.hint
        await chat.type(" and a half", "enter")
        await chat.until(lambda: "You 2 of 2" in said(chat))
        assert "One two and a half" in said(chat)
        answer = chat.session.answer
        assert answer is not None
        assert answer.footer() == "edited"
        assert chat.prompt.text == "draft"
        await chat.until(lambda: bool(engine.turns))
        assert engine.turns == (Turn("count", "One two and a half"),)
        await chat.pilot.press("enter")
        await chat.finish()
        assert engine.asked[-1] == ("count", "draft")


async def test_an_edited_answer_is_continued_at_once_and_stays_marked(tmp_path: Path) -> None:
    engine = Continuing("One two", " three", " four")
    async with driving(engine) as chat:
        await chat.ask("count")
        await chat.pilot.press("alt+e", *["backspace"] * 3)
        await chat.type("2", "alt+c")
        await chat.finish()
        assert engine.continued[-1] == Turn("count", "One 2")
        answer = chat.session.answer
        assert answer is not None
        assert answer.verbatim == "One 2 three"
        assert answer.footer().startswith("edited · continued")
        await chat.type("/continue answer", "enter")
        await chat.finish()
        assert engine.continued[-1] == Turn("count", "One 2 three")
        assert len(chat.session.history.siblings(chat.session.history.branch[0])) == 4
        file = tmp_path / "chat.jsonl"
        await chat.type(f"/export {file}", "enter")
        await chat.until(file.exists)
        again = read_trace(file)
        starts = [event for event in again.events if isinstance(event, AnswerStart)]
        assert [start.text for start in starts] == ["One 2", "One 2", "One 2 three"]
        for written in (file, tmp_path / "chat.json"):
            if written.suffix == ".json":
                written.write_text(as_json(chat.session, 0.0), encoding="utf-8")
            last = read_chat(written, 0.0).history.branch[-1].answer
            assert last.verbatim == "One 2 three four"
            assert last.footer().startswith("edited")
        assert "edited · continued" in as_markdown(chat.session, 0.0)


async def test_from_an_answer_to_its_message_and_back_what_was_typed_stays() -> None:
    async with driving(Continuing("One two", reason=FinishReason.STOP)) as chat:
        await chat.ask("count")
        await chat.type("draft", "alt+e", "x", "ctrl+e")
        assert chat.prompt.text == "count"
        await chat.type("s", "alt+e")
        assert chat.prompt.text == "One twox"
        await chat.pilot.press("ctrl+e")
        assert chat.prompt.text == "counts"
        await chat.pilot.press("escape")
        assert chat.prompt.text == "draft"


async def test_a_changed_message_is_not_lost_to_the_key_that_continues() -> None:
    async with driving(Continuing("One two", reason=FinishReason.LENGTH)) as chat:
        await chat.ask("count")
        await chat.pilot.press("ctrl+e", "s", "alt+c")
        assert "enter sends it" in chat.hint
        assert chat.prompt.text == "counts"
        await chat.pilot.press("backspace", "alt+c")
        await chat.finish()
        assert len(chat.session.history.exchanges) == 2


async def test_a_changed_text_is_not_lost_to_the_key_that_regenerates() -> None:
    engine = Continuing("One two", "Three.")
    async with driving(engine) as chat:
        await chat.ask("count")
        for edit, typed, hint in (("ctrl+e", "counts", "sends"), ("alt+e", "One twos", "keeps")):
            await chat.pilot.press(edit, "s", "ctrl+r")
            assert f"was changed: enter {hint} it, esc cancels" in chat.hint
            assert chat.prompt.text == typed
            assert len(engine.asked) == 1
            await chat.pilot.press("escape")
        await chat.pilot.press("ctrl+e", "s", "backspace", "ctrl+r")
        await chat.finish()
        assert engine.asked[1:] == [("count",)]


async def test_an_answer_that_begins_with_a_slash_is_kept_as_the_answer() -> None:
    async with driving(Continuing("One two", reason=FinishReason.STOP)) as chat:
        await chat.ask("count")
        for text in ("/usr/bin/env", "/set mode ar", '"""Documentation.'):
            await chat.pilot.press("alt+e")
            chat.prompt.text = text
            await chat.pilot.press("enter")
            answer = chat.session.answer
            assert answer is not None
            assert answer.verbatim == text
            assert ("kept as the answer" in chat.hint) == text.startswith("/")
        assert chat.session.settings == Settings()
        await chat.type("/set mode ar", "enter")
        assert chat.session.settings.mode is Mode.AR


async def test_while_an_answer_is_edited_a_slash_lists_no_commands() -> None:
    async with driving(Continuing("One.", reason=FinishReason.STOP)) as chat:
        await chat.ask("count")
        await chat.pilot.press("alt+e", *["backspace"] * 4, "slash", "s")
        await chat.pilot.pause(0.1)
        assert not chat.prompt.completions.display
        await chat.pilot.press("escape", "slash")
        await chat.until(lambda: bool(chat.prompt.completions.display))


async def test_a_message_that_begins_with_a_slash_is_edited_as_a_message() -> None:
    engine = Continuing("One.", "Two.", "Three.", reason=FinishReason.STOP)
    async with driving(engine) as chat:
        await chat.ask('"""/usr/bin: what is it?"""')
        assert engine.asked == [("/usr/bin: what is it?",)]
        await chat.pilot.press("ctrl+e", "backspace", "!", "enter")
        await chat.finish()
        assert engine.asked[1:] == [("/usr/bin: what is it!",)]
        await chat.ask("next")
        await chat.pilot.press("ctrl+e")
        chat.prompt.text = "/set mode ar"
        await chat.pilot.press("enter")
        assert chat.session.settings.mode is Mode.AR
        assert chat.prompt.text == "next"


async def test_an_answer_goes_on_with_its_own_settings_and_keeps_their_label(
    tmp_path: Path,
) -> None:
    engine = Continuing("One", "One two", " three", " four")
    recorder = DatabaseRecorder(tmp_path / "sessions.db")
    async with driving(engine, recorder=recorder) as chat:
        await chat.ask("count")
        await chat.type("/again temperature=0.9 mode=ar", "enter")
        await chat.finish()
        await chat.pilot.press("alt+c")
        await chat.finish()
        answer = chat.session.answer
        assert answer is not None
        assert answer.verbatim == "One two three"
        assert answer.footer().startswith("continued · temperature 0.9 · mode ar")
        await chat.pilot.press("alt+e", "!", "alt+c")
        await chat.finish()
        answer = chat.session.answer
        assert answer is not None
        assert answer.verbatim == "One two three! four"
        assert answer.footer().startswith("edited · continued · temperature 0.9 · mode ar")
        assert [each.temperature for each in engine.params] == [0.6, 0.9, 0.9, 0.9]
        assert engine.modes == [Mode.SEQUOIA, Mode.AR, Mode.AR, Mode.AR]
        assert chat.session.settings == Settings()
        await chat.type("/set mode chain", "enter")
        await chat.ask("on")
        assert engine.modes[-1] is Mode.CHAIN


@pytest.mark.parametrize("key", ["alt+c", "alt+e"])
async def test_with_nothing_to_go_on_from_the_keys_say_so(key: str) -> None:
    async with driving(Continuing("One.", reason=FinishReason.STOP)) as chat:
        await chat.pilot.press(key)
        assert "yet" in chat.hint
        await chat.ask()
        if key == "alt+c":
            await chat.pilot.press(key)
            assert "the model has ended this answer" in chat.hint
        await chat.pilot.press("f2")
        await chat.type("more", "enter")
        await chat.until(lambda: chat.steps > 0)
        await chat.pilot.press(key)
        assert "esc" in chat.hint.lower()
        assert len(chat.session.history.exchanges) == 2


async def test_the_record_keeps_edited_and_continued_answers(tmp_path: Path) -> None:
    path, engine = tmp_path / "sessions.db", Continuing("One two", " three")
    recorder = DatabaseRecorder(path)
    async with driving(engine, recorder=recorder) as chat:
        await chat.ask("count")
        await chat.pilot.press("alt+e", "x", "alt+c")
        await chat.finish()
        session = recorder.session
    assert session is not None
    history = Archive(path).load(session).history
    texts = [each.answer.verbatim for each in history.exchanges.values()]
    assert texts == ["One two", "One twox", "One twox three"]
    edited, continued = (each.answer for each in list(history.exchanges.values())[1:])
    assert edited.footer() == "edited"
    assert continued.footer().startswith("edited · continued")
    assert continued.text == "One twox three"
    assert continued.known_ids == ()


async def test_a_key_lists_the_settings_of_one_answer_with_their_values() -> None:
    async with driving(Continuing("One.", "Two.", reason=FinishReason.STOP)) as chat:
        await chat.ask("count")
        await chat.pilot.press("alt+r")
        assert chat.prompt.text == "/again "
        await chat.until(lambda: "temperature=" in chat.screen_text())
        await chat.type("mode=ar", "enter")
        await chat.finish()
        answer = chat.session.answer
        assert answer is not None
        assert answer.footer().startswith("mode ar · ")


async def test_keys_of_a_cut_answer_and_of_an_edited_one_are_named() -> None:
    async with driving(Continuing("One two"), size=(140, 40)) as chat:
        await chat.ask("count")
        assert "alt+c goes on from there" in chat.hint
        await chat.pilot.press("alt+e")
        assert "enter keep as a new version" in chat.screen_text()
        assert "alt+c let the model go on" in chat.screen_text()
