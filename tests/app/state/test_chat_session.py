"""A chat without a screen: what it refuses, where exchanges go, what the engine is given."""

import pytest
from msgspec.structs import replace

from app.config.settings import Settings
from app.state.chat_session import ChatError, ChatSession, MessageEdit
from app.state.history import Exchange
from app.state.race_result import RaceState
from tests.fakes import PAIR, make_answer


def ask(session: ChatSession, prompt: str, sibling_of: Exchange | None = None) -> Exchange:
    """Ask and answer."""
    exchange = session.begin(prompt, session.path(sibling_of))
    for event in make_answer(f"{prompt} indeed."):
        exchange.answer.add(event)
    return exchange


def prompts(session: ChatSession) -> list[str]:
    return [each.prompt for each in session.history.branch]


@pytest.fixture
def session() -> ChatSession:
    """A chat of three exchanges."""
    made = ChatSession(Settings(), PAIR)
    for prompt in ("first", "second", "third"):
        ask(made, prompt)
    return made


def test_a_new_chat_has_no_answer_and_names_it_by_the_model_once_loaded() -> None:
    session = ChatSession(Settings())
    assert session.last is None
    assert session.answer is None
    assert not session.decoding
    assert session.answer_name == "Answer"
    session.pair = replace(PAIR, target="a model")
    assert session.answer_name == "a model"


def test_a_running_answer_makes_it_busy(session: ChatSession) -> None:
    session.check_idle()
    session.begin("fourth", session.path())
    assert session.busy
    assert session.decoding
    with pytest.raises(ChatError, match="to stop the answer first"):
        session.check_idle()


def test_only_the_last_answer_keeps_its_steps(session: ChatSession) -> None:
    assert [bool(each.answer.steps) for each in session.history.branch] == [False, False, True]


def test_a_sibling_follows_what_the_other_follows(session: ChatSession) -> None:
    second = session.history.branch[1]
    ask(session, "other", second)
    assert prompts(session) == ["first", "other"]
    assert session.sibling(-1) is second
    session.history.select(second)
    assert prompts(session) == ["first", "second", "third"]


def test_siblings_are_those_of_the_edited_message_or_of_the_last_fork(session: ChatSession) -> None:
    with pytest.raises(ChatError, match="no other branch"):
        session.sibling(-1)
    again = ask(session, "third", session.last)
    with pytest.raises(ChatError, match="last of 2"):
        session.sibling(1)
    session.edit = MessageEdit(session.history.branch, "draft", at=0)
    assert session.edited is session.history.branch[0]
    with pytest.raises(ChatError, match="no other branch"):
        session.sibling(-1)
    session.edit = None
    session.history.select(session.sibling(-1))
    assert session.sibling(1) is again
    with pytest.raises(ChatError, match="first of 2"):
        session.sibling(-1)


def test_no_other_branch_is_shown_while_answering(session: ChatSession) -> None:
    session.begin("third", session.path(session.last))
    with pytest.raises(ChatError, match="to stop the answer first"):
        session.sibling(-1)


def test_the_engine_is_restored_only_where_it_is_elsewhere(session: ChatSession) -> None:
    branch = session.history.branch
    assert session.turns_to_restore(branch) is None
    turns = session.turns_to_restore(branch[:1])
    assert turns is not None
    assert [turn.prompt for turn in turns] == ["first"]
    assert session.turns_to_restore(branch[:1]) is None
    history = session.history
    session.clear()
    assert session.turns_to_restore(()) is None
    session.open(history)
    assert session.turns_to_restore(session.history.branch) is not None


def test_a_race_asks_what_is_typed_or_the_last_prompt(session: ChatSession) -> None:
    typed = session.race_question("fourth")
    assert [turn.prompt for turn in typed.turns] == ["first", "second", "third"]
    assert (typed.prompt, typed.exchange) == ("fourth", None)
    last = session.race_question("")
    assert [turn.prompt for turn in last.turns] == ["first", "second"]
    assert session.last is not None
    assert (last.prompt, last.exchange) == ("third", session.last.id)
    session.edit = MessageEdit(session.history.branch, "", at=1)
    assert [turn.prompt for turn in session.race_question("other").turns] == ["first"]


def test_races_that_cannot_start_are_refused(session: ChatSession) -> None:
    session.race = RaceState("first")
    assert session.decoding
    with pytest.raises(ChatError, match="a race is running"):
        session.race_question("fourth")
    session.race.end(None)
    session.race_question("fourth")
    session.clear()
    with pytest.raises(ChatError, match="nothing to race"):
        session.race_question("")
    session.pair = None
    with pytest.raises(ChatError, match="still loading"):
        session.race_question("fourth")
