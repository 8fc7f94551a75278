"""A chat without a screen: what it refuses, where exchanges go, what the engine is given."""

import pytest
from msgspec.structs import replace

from app.config.settings import Settings
from app.state.chat_session import ChatError, ChatSession, MessageEdit
from app.state.history import Exchange
from app.state.race_state import RaceState
from sequoia_core.events import PrefillDone
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


def measured(prompt_tokens: int, left_out: int = 0) -> ChatSession:
    """A chat of one answer after a prompt of so many tokens; the window has 8192."""
    session = ChatSession(Settings(max_new_tokens=192), PAIR)
    exchange = ask(session, "first")
    exchange.answer.add(PrefillDone(prompt_tokens, 0, 0.1, left_out))
    return session


def test_the_context_is_measured_by_the_last_answer_that_was_read() -> None:
    session = ChatSession(Settings(), PAIR)
    assert session.context_tokens is None
    exchange = ask(session, "first")
    tokens = exchange.answer.statistics[-1].totals.tokens
    assert session.context_tokens == 38 + tokens
    session.begin("second", session.path())
    assert session.context_tokens == 38 + tokens


@pytest.mark.parametrize(
    ("prompt_tokens", "typed", "said"),
    [
        (7000, 0, ""),
        (7200, 0, "nearly full"),
        (7000, 800, "nearly full"),
        (7000, 4000, "the next message leaves out"),
        (8000, 0, "the next message leaves out"),
        (7000, 4 * 8191, "the next message leaves out"),
    ],
)
def test_before_turns_are_left_out_a_line_says_so(
    prompt_tokens: int, typed: int, said: str
) -> None:
    """8000 tokens are free for a prompt, as 192 are kept for the answer."""
    line = measured(prompt_tokens).context_warning(typed)
    assert said in line
    assert bool(said) == bool(line)
    assert not line or "/clear" in line


def test_a_message_that_does_not_fit_alone_is_named_before_it_is_sent() -> None:
    for session in (measured(7000), measured(7000, left_out=3), ChatSession(Settings(), PAIR)):
        line = session.context_warning(4 * 8192)
        assert line.startswith("this message alone may be too long")
        assert "about 8192 tokens" in line
        assert "left out" not in line
        assert "leaves out" not in line


def test_turns_that_were_left_out_are_counted_in_the_line_and_with_the_answer() -> None:
    session = measured(5000, left_out=3)
    assert "no longer reads the 3 oldest turns" in session.context_warning()
    assert session.answer is not None
    assert " · 3 earlier turns left out" in session.answer.footer()
    session.begin("second", session.path())
    assert session.context_warning() == ""  # an answer runs


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
