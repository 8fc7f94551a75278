"""The tree of exchanges: nothing is lost, and the branch is where it was left."""

import itertools
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from app.state.answer import Answer
from app.state.chat_session import MessageEdit
from app.state.history import Exchange, History, turns
from sequoia_core.events import Failed, Step
from sequoia_core.text.chat_template import Turn
from tests.fakes import make_answer


class Expected:
    """What a tree of exchanges should be, kept the simple way: every path is a list."""

    def __init__(self) -> None:
        self.history = History()
        self.paths: dict[str, list[str]] = {}
        self.visited: list[str] = []

    def begin(self, parent: Exchange | None) -> None:
        names = itertools.count(len(self.paths))
        made = self.history.begin(
            f"prompt {next(names)}", Answer(""), 0.0, [parent] if parent else []
        )
        before = self.paths[parent.id] if parent else []
        self.paths[made.id] = [*before, made.id]
        self.visited.append(made.id)

    def select(self, exchange: Exchange) -> None:
        self.history.select(exchange)
        self.visited.append(exchange.id)

    def leaf(self, at: str) -> list[str]:
        """The path to the leaf last visited below an exchange."""
        while children := [e for e, path in self.paths.items() if path[:-1] == self.paths[at]]:
            passed = [e for e in self.visited if any(c in self.paths[e] for c in children)]
            at = next(c for c in children if c in self.paths[passed[-1]])
        return self.paths[at]


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 100)), min_size=1, max_size=30))
def test_nothing_is_ever_lost_and_the_branch_is_where_it_was_left(
    moves: Sequence[tuple[bool, int]],
) -> None:
    expected = Expected()
    for adds, number in moves:
        known = list(expected.history.exchanges.values())
        before = set(expected.history.exchanges)
        chosen = [None, *known][number % (len(known) + 1)]
        if adds or chosen is None:
            expected.begin(chosen)
        else:
            expected.select(chosen)
        assert before <= set(expected.history.exchanges)
        branch = [exchange.id for exchange in expected.history.branch]
        assert branch == expected.leaf(expected.visited[-1])
        for exchange in expected.history.exchanges.values():
            assert [e.id for e in expected.history.before(exchange)] == expected.paths[exchange.id][
                :-1
            ]
            siblings = expected.history.siblings(exchange)
            assert exchange in siblings
            assert {e.id for e in siblings} == {
                e
                for e, path in expected.paths.items()
                if path[:-1] == expected.paths[exchange.id][:-1]
            }
    again = History()
    for exchange in expected.history.exchanges.values():
        again.add(exchange)
        again.select(exchange)
    again.select(again.exchanges[expected.history.branch[-1].id])
    assert [e.id for e in again.branch] == [e.id for e in expected.history.branch]


def test_without_a_parent_an_exchange_follows_the_branch() -> None:
    history = History()
    made = [history.begin(prompt, Answer(prompt), 1.0) for prompt in "abc"]
    assert [e.prompt for e in history.branch] == ["a", "b", "c"]
    assert [e.parent for e in made] == [None, made[0].id, made[1].id]


def test_turns_are_the_models_own_words_and_tokens() -> None:
    events = make_answer("one \x1b[31m two.")
    answer, unanswered = Answer("p"), Answer("q")
    for event in events:
        answer.add(event)
    unanswered.add(Failed("no room"))
    history = History()
    history.begin("p", answer, 0.0)
    history.begin("q", unanswered, 0.0)
    (turn,) = turns(history.branch)
    ids = tuple(i for event in events if isinstance(event, Step) for i in event.token_ids)
    assert turn == Turn("p", "one \x1b[31m two.", ids)
    answer.forget_steps()
    assert turns(history.branch) == (turn,)


def test_editing_keeps_what_was_typed_for_each_message() -> None:
    history = History()
    for prompt in ("first", "second", "third"):
        history.begin(prompt, Answer(prompt), 0.0)
    editing = MessageEdit(history.branch, "a draft")
    assert editing.text == "third"
    assert not editing.move(1, "third, changed")
    assert editing.move(-1, "third, changed")
    assert editing.text == "second"
    assert editing.move(1, "second")
    assert editing.text == "third, changed"
    assert editing.move(-1, "third")
    assert editing.move(1, "second")
    assert editing.text == "third"
