"""A chat's token ids only grow, read like the template's rendering, and lose whole turns only."""

import gc
import weakref
from collections.abc import Callable, Sequence
from itertools import count
from typing import cast

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from sequoia_core.chat.conversation import Conversation
from sequoia_core.config import Mode, SamplingParams
from sequoia_core.errors import ContextFullError, ParameterError, SequoiaError
from sequoia_core.events import (
    Event,
    FinishReason,
    MemoryUse,
    Notice,
    NoticeKind,
    PairDescription,
    PrefillDone,
    Step,
    TextDelta,
)
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.pair import Pair
from sequoia_core.text.chat_template import ChatTemplate, Turn
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import finish_of, steps_of, text_of, tokens_of
from tests.core.models import TableModel
from tests.core.text.test_chat_template import read_back, rendered
from tests.core.tiny_tokenizers import (
    COUNTING_TEMPLATE,
    LLAMA3_TEMPLATE,
    REFUSING_TEMPLATE,
    byte_level,
    embedded_tokenizer,
    sentencepiece_like,
)

GREEDY = SamplingParams(temperature=0.0, max_new_tokens=60)
ANSWERS = ("the tree.", "he, then the\nthree", "tee")
CLOSING = {"llama 2": "</s>", "llama 3": "<|eot_id|>", "smollm2": "<|im_end|>"}
MAKERS: dict[str, Callable[[], PreTrainedTokenizerBase]] = {
    "llama 2": sentencepiece_like,
    "llama 3": byte_level,
    "smollm2": embedded_tokenizer,
}
FAMILIES = pytest.mark.parametrize(
    "family", ["llama 2", "llama 3", pytest.param("smollm2", marks=pytest.mark.embedded)]
)
FINGERPRINTS = count()


class ChatModel(TableModel):
    """Gives the n-th answer a fixed text and closes it; knows its turn by what opens an answer."""

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, closing: int, window: int, answers: Sequence[str]
    ) -> None:
        super().__init__(len(tokenizer), 0, window=window)
        asked = ChatTemplate(tokenizer, None).whole([], "?")
        self._opening = asked[-5:]
        space = " " if tokenizer.decode(asked).endswith("]") else ""  # as Llama 2 begins
        anchor = tokenizer.encode("\n", add_special_tokens=False)
        texts = [f"\n{space}{text}" for text in answers]
        ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        self._answers = [[*each[len(anchor) :], closing] for each in ids]

    def logits_after(self, token_ids: Sequence[int]) -> Tensor:
        ids = list(token_ids)
        ends = [at for at in range(5, len(ids) + 1) if ids[at - 5 : at] == self._opening]
        logits = torch.zeros(self.vocab_size)
        if ends:  # measured texts have no answer to continue
            answer = self._answers[(len(ends) - 1) % len(self._answers)]
            logits[answer[min(len(ids) - ends[-1], len(answer) - 1)]] = 60.0
        return logits


class Chat:
    """A conversation with a `ChatModel`, and what was really asked of the engine."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        closing: str = "<|eot_id|>",
        *,
        window: int = 512,
        answers: Sequence[str] = ANSWERS,
        system: str | None = None,
        exact: bool = True,
        draft: bool = True,
    ) -> None:
        self.tokenizer, self.system = tokenizer, system
        self.closing_id = int(tokenizer.convert_tokens_to_ids(closing))
        target = ChatModel(tokenizer, self.closing_id, window, answers)
        guesser = ChatModel(tokenizer, self.closing_id, window, answers)
        pair = Pair(
            target=cast("Llama", target),
            draft=cast("Llama", guesser) if draft else None,
            draft_vocab_ids=None,
            tokenizer=tokenizer,
            eos_token_ids=frozenset({self.closing_id}),
            description=PairDescription("target", "draft", "cpu", "bfloat16", window, exact),
            fingerprint=f"conversation-{next(FINGERPRINTS)}",
            acceptance_rates={},
        )
        self.talk = Conversation(
            pair, system_prompt=system, tree_choice=TreeChoice(growmap=GrowMap.chain(3))
        )
        self.target = target

    def say(self, prompt: str, params: SamplingParams = GREEDY) -> list[Event]:
        return list(self.talk.reply(prompt, params))

    def cut_short(self, how: str) -> list[Event]:
        """The answer to "hee", ended before its end."""
        if how == "length":
            return self.say("hee", SamplingParams(temperature=0.0, max_new_tokens=3))
        if how == "cancel":
            asked = iter([False, False, True])  # the prompt, a step, and no more
            return list(self.talk.reply("hee", GREEDY, lambda: next(asked, True)))
        return self.say("hee", SamplingParams(temperature=0.0, stop=("tr",)))

    def prompt_ids(self, events: Sequence[Event]) -> list[int]:
        """What the last answer was decoded after."""
        ids = list(self.talk.token_ids)
        return ids[: len(ids) - len(tokens_of(events))]

    def rendered(self, turns: Sequence[Turn], prompt: str) -> str:
        return read_back(self.tokenizer, rendered(self.tokenizer, self.system, [*turns], prompt))


def done_of(events: Sequence[Event]) -> PrefillDone:
    return next(event for event in events if isinstance(event, PrefillDone))


def said_of(turns: Sequence[Turn]) -> list[tuple[str, str]]:
    """What was said, whatever the tokens."""
    return [(turn.prompt, turn.answer) for turn in turns]


def notices_of(events: Sequence[Event]) -> list[NoticeKind]:
    return [event.kind for event in events if isinstance(event, Notice)]


@FAMILIES
def test_the_ledger_only_grows_and_only_what_is_new_is_read(family: str) -> None:
    chat = Chat(MAKERS[family](), CLOSING[family], system="be the one")
    turns: list[Turn] = []
    for turn, prompt in enumerate(("the?", "he\nhe", "tee é", "t")):
        before = chat.talk.token_ids
        events = chat.say(prompt)
        answer = ANSWERS[turn % len(ANSWERS)]
        assert finish_of(events).reason is FinishReason.STOP
        assert text_of(events).strip() == answer
        ids, done = chat.prompt_ids(events), done_of(events)
        # the closing token that the model itself said gives way to the template's own
        shared = max(len(before) - 1, 0)
        assert tuple(ids[:shared]) == before[:shared]
        assert done.prompt_tokens == len(ids)
        assert done.cached_tokens == shared
        assert chat.tokenizer.decode(ids) == chat.rendered(turns, prompt)
        turns.append(Turn(prompt, answer))
        assert [turn.prompt for turn in chat.talk.turns] == [turn.prompt for turn in turns]
        assert ids.count(chat.closing_id) == chat.tokenizer.encode(
            rendered(chat.tokenizer, chat.system, turns[:-1], prompt), add_special_tokens=False
        ).count(chat.closing_id)


CUT_SHORT = pytest.mark.parametrize("how", ["length", "cancel", "stop string"])


@FAMILIES
@CUT_SHORT
def test_an_answer_that_was_cut_short_is_closed_all_the_same(family: str, how: str) -> None:
    chat = Chat(MAKERS[family](), CLOSING[family], answers=["the tree, the hen, the tent, the end"])
    events = chat.cut_short(how)
    assert finish_of(events).reason in {
        FinishReason.LENGTH, FinishReason.CANCELLED, FinishReason.STOP,
    }  # fmt: skip
    emitted = tokens_of(events)
    assert emitted
    assert chat.closing_id not in emitted
    before = chat.talk.token_ids
    following = chat.say("tee")
    ids = chat.prompt_ids(following)
    turns = [Turn("hee", text_of(events))]
    assert chat.tokenizer.decode(ids) == chat.rendered(turns, "tee")
    if how == "stop string":  # the text ends before it, and the model reads the text
        assert tuple(ids[: len(before)]) != before
        assert done_of(following).cached_tokens > len(before) - 4
        return
    assert tuple(ids[: len(before)]) == before
    assert ids[len(before) :].count(chat.closing_id) >= 1
    assert done_of(following).cached_tokens == len(before) - 1


def test_a_template_that_is_not_extendable_is_rendered_whole() -> None:
    chat = Chat(byte_level(COUNTING_TEMPLATE))
    turns: list[Turn] = []
    for prompt in ("the", "he", "tee"):
        events = chat.say(prompt)
        assert chat.tokenizer.decode(chat.prompt_ids(events)) == chat.rendered(turns, prompt)
        turns.append(Turn(prompt, text_of(events)))
    assert [turn.prompt for turn in chat.talk.turns] == ["the", "he", "tee"]


@pytest.mark.parametrize("make", [byte_level, lambda: byte_level(COUNTING_TEMPLATE)])
@given(lengths=st.lists(st.integers(1, 30), min_size=4, max_size=9), window=st.integers(170, 260))
@settings(max_examples=25, deadline=None)
def test_a_full_window_drops_the_oldest_whole_turns(
    make: Callable[[], PreTrainedTokenizerBase], lengths: list[int], window: int
) -> None:
    """What is left is the system prompt and the latest turns; the answer still has its room."""
    chat = Chat(make(), window=window, system="keep me")
    said: list[Turn] = []
    for at, length in enumerate(lengths):
        prompt = f"{at}" + "e" * length
        before = len(chat.talk.turns)
        events = chat.say(prompt)
        kept = list(chat.talk.turns)
        trimmed = NoticeKind.CONTEXT_TRIMMED in notices_of(events)
        assert trimmed == (len(kept) < before + 1)
        said.append(Turn(prompt, text_of(events)))
        assert said_of(kept) == said_of(said[len(said) - len(kept) :])
        assert done_of(events).left_out == len(said) - len(kept)
        ids = chat.prompt_ids(events)
        assert chat.tokenizer.decode(ids) == chat.rendered(kept[:-1], prompt)
        assert "keep me" in chat.tokenizer.decode(ids)
        assert len(chat.talk.token_ids) <= window
        if trimmed:  # and no turn was dropped without need
            more = said[len(said) - len(kept) - 1 : -1]
            tokens = len(ChatTemplate(chat.tokenizer, "keep me").whole(more, prompt))
            assert tokens + min(GREEDY.max_new_tokens, window // 4) > window


def test_dropping_turns_is_told_in_words() -> None:
    chat = Chat(byte_level(), window=190)
    texts = [
        event.message for _ in range(6) for event in chat.say("e" * 20) if isinstance(event, Notice)
    ]
    assert any("oldest turn was dropped" in text for text in texts)


@pytest.mark.parametrize("prompt", ["", " ", "\n\t"])
def test_a_blank_prompt_is_refused(prompt: str) -> None:
    chat = Chat(byte_level())
    with pytest.raises(ParameterError, match="empty"):
        chat.say(prompt)


def test_a_prompt_longer_than_the_window_is_refused_and_nothing_is_lost() -> None:
    chat = Chat(byte_level(), window=200)
    chat.say("hee")
    turns, ids = chat.talk.turns, chat.talk.token_ids
    with pytest.raises(ContextFullError, match="shorten"):
        chat.say("e" * 300)
    assert (chat.talk.turns, chat.talk.token_ids) == (turns, ids)
    events = chat.say("tee")
    assert len(chat.talk.turns) == 2
    assert done_of(events).cached_tokens == len(ids) - 1


def test_no_message_is_to_be_shortened_where_none_fits() -> None:
    chat = Chat(byte_level(), window=3)
    with pytest.raises(ContextFullError, match=r"holds 3 tokens, .* raise --context-window"):
        chat.say("hee")


def test_models_are_freed_with_their_conversation() -> None:
    """Without a garbage collection: other models may need the memory next."""
    chat = Chat(byte_level())
    chat.say("hee")
    engine = chat.talk._engine
    held = [weakref.ref(each) for each in (engine, engine._target, engine._draft)]
    gc.disable()
    try:
        del chat, engine
        assert [each() for each in held] == [None] * 3
    finally:
        gc.enable()


def test_clear_forgets_the_turns_and_keeps_the_system_prompt() -> None:
    chat = Chat(byte_level(), system="keep me")
    first = chat.say("hee")
    asked = chat.prompt_ids(first)
    chat.talk.clear()
    assert (chat.talk.turns, chat.talk.token_ids) == ((), ())
    again = chat.say("hee")
    assert chat.prompt_ids(again) == asked
    assert tokens_of(again) == tokens_of(first)
    assert done_of(again).cached_tokens == len(asked) - 1


def test_another_system_prompt_starts_over() -> None:
    chat = Chat(byte_level(), system="be the first")
    chat.say("hee")
    chat.talk.set_system_prompt("be the second")
    assert chat.talk.turns == ()
    text = chat.tokenizer.decode(chat.prompt_ids(chat.say("hee")))
    assert "be the second" in text
    assert "first" not in text


@pytest.mark.parametrize(
    ("template", "wanted", "error", "reason"),
    [
        (REFUSING_TEMPLATE, "be brief", ParameterError, "not brief"),
        (LLAMA3_TEMPLATE, "be brief " * 200, ContextFullError, "shorten it"),
    ],
)
def test_a_system_prompt_that_cannot_be_used_changes_nothing(
    template: str, wanted: str, error: type[SequoiaError], reason: str
) -> None:
    chat = Chat(byte_level(template))
    said = done_of(chat.say("hee")).prompt_tokens
    turns = chat.talk.turns
    with pytest.raises(error, match=reason):
        chat.talk.set_system_prompt(wanted)
    assert chat.talk.turns == turns
    assert done_of(chat.say("tee")).prompt_tokens > said


@pytest.mark.embedded
def test_the_embedded_templates_own_system_prompt_is_the_default() -> None:
    chat = Chat(embedded_tokenizer(), "<|im_end|>")
    for prompt in ("hee", "tee"):
        text = chat.tokenizer.decode(chat.prompt_ids(chat.say(prompt)))
        assert text.count("You are a helpful AI assistant named SmolLM") == 1
    chat.talk.set_system_prompt("be brief")
    assert "SmolLM" not in chat.tokenizer.decode(chat.prompt_ids(chat.say("hee")))


@pytest.mark.parametrize("last", [TextDelta, Step])
def test_leaving_in_the_middle_of_an_answer_keeps_what_was_said(last: type[Event]) -> None:
    chat = Chat(byte_level())
    answer = chat.talk.reply("hee", GREEDY)
    shown = ""
    for event in answer:
        if isinstance(event, TextDelta):
            shown += event.text
        if isinstance(event, last):
            break
    answer.close()  # type: ignore[attr-defined]
    assert shown
    assert said_of(chat.talk.turns) == [("hee", shown)]
    before = chat.talk.token_ids
    events = chat.say("tee")
    assert tuple(chat.prompt_ids(events)[: len(before)]) == before
    assert chat.tokenizer.decode(chat.prompt_ids(events)) == chat.rendered(
        [Turn("hee", shown)], "tee"
    )


def test_an_answer_left_open_cannot_undo_a_newer_one() -> None:
    chat = Chat(byte_level())
    stale = chat.talk.reply("hee", GREEDY)
    while not isinstance(next(stale), Step):
        pass
    chat.say("tee")
    turns, ids = chat.talk.turns, chat.talk.token_ids
    assert [turn.prompt for turn in turns] == ["tee"]
    with pytest.raises(SequoiaError, match="newer"):
        next(stale)
    assert (chat.talk.turns, chat.talk.token_ids) == (turns, ids)
    events = chat.say("hee")
    assert tuple(chat.prompt_ids(events)[: len(ids)]) == ids
    assert done_of(events).cached_tokens >= len(ids) - 1


def test_plain_decoding_for_want_of_a_draft_is_said_once() -> None:
    chat = Chat(byte_level(), draft=False, exact=False)
    kinds = [kind for prompt in ("hee", "tee", "hee") for kind in notices_of(chat.say(prompt))]
    assert kinds == [NoticeKind.PLAIN_DECODING]


def test_an_answer_cancelled_before_its_first_token_is_no_turn() -> None:
    chat = Chat(byte_level())
    chat.say("hee")
    turns, ids = chat.talk.turns, chat.talk.token_ids
    events = list(chat.talk.reply("tee", GREEDY, lambda: True))
    assert finish_of(events).reason is FinishReason.CANCELLED
    assert (chat.talk.turns, chat.talk.token_ids) == (turns, ids)
    assert text_of(chat.say("tee")) == ANSWERS[1]


def test_an_error_in_the_middle_of_an_answer_keeps_what_was_said(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    chat = Chat(byte_level())
    answer = chat.talk.reply("hee", GREEDY)
    seen: list[Event] = []
    for event in answer:
        seen.append(event)
        if isinstance(event, Step):
            break

    def fail(*arguments: object, **options: object) -> Tensor:
        raise RuntimeError("out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(chat.talk._engine._target, "forward", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            next(answer)
    assert said_of(chat.talk.turns) == [("hee", text_of(seen))]
    assert text_of(chat.say("tee")) == ANSWERS[1]


def test_the_tree_can_be_changed_between_answers() -> None:
    chat = Chat(byte_level())
    assert len(steps_of(chat.say("hee"))[0].nodes) == 4
    chat.talk.choose_tree(TreeChoice(Mode.AR))
    assert chat.talk.tree_choice == TreeChoice(Mode.AR)
    assert {len(step.nodes) for step in steps_of(chat.say("tee"))} == {1}


@pytest.mark.parametrize(
    ("exact", "temperature", "mode", "told"),
    [
        (False, 0.0, Mode.SEQUOIA, 1),
        (False, 0.6, Mode.GREEDY, 1),
        (False, 0.6, Mode.SEQUOIA, 0),
        (False, 0.0, Mode.AR, 0),
        (True, 0.0, Mode.SEQUOIA, 0),
    ],
)
def test_rounding_is_mentioned_once_where_it_may_show(
    exact: bool, temperature: float, mode: Mode, told: int
) -> None:
    chat = Chat(byte_level(), exact=exact)
    chat.talk.choose_tree(TreeChoice(mode, GrowMap.chain(2)))
    params = SamplingParams(temperature=temperature, seed=1, max_new_tokens=4)
    kinds = [kind for prompt in ("hee", "tee") for kind in notices_of(chat.say(prompt, params))]
    assert kinds.count(NoticeKind.PRECISION) == told


def test_a_pair_without_a_draft_is_tuned_for_looking_up() -> None:
    chat = Chat(byte_level(), draft=False)
    memory, notice = chat.talk.tune(lambda: False)
    assert isinstance(memory, MemoryUse)
    assert isinstance(notice, Notice)
    assert (notice.kind, "prompt lookup" in notice.message) == (NoticeKind.CALIBRATION, True)
    assert {len(step.nodes) for step in steps_of(chat.say("hee"))} == {1}
