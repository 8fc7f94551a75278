"""A chat goes on with another draft: the target and what it has read stay, and so does the text."""

import gc
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest

from sequoia_core.chat.conversation import Conversation
from sequoia_core.config import Mode, SamplingParams, WeightFormat
from sequoia_core.errors import ModelLoadError, TokenizerMismatchError
from sequoia_core.events import Event
from sequoia_core.model.loading.pair import load_pair
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.chat.test_conversation import done_of
from tests.core.checkpoints import save_model, tiny_tokenizer
from tests.core.engines import steps_of, tokens_of

ROOM = {"max_position_embeddings": 512}
GREEDY = SamplingParams(temperature=0.0, max_new_tokens=24)
TREE = TreeChoice(growmap=GrowMap.k_ary([2, 2, 1]))
ASKED = ("A", "and then B?", "C")

Start = Callable[[str], Conversation]


@pytest.fixture(params=[WeightFormat.AUTO, WeightFormat.TORCH])
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Start:
    """Begins a chat with a draft."""
    for name, layers in (("target", 2), ("one", 1), ("two", 2)):
        save_model(tmp_path / name, tiny_tokenizer(), num_hidden_layers=layers, **ROOM)
    save_model(tmp_path / "other", tiny_tokenizer(first="B"), num_hidden_layers=1)

    def begin(draft: str) -> Conversation:
        names = str(tmp_path / "target"), named(tmp_path, draft)
        pair = load_pair(*names, dtype="float32", device="cpu", weights=request.param)
        return Conversation(pair, tree_choice=TREE, insight=True)

    return begin


def named(folder: Path, draft: str) -> str:
    return draft if draft == "none" else str(folder / draft)


def silent(_message: str, _fraction: float | None) -> None:
    """Reports nothing."""


def ask(chat: Conversation, prompt: str) -> list[Event]:
    return list(chat.reply(prompt, GREEDY))


def test_the_texts_are_those_of_a_chat_that_was_never_switched(
    start: Start, tmp_path: Path
) -> None:
    chat, plain = start("one"), start("none")
    plain.choose_tree(TreeChoice(Mode.AR))
    events = [ask(chat, ASKED[0])]
    target = chat._pair.target
    for draft, prompt in zip(("two", "none"), ASKED[1:], strict=True):
        known, turns = len(chat.token_ids), chat.turns
        chat = chat.with_draft(named(tmp_path, draft), silent)
        assert chat.turns == turns
        assert chat._pair.target is target
        assert chat.description.draft == (None if draft == "none" else draft)
        events.append(ask(chat, prompt))
        assert (
            done_of(events[-1]).cached_tokens == known - 1
        )  # all but the token that has no row yet
    expected = [ask(plain, prompt) for prompt in ASKED]
    assert list(map(tokens_of, events)) == list(map(tokens_of, expected))
    drafted = [max(len(step.nodes) for step in steps_of(each)) > 1 for each in events]
    assert drafted == [True, True, False]
    assert all(step.insight for each in events for step in steps_of(each))


def test_each_draft_guesses_as_in_a_chat_of_its_own(start: Start, tmp_path: Path) -> None:
    switched, own = start("one"), start("two")
    ask(switched, ASKED[0])
    switched = switched.with_draft(str(tmp_path / "two"), silent)
    ask(own, ASKED[0])
    first, same = (steps_of(ask(chat, ASKED[1]))[0] for chat in (switched, own))
    assert len(first.nodes) > 1
    guesses = [[(node.token_id, node.parent) for node in step.nodes] for step in (first, same)]
    assert guesses[0] == guesses[1]


def test_the_draft_before_is_freed_at_once(start: Start, tmp_path: Path) -> None:
    chat = start("one")
    ask(chat, ASKED[0])
    assert chat._pair.draft is not None
    before = weakref.ref(chat._pair.draft)
    gc.disable()
    try:
        chat = chat.with_draft(str(tmp_path / "two"), silent)
        assert before() is None
    finally:
        gc.enable()


def test_a_draft_that_is_refused_leaves_the_chat_as_it_is(start: Start, tmp_path: Path) -> None:
    chat, twin = start("one"), start("one")
    for each in (chat, twin):
        ask(each, ASKED[0])

    def stop(message: str, _fraction: float | None) -> None:
        if message.startswith("Loading"):
            raise ModelLoadError("stopped")

    with pytest.raises(TokenizerMismatchError):
        chat.with_draft(str(tmp_path / "other"), silent)
    with pytest.raises(ModelLoadError, match="stopped"):
        chat.with_draft(str(tmp_path / "two"), stop)
    answers = [ask(each, ASKED[1]) for each in (chat, twin)]
    assert tokens_of(answers[0]) == tokens_of(answers[1])
    assert done_of(answers[0]).cached_tokens == done_of(answers[1]).cached_tokens > 0


@pytest.mark.embedded
def test_the_embedded_chat_goes_on_without_its_draft_and_with_it_again() -> None:
    chat, plain = (Conversation(load_pair(None, draft)) for draft in (None, "none"))
    asked = ("Count to five.", "Now backwards.", "Once more.")
    answers: list[list[int]] = []
    for draft, prompt in zip((None, "none", None), asked, strict=True):
        if answers:
            assert chat.keeps_target(None, draft)
            chat = chat.with_draft(draft, silent)
        answers.append(tokens_of(list(chat.reply(prompt, GREEDY))))
    assert answers == [tokens_of(list(plain.reply(prompt, GREEDY))) for prompt in asked]
    assert chat.description.draft == "bundled draft"
    # its target does not keep what the draft reads
    assert not plain.keeps_target(None, None)
