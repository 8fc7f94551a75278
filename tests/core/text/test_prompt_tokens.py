"""What a model reads is what its template renders, in a chat that went on or was opened again."""

import json
from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

from sequoia_core.config import SamplingParams
from sequoia_core.errors import ParameterError
from sequoia_core.text.chat_template import ChatTemplate, Turn, turn_ends
from sequoia_core.text.detokenizer import TokenizerCodec
from tests.core.chat.test_conversation import GREEDY, Chat, done_of
from tests.core.checkpoints import CHAT_TEMPLATE
from tests.core.engines import text_of, tokens_of
from tests.core.text.test_chat_template import read_back, rendered
from tests.core.tiny_tokenizers import (
    COUNTING_TEMPLATE,
    LLAMA2_TEMPLATE,
    LLAMA3_TEMPLATE,
    byte_level,
    embedded_tokenizer,
    sentencepiece_like,
)

REASONED = "{% if '</think>' in c %}{% set c = c.split('</think>')[-1] %}{% endif %}"
R1_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% set c = m['content'] %}"
    "{% if m['role'] == 'system' %}{{ c }}{% elif m['role'] == 'user' %}{{ '<|User|>' + c }}"
    "{% else %}" + REASONED + "{{ '<|Assistant|>' + c + '<|eot_id|>' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|Assistant|><think>\n' }}{% endif %}"
)
QWEN3_TEMPLATE = (
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set ns.last = loop.index0 %}{% endif %}{% endfor %}"
    "{% for m in messages %}{% set c = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in c and loop.index0 < ns.last %}"
    "{% set c = c.split('</think>')[-1].lstrip('\n') %}{% endif %}"
    "{{ '<|im_start|>' + m.role + '\n' + c + '<|eot_id|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}"
    "{{ '[INST] ' + m.content + ' [/INST]' }}{% elif m.role == 'assistant' %}"
    "{{ ' ' + m.content | trim + eos_token }}{% else %}"
    "{{ raise_exception('Only user and assistant roles are supported') }}{% endif %}{% endfor %}"
)
VICUNA_TEMPLATE = (
    "{% if messages[0].role == 'system' %}{{ messages[0].content + ' ' }}"
    "{% set messages = messages[1:] %}{% endif %}{% for m in messages %}"
    "{% if m.role == 'user' %}{{ 'USER: ' + m.content + ' ' }}"
    "{% else %}{{ 'ASSISTANT: ' + m.content + eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
ZEPHYR_TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}\n{{ '<|user|>\n' + m['content'] + "
    "eos_token }}\n{% elif m['role'] == 'system' %}\n{{ '<|system|>\n' + m['content'] + eos_token "
    "}}\n{% elif m['role'] == 'assistant' %}\n{{ '<|assistant|>\n' + m['content'] + eos_token }}\n"
    "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}"
    "\n{% endfor %}"
)
GUARD_TEMPLATE = (
    "{% for m in messages %}{% if m.content is not string %}{{ m.content[0].text }}{% endif %}"
    "{% endfor %}{{ 'assess it' }}"
)
LISTS_TEMPLATE = "{% for m in messages %}{{ m.role }}: {{ m.content[0]['text'] }}{% endfor %}"
FORGETFUL_TEMPLATE = "{{ bos_token }}{{ messages[-1]['role'] + messages[-1]['content'] }}:"

BYTE_LEVEL = {
    "llama 3": (LLAMA3_TEMPLATE, "<|eot_id|>"),
    "chatml": (CHAT_TEMPLATE.replace("<|im_end|>", "<|eot_id|>"), "<|eot_id|>"),
    "r1": (R1_TEMPLATE, "<|eot_id|>"),
    "qwen 3": (QWEN3_TEMPLATE, "<|eot_id|>"),
    "counting": (COUNTING_TEMPLATE, "<|eot_id|>"),
    "zephyr, byte level": (ZEPHYR_TEMPLATE, "<|end_of_text|>"),
    "none, byte level": (None, "<|end_of_text|>"),
    "forgetful": (FORGETFUL_TEMPLATE, "<|end_of_text|>"),
}
SENTENCEPIECE = {
    "llama 2": LLAMA2_TEMPLATE,
    "mistral": MISTRAL_TEMPLATE,
    "vicuna": VICUNA_TEMPLATE,
    "zephyr": ZEPHYR_TEMPLATE,
    "none of its own": None,
}
ANSWERS = ("the<think>\nhe</think>\n\nthe tree.", " tee \n", "he, then the\nthree")
PROMPTS = ("the?", " he\nhe ", "tee é", "t")


def tokenizer_of(name: str) -> tuple[Any, str]:
    """A tokenizer with a template, and the token that closes its answers."""
    if name == "smollm2":
        return embedded_tokenizer(), "<|im_end|>"
    if name in SENTENCEPIECE:
        return sentencepiece_like(SENTENCEPIECE[name]), "</s>"
    template, closing = BYTE_LEVEL[name]
    return byte_level(template), closing


def chat_of(name: str, answers: Sequence[str] = ANSWERS) -> Chat:
    tokenizer, closing = tokenizer_of(name)
    return Chat(tokenizer, closing, answers=answers)


@pytest.mark.parametrize(
    "name",
    [*BYTE_LEVEL, *SENTENCEPIECE, pytest.param("smollm2", marks=pytest.mark.embedded)],
)
@pytest.mark.parametrize("stop", [(), ("tre", "thr")], ids=["to the end", "to a stop string"])
def test_the_prompt_is_the_templates_whether_the_chat_went_on_or_was_opened_again(
    name: str, stop: tuple[str, ...]
) -> None:
    chat = chat_of(name)
    params = SamplingParams(temperature=0.0, max_new_tokens=60, stop=stop)
    for prompt in PROMPTS:
        turns, before = chat.talk.turns, chat.talk.token_ids
        opened = chat_of(name)
        opened.talk.restore(turns)
        assert opened.talk.token_ids == before
        events, again = chat.say(prompt, params), opened.say(prompt, params)
        ids = chat.prompt_ids(events)
        assert chat.tokenizer.decode(ids) == chat.rendered(turns, prompt)
        assert opened.prompt_ids(again) == ids
        assert tokens_of(again) == tokens_of(events)
        alike = next((at for at, pair in enumerate(zip(before, ids, strict=False))
                      if pair[0] != pair[1]), len(before))  # fmt: skip
        assert done_of(events).cached_tokens == min(alike, max(len(before) - 1, 0))


def test_a_full_window_drops_the_same_turns_in_a_chat_that_was_opened_again() -> None:
    """Also after a long message, which leaves room for fewer turns than the next one."""
    params = SamplingParams(temperature=0.0, max_new_tokens=20)
    grown, said = Chat(byte_level(), window=200), list[Turn]()
    for number, prompt in enumerate(("a", "b", "c", "d" * 70, "e", "f" * 40, "g", "h")):
        opened = Chat(byte_level(), window=200)
        opened.talk.restore(said)
        events, again = grown.say(prompt, params), opened.say(prompt, params)
        assert opened.prompt_ids(again) == grown.prompt_ids(events)
        assert opened.talk.turns == grown.talk.turns
        said.append(grown.talk.turns[-1])
        assert (len(grown.talk.turns) < len(said)) == (number > 2)


def test_reasoning_that_the_template_drops_is_not_read_again() -> None:
    chat = chat_of("r1", ["em</think>OZ"])
    for prompt in ("one", "two"):
        chat.say(prompt)
    text = chat.tokenizer.decode(chat.prompt_ids(chat.say("three")))
    assert text.count("OZ") == 2
    assert "em" not in text
    assert text.endswith("<|User|>three<|Assistant|><think>\n")


def test_an_answers_own_tokens_are_kept_as_far_as_they_read_like_the_text() -> None:
    tokenizer = byte_level(LLAMA3_TEMPLATE)
    eot = int(tokenizer.convert_tokens_to_ids("<|eot_id|>"))
    template = ChatTemplate(tokenizer, None, frozenset({eot}))
    letters = [int(tokenizer.convert_tokens_to_ids(letter)) for letter in "the"]
    space, e_acute = tokenizer.encode(" ", add_special_tokens=False), [0xC3, 0xA9]
    asked = template.whole([], "?")
    for answer, own, kept in (
        ("the", [*letters, eot], letters),
        ("the", [*letters, *space, *space], letters),
        ("he", letters, []),
        ("th", letters, letters[:2]),
        ("the é", [*letters, *space, *_bytes(tokenizer, e_acute)], None),
        ("the ", [*letters, *space, *_bytes(tokenizer, e_acute[:1])], letters),
    ):
        ids = template.whole([Turn("?", answer, tuple(own))], "!")
        assert tokenizer.decode(ids) == rendered(tokenizer, None, [Turn("?", answer)], "!")
        expected = own if kept is None else kept
        assert ids[len(asked) :][: len(expected)] == expected


def test_an_open_answer_ends_where_its_text_does_whatever_was_decoded_after_it() -> None:
    """An end of sequence, the rest of a stop string, or half a character."""
    tokenizer = byte_level(LLAMA3_TEMPLATE)
    eot = int(tokenizer.convert_tokens_to_ids("<|eot_id|>"))
    template = ChatTemplate(tokenizer, None, frozenset({eot}))
    letters = [int(tokenizer.convert_tokens_to_ids(letter)) for letter in "the"]
    half = _bytes(tokenizer, [0xC3])
    for answer, own, kept in (
        ("the", [*letters, eot], letters),
        ("the", [*letters, *half], letters),
        ("th", letters, letters[:2]),
        ("the", letters[:2], letters),
        ("tee", letters, None),
    ):
        opened = template.open_answer(Turn("?", answer, tuple(own)))
        assert tokenizer.decode(opened) == answer
        assert kept is None or opened == kept


@pytest.mark.parametrize("name", sorted({*BYTE_LEVEL, *SENTENCEPIECE} - {"forgetful"}))
@pytest.mark.parametrize("most", [1, 4, 9])
def test_an_answer_that_was_cut_goes_on_as_if_it_had_not_been(name: str, most: int) -> None:
    whole = chat_of(name)
    text = text_of(whole.say("the?"))
    chat = chat_of(name)
    cut = SamplingParams(temperature=0.0, max_new_tokens=most)
    chat.say("the?", cut)
    (turn,) = chat.talk.turns
    before = chat.talk.token_ids
    opened = chat_of(name)
    for talk in (chat.talk, opened.talk):  # at once, and in a chat that was opened again
        talk.restore(())
        events = list(talk.continue_answer(turn, GREEDY))
        assert turn.answer + text_of(events) == text
        assert talk.turns[-1].answer == text
        assert talk.token_ids == whole.talk.token_ids
        assert done_of(events).cached_tokens == (len(before) - 1 if talk is chat.talk else 0)
    after, again = chat.say("then?"), whole.say("then?")
    assert chat.prompt_ids(after) == whole.prompt_ids(again)


def test_an_edited_answer_goes_on_from_its_own_text() -> None:
    chat = chat_of("llama 3", ["the tree"])
    events = list(chat.talk.continue_answer(Turn("the?", "no, the t"), GREEDY))
    (turn,) = chat.talk.turns
    assert turn.answer == "no, the t" + text_of(events)
    assert chat.tokenizer.decode(chat.talk.token_ids).startswith(
        chat.rendered([], "the?") + "no, the t"
    )
    assert chat.tokenizer.decode(chat.prompt_ids(chat.say("then?"))) == chat.rendered(
        [turn], "then?"
    )


def test_a_text_alone_is_a_turn_even_if_nothing_is_added() -> None:
    chat = chat_of("llama 3")
    events = list(chat.talk.continue_answer(Turn("a", "the"), GREEDY, lambda: True))
    assert text_of(events) == ""
    assert [turn.answer for turn in chat.talk.turns] == ["the"]
    assert chat.tokenizer.decode(chat.prompt_ids(chat.say("b"))) == chat.rendered(
        [Turn("a", "the")], "b"
    )


@pytest.mark.parametrize("template", [GUARD_TEMPLATE, "{{ raise_exception('no') }}"])
def test_an_answer_that_the_template_cannot_hold_is_one_line(template: str) -> None:
    chat = Chat(byte_level(LLAMA3_TEMPLATE))
    chat.tokenizer.chat_template, kept = template, chat.tokenizer.chat_template
    try:
        with pytest.raises(ParameterError, match="chat template"):
            list(chat.talk.continue_answer(Turn("a", "b"), GREEDY))
    finally:
        chat.tokenizer.chat_template = kept
    with pytest.raises(ParameterError, match="no text"):
        list(chat.talk.continue_answer(Turn("a", ""), GREEDY))


def _bytes(tokenizer: Any, values: list[int]) -> list[int]:
    names = {0xC3: "Ã", 0xA9: "©"}
    return [int(tokenizer.convert_tokens_to_ids(names[value])) for value in values]


@pytest.mark.parametrize("template", [GUARD_TEMPLATE, LISTS_TEMPLATE, "nothing of it"])
def test_a_template_that_leaves_the_message_out_is_refused(template: str) -> None:
    chat = Chat(byte_level(LLAMA3_TEMPLATE))
    chat.say("hee")
    turns, ids = chat.talk.turns, chat.talk.token_ids
    chat.tokenizer.chat_template, kept = template, chat.tokenizer.chat_template
    try:
        with pytest.raises(ParameterError, match="leaves the message out"):
            chat.say("hello there")
    finally:
        chat.tokenizer.chat_template = kept
    assert (chat.talk.turns, chat.talk.token_ids) == (turns, ids)


def test_a_message_in_the_templates_own_words_is_not_the_message() -> None:
    """Llama-Guard's own text holds many a short message."""
    own = "Check the user's message for S1: hi and hello.<|eot_id|>"
    refused = ChatTemplate(byte_level(own), None)
    for prompt in ("hi", "S1", "?", "e"):
        with pytest.raises(ParameterError, match="leaves the message out"):
            refused.whole((), prompt)
    only_last = "{{ messages[-1].content }} is what the user said<|eot_id|>"
    with pytest.raises(ParameterError, match="leaves the system prompt out"):
        ChatTemplate(byte_level(only_last), "user").whole((), "hi")


def test_a_template_that_leaves_the_system_prompt_out_is_refused() -> None:
    chat = Chat(byte_level(R1_TEMPLATE.replace("{{ c }}", "")))
    chat.say("hee")
    turns = chat.talk.turns
    with pytest.raises(ParameterError, match="leaves the system prompt out"):
        chat.talk.set_system_prompt("be brief")
    assert chat.talk.turns == turns
    assert text_of(chat.say("tee"))


@pytest.mark.parametrize(
    "template",
    [
        None,
        "{{ bos_token + '' }}{% for m in messages %}{{ m.role + ': ' + m.content }}"
        "{% if m.role == 'assistant' %}{{ eos_token + '\n' }}{% endif %}{% endfor %}",
    ],
    ids=["built in", "its own"],
)
def test_a_model_without_ends_takes_a_second_message(template: str | None) -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level(None).backend_tokenizer, clean_up_tokenization_spaces=False
    )
    tokenizer.chat_template = template
    ids = ChatTemplate(tokenizer, None).whole([Turn("the", "hee")], "tee")
    text = tokenizer.decode(ids)
    assert text.index("the") < text.index("hee") < text.index("tee")


@pytest.mark.parametrize(
    ("text", "where"),
    [("\ud83d", "U\\+D83D"), ("a\udc80b", "U\\+DC80")],
)
@pytest.mark.parametrize("name", ["llama 3", "llama 2"])
def test_half_a_character_is_refused_and_nothing_is_lost(name: str, text: str, where: str) -> None:
    chat = chat_of(name)
    chat.say("hee")
    turns, ids = chat.talk.turns, chat.talk.token_ids
    with pytest.raises(ParameterError, match=where):
        chat.say(text)
    with pytest.raises(ParameterError, match=where):
        chat.talk.set_system_prompt(text)
    assert (chat.talk.turns, chat.talk.token_ids) == (turns, ids)
    assert done_of(chat.say("tee")).cached_tokens >= len(ids) - 2


def test_a_token_without_a_row_in_the_embedding_is_refused_and_nothing_is_lost() -> None:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=byte_level().backend_tokenizer, eos_token="<|eot_id|>"
    )
    tokenizer.chat_template = LLAMA3_TEMPLATE
    chat = Chat(tokenizer)
    rows = len(tokenizer)
    tokenizer.add_tokens(["<pad>"])
    chat.say("hee")
    turns = chat.talk.turns
    with pytest.raises(ParameterError, match=rf"token {rows} \('<pad>'\), but .* {rows} rows"):
        chat.say("what is <pad>?")
    assert chat.talk.turns == turns
    assert text_of(chat.say("tee"))


def with_closing(special: bool | None) -> Any:
    """A tokenizer whose template closes with a token that is special, added, or neither."""
    backend = byte_level().backend_tokenizer
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    if special is not None:
        token = AddedToken("<end_of_turn>", special=special, normalized=False)
        tokenizer.backend_tokenizer.add_tokens([token])
    tokenizer.chat_template = LLAMA3_TEMPLATE.replace("<|eot_id|>", "<end_of_turn>")
    return tokenizer


@pytest.mark.parametrize("special", [True, False])
def test_the_templates_closing_is_an_end_and_no_text(special: bool) -> None:
    tokenizer = with_closing(special)
    token = tokenizer.convert_tokens_to_ids("<end_of_turn>")
    ends = turn_ends(tokenizer, frozenset({5}))
    assert ends == {5, token}
    ids = tokenizer.encode("the", add_special_tokens=False)
    assert TokenizerCodec(tokenizer, ends).decode([*ids, token]) == "the"


def test_a_closing_that_is_an_ordinary_token_is_an_end() -> None:
    """A model can write it, although its tokenizer never does."""
    state = json.loads(byte_level().backend_tokenizer.to_str())
    state["added_tokens"] = []
    token = state["model"]["vocab"]["<end_of_turn>"] = len(state["model"]["vocab"])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(state)))
    tokenizer.chat_template = LLAMA3_TEMPLATE.replace("<|eot_id|>", "<end_of_turn>")
    assert turn_ends(tokenizer, frozenset()) == {token}
    assert TokenizerCodec(tokenizer, frozenset({token})).decode([token]) == ""


@pytest.mark.parametrize("template", ["<|eot_id|> of no message", "{{ 1 // 0 }}<|eot_id|>"])
def test_without_an_answer_there_is_no_closing(template: str) -> None:
    assert ChatTemplate(byte_level(template), None).closing_id() is None


def test_a_closing_that_is_spelt_out_is_no_token() -> None:
    assert turn_ends(with_closing(None), frozenset({5})) == {5}


def test_the_end_that_only_the_tokenizer_names_is_an_end() -> None:
    tokenizer = byte_level("{% for m in messages %}{{ m.role + m.content }}\n{% endfor %}")
    named = tokenizer.convert_tokens_to_ids("<|end_of_text|>")
    assert turn_ends(tokenizer, frozenset()) == {named}


def test_what_is_read_back_is_compared_as_the_tokenizer_spells_it() -> None:
    """The comparison above would be empty if it allowed for more than spaces."""
    assert read_back(byte_level(), "<|eot_id|>the") == "<|eot_id|>the"
    assert GREEDY.temperature == 0.0
