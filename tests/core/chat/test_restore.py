"""A chat that is taken up again goes on as if it had never been left, and reads nothing twice."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from sequoia_core.chat.conversation import Conversation
from sequoia_core.config import SamplingParams
from sequoia_core.errors import ParameterError
from sequoia_core.events import FinishReason, NoticeKind, PairDescription
from sequoia_core.model.interface import KVCache
from sequoia_core.model.loading.pair import Pair
from sequoia_core.text.chat_template import ChatTemplate, Turn
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.chat.test_conversation import (
    CLOSING,
    CUT_SHORT,
    FAMILIES,
    FINGERPRINTS,
    MAKERS,
    Chat,
    done_of,
    notices_of,
    said_of,
)
from tests.core.engines import finish_of, text_of, tokens_of
from tests.core.models import tiny_llama
from tests.core.text.test_chat_template import (
    EXTENDABLE,
    WORDS,
    Maker,
    answer_ids,
    continued,
    rendered,
)
from tests.core.tiny_tokenizers import COUNTING_TEMPLATE, byte_level, sentencepiece_like

PROMPTS = ("the?", "he\nhe", "tee é", "t")


def chat_of(family: str) -> Chat:
    return Chat(MAKERS[family](), CLOSING[family], system="be the one")


def bare(turns: Sequence[Turn]) -> list[Turn]:
    """The turns as a file of text holds them."""
    return [Turn(prompt, answer) for prompt, answer in said_of(turns)]


def shared(one: Sequence[int], other: Sequence[int]) -> int:
    """Length of the common prefix; these are never prefixes of each other."""
    return next(at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)


@FAMILIES
@pytest.mark.parametrize("kept", range(len(PROMPTS)))
def test_another_branch_reads_only_what_it_does_not_share(family: str, kept: int) -> None:
    """The KV prefix of the shared turns is reused to the token, and what follows is the same."""
    chat = chat_of(family)
    ledgers = [chat.talk.token_ids]
    for prompt in PROMPTS:
        chat.say(prompt)
        ledgers.append(chat.talk.token_ids)
    turns = chat.talk.turns
    chat.talk.restore(turns[:kept])
    assert (chat.talk.turns, chat.talk.token_ids) == (turns[:kept], ledgers[kept])
    events = chat.say("hen?")
    fresh = chat_of(family)
    for prompt in PROMPTS[:kept]:
        fresh.say(prompt)
    assert tokens_of(events) == tokens_of(fresh.say("hen?"))
    ids = chat.prompt_ids(events)
    assert ids == fresh.prompt_ids(events)
    common = shared(ids, ledgers[-1])
    assert common >= len(ledgers[kept]) - 1
    assert (done_of(events).prompt_tokens, done_of(events).cached_tokens) == (len(ids), common)


@FAMILIES
def test_the_same_prompt_again_is_not_read_again_at_all(family: str) -> None:
    chat = chat_of(family)
    for prompt in PROMPTS[:2]:
        chat.say(prompt)
    asked = chat.say(PROMPTS[2])
    chat.talk.restore(chat.talk.turns[:-1])
    again = chat.say(PROMPTS[2])
    assert tokens_of(again) == tokens_of(asked)
    done = done_of(again)
    assert done.cached_tokens == done.prompt_tokens - 1  # the last one is the tree's root


@FAMILIES
def test_going_back_to_the_first_branch_reads_only_its_own_part(family: str) -> None:
    chat = chat_of(family)
    for prompt in PROMPTS[:3]:
        chat.say(prompt)
    first, ids = chat.talk.turns, chat.talk.token_ids
    chat.talk.restore(first[:1])
    chat.say("hen, hen?")
    other = chat.talk.token_ids
    chat.talk.restore(first)
    assert (chat.talk.turns, chat.talk.token_ids) == (first, ids)
    events = chat.say(PROMPTS[3])
    assert done_of(events).cached_tokens == shared(chat.prompt_ids(events), other) > 0


@FAMILIES
@CUT_SHORT
def test_an_answer_that_was_cut_short_is_restored_as_it_was_decoded(family: str, how: str) -> None:
    chat = Chat(MAKERS[family](), CLOSING[family], answers=["the tree, the hen, the tent, the end"])
    chat.cut_short(how)
    turns, ids = chat.talk.turns, chat.talk.token_ids
    assert turns
    assert turns[0].answer_ids
    chat.talk.restore([])
    assert (chat.talk.turns, chat.talk.token_ids) == ((), ())
    chat.talk.restore(turns)
    assert (chat.talk.turns, chat.talk.token_ids) == (turns, ids)
    events = chat.say("tee")
    assert chat.tokenizer.decode(chat.prompt_ids(events)) == chat.rendered(bare(turns), "tee")
    if how != "stop string":  # its tokens are not in the answer's text, so they are not read again
        assert done_of(events).cached_tokens == len(ids) - 1


@FAMILIES
def test_turns_without_tokens_are_tokenized_again(family: str) -> None:
    """A file of plain text is enough; these answers happen to be tokenized as they were decoded."""
    chat = chat_of(family)
    for prompt in PROMPTS[:3]:
        chat.say(prompt)
    turns, ids = chat.talk.turns, chat.talk.token_ids
    chat.talk.restore(bare(turns))
    closed = ids[:-1] if ids[-1] == chat.closing_id else ids
    assert chat.talk.token_ids == closed
    events = chat.say(PROMPTS[3])
    assert chat.tokenizer.decode(chat.prompt_ids(events)) == chat.rendered(bare(turns), PROMPTS[3])
    assert done_of(events).cached_tokens == len(closed)


def test_tokens_are_kept_even_where_the_text_is_tokenized_otherwise() -> None:
    tokenizer = byte_level()
    letters = [int(tokenizer.convert_tokens_to_ids(letter)) for letter in "the"]
    assert tokenizer.encode("the", add_special_tokens=False) != letters
    chat = Chat(tokenizer)
    chat.talk.restore([Turn("a", "the", tuple(letters))])
    assert list(chat.talk.token_ids[-3:]) == letters
    chat.talk.restore([Turn("a", "the")])
    assert list(chat.talk.token_ids[-3:]) != letters


@pytest.mark.parametrize("ids", [(5, 6), (-1,), (1_000_000,)], ids=["others", "negative", "large"])
@pytest.mark.parametrize("answer", ["the", ""])
def test_tokens_that_do_not_read_as_the_answer_are_another_pairs(
    ids: tuple[int, ...], answer: str
) -> None:
    chat, plain = Chat(byte_level()), Chat(byte_level())
    chat.talk.restore([Turn("a", answer, ids)])
    plain.talk.restore([Turn("a", answer)])
    assert chat.talk.token_ids == plain.talk.token_ids
    assert tokens_of(chat.say("b")) == tokens_of(plain.say("b"))


@EXTENDABLE
@given(prompts=st.lists(WORDS, min_size=1, max_size=4), answer=WORDS, system=st.none() | WORDS)
@settings(max_examples=15, deadline=None)
def test_a_ledger_made_at_once_is_the_one_that_grew(
    make: Maker, prompts: list[str], answer: str, system: str | None
) -> None:
    """Also where the answers are known as text only, if they are tokenized as they were decoded."""
    tokenizer = make()
    template = ChatTemplate(tokenizer, system)
    grown, turns = list[int](), list[Turn]()
    for prompt in prompts:
        added = continued(template, turns, prompt) if turns else template.whole([], prompt)
        assert added is not None
        asked = rendered(tokenizer, system, turns, prompt)
        answered = rendered(tokenizer, system, [*turns, Turn(prompt, answer)], "?")
        said = answer_ids(tokenizer, answered[len(asked) :].partition(answer)[0] + answer)
        grown += added
        assert template.whole(turns, prompt) == template.whole(bare(turns), prompt) == grown
        grown += said
        turns.append(Turn(prompt, answer, tuple(said)))
        assert template.answered(turns) == template.answered(bare(turns)) == grown


@pytest.mark.parametrize("known", [True, False])
def test_a_template_that_rewrites_the_past_goes_on_all_the_same(known: bool) -> None:
    chat, fresh = (Chat(byte_level(COUNTING_TEMPLATE)) for _ in range(2))
    for prompt in PROMPTS[:3]:
        chat.say(prompt)
        fresh.say(prompt)
    turns = chat.talk.turns
    chat.talk.restore(turns if known else bare(turns))
    again, events = chat.say("hen"), fresh.say("hen")
    assert chat.prompt_ids(again) == fresh.prompt_ids(events)
    assert tokens_of(again) == tokens_of(events)


def test_nothing_is_changed_by_turns_that_the_template_refuses() -> None:
    chat = Chat(sentencepiece_like(), "</s>")
    chat.say("hee")
    turns, ids = chat.talk.turns, chat.talk.token_ids
    refuses = "{% if messages | length > 2 %}{{ raise_exception('too much') }}{% endif %}"
    template = chat.tokenizer.chat_template
    chat.tokenizer.chat_template = refuses + str(template)
    try:
        with pytest.raises(ParameterError, match="too much"):
            chat.talk.restore([*turns, *turns])
    finally:
        chat.tokenizer.chat_template = template
    assert (chat.talk.turns, chat.talk.token_ids) == (turns, ids)


@given(count=st.integers(8, 60), window=st.integers(170, 260))
@settings(max_examples=15, deadline=None)
def test_a_chat_longer_than_the_window_is_restored_and_loses_its_oldest_turns(
    count: int, window: int
) -> None:
    """As few as needed, told in one notice, however many they are."""
    chat = Chat(byte_level(), window=window, system="keep me")
    turns = [Turn(f"{at}" + "e" * (at % 7), "he, the hen") for at in range(count)]
    chat.talk.restore(turns)
    events = chat.say("tee")
    assert notices_of(events).count(NoticeKind.CONTEXT_TRIMMED) == 1
    assert finish_of(events).reason is FinishReason.STOP
    kept = list(chat.talk.turns)
    assert said_of(kept) == [*said_of(turns[count - len(kept) + 1 :]), ("tee", text_of(events))]
    more = chat.rendered(turns[count - len(kept) :], "tee")
    tokens = len(chat.tokenizer.encode(more, add_special_tokens=False))
    assert tokens + min(60, window // 4) > window


class Counting:
    """A real conversation of two small models, and how many prompt tokens the target has read."""

    def __init__(self) -> None:
        tokenizer = byte_level()
        vocab = len(tokenizer)
        sizes = {"vocab_size": vocab, "head_vocab_size": vocab, "context_window": 512}
        target, draft = (tiny_llama(seed, **sizes) for seed in (1, 2))
        self.read = 0
        extend = target.extend

        def counted(token_ids: Tensor, cache: KVCache) -> None:
            self.read += len(token_ids)
            extend(token_ids, cache)

        target.extend = counted  # type: ignore[method-assign]
        self.talk = Conversation(
            Pair(
                target=target,
                draft=draft,
                draft_vocab_ids=None,
                tokenizer=tokenizer,
                eos_token_ids=frozenset({int(tokenizer.convert_tokens_to_ids("<|eot_id|>"))}),
                description=PairDescription("tiny", "tiny", "cpu", "float32", 512),
                fingerprint=f"restore-{next(FINGERPRINTS)}",
                acceptance_rates={},
            ),
            tree_choice=TreeChoice(growmap=GrowMap.k_ary([2, 2])),
        )


@given(st.lists(st.tuples(st.integers(0, 9), st.text("the ", min_size=1).filter(str.strip)),
                min_size=1, max_size=5))  # fmt: skip
@settings(max_examples=12, deadline=None)
def test_on_every_branch_a_real_model_answers_as_if_it_had_never_been_elsewhere(
    moves: list[tuple[int, str]],
) -> None:
    """Greedy in float32, tree and all; the target reads each prompt token once, if it must."""
    chat, branches = Counting(), [tuple[Turn, ...]()]
    held = tuple[int, ...]()
    params = SamplingParams(temperature=0.0, max_new_tokens=7)
    for number, prompt in moves:
        turns = branches[number % len(branches)]
        chat.talk.restore(turns)
        before = chat.read
        events = list(chat.talk.reply(prompt, params))
        fresh = Counting()
        fresh.talk.restore(turns)
        assert tokens_of(events) == tokens_of(list(fresh.talk.reply(prompt, params)))
        assert chat.talk.token_ids == fresh.talk.token_ids
        ids = chat.talk.token_ids
        done = done_of(events)
        asked = ids[: done.prompt_tokens - 1]
        common = next((at for at, (a, b) in enumerate(zip(asked, held, strict=False)) if a != b),
                      min(len(asked), len(held)))  # fmt: skip
        assert done.cached_tokens == common
        assert chat.read - before == done.prompt_tokens - 1 - done.cached_tokens
        held = ids[:-1]  # the last token is not read yet
        branches.append(chat.talk.turns)
