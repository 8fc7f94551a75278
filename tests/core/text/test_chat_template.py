"""A chat that is extended turn by turn reads like the template's own rendering of it."""

import copy
import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from sequoia_core.errors import ParameterError
from sequoia_core.text.chat_template import PLAIN_TEMPLATE, ChatTemplate, Turn, turn_ends
from tests.core.tiny_tokenizers import (
    COUNTING_TEMPLATE,
    LLAMA3_TEMPLATE,
    byte_level,
    embedded_tokenizer,
    sentencepiece_like,
)

Maker = Callable[[], PreTrainedTokenizerBase]
TEMPLATES: dict[str, Maker] = {
    "llama 2": sentencepiece_like,
    "llama 3": byte_level,
    "llama 3 on sentencepiece": lambda: sentencepiece_like(LLAMA3_TEMPLATE),
    "none of its own": lambda: sentencepiece_like(None),
    "none, byte level": lambda: byte_level(None),
    "smollm2": embedded_tokenizer,
}
EXTENDABLE = pytest.mark.parametrize(
    "make",
    [
        pytest.param(make, marks=pytest.mark.embedded) if name == "smollm2" else make
        for name, make in TEMPLATES.items()
    ],
    ids=list(TEMPLATES),
)
WORDS = st.text("the é\n?.", min_size=1, max_size=12).map(str.strip).filter(bool)


def rendered(
    tokenizer: PreTrainedTokenizerBase, system: str | None, turns: list[Turn], prompt: str
) -> str:
    """The template's own text of a whole chat."""
    messages = [{"role": "system", "content": system}] if system else []
    for turn in turns:
        messages += [
            {"role": "user", "content": turn.prompt},
            {"role": "assistant", "content": turn.answer},
        ]
    text = tokenizer.apply_chat_template(
        [*messages, {"role": "user", "content": prompt}],
        chat_template=None if tokenizer.chat_template else PLAIN_TEMPLATE,
        add_generation_prompt=True,
        tokenize=False,
    )
    return str(text)


def continued(template: ChatTemplate, turns: list[Turn], prompt: str) -> list[int] | None:
    """Ids after the last answer, or None if the template does not extend what it rendered."""
    said, ids = template.answered(turns), template.whole(turns, prompt)
    return ids[len(said) :] if ids[: len(said)] == said else None


def read_back(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    """Sentencepiece's old form puts a space after each special token."""
    return str(tokenizer.decode(tokenizer.encode(text, add_special_tokens=False)))


@EXTENDABLE
@given(
    prompts=st.lists(WORDS, min_size=2, max_size=4),
    answer=WORDS,
    system=st.none() | WORDS,
)
@settings(max_examples=25, deadline=None)
def test_extended_ids_read_like_the_whole_chat(
    make: Maker, prompts: list[str], answer: str, system: str | None
) -> None:
    tokenizer = make()
    template = ChatTemplate(tokenizer, system)
    ids, turns = template.whole([], prompts[0]), list[Turn]()
    assert tokenizer.decode(ids) == read_back(
        tokenizer, rendered(tokenizer, system, [], prompts[0])
    )
    for prompt, following in itertools.pairwise(prompts):
        whole = rendered(tokenizer, system, [*turns, Turn(prompt, answer)], following)
        so_far = rendered(tokenizer, system, turns, prompt)
        assert whole.startswith(so_far)
        said = whole[len(so_far) :].partition(answer)[0] + answer  # as the template spaces it
        turns.append(Turn(prompt, answer))
        added = continued(template, turns, following)
        assert added is not None
        ids += answer_ids(tokenizer, said) + added
        assert tokenizer.decode(ids) == read_back(tokenizer, whole)


def answer_ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """As a model goes on: sentencepiece's own space before a text is no part of it."""
    anchor = tokenizer.encode("\n", add_special_tokens=False)
    return list(tokenizer.encode("\n" + text, add_special_tokens=False)[len(anchor) :])


@EXTENDABLE
@given(prompt=WORDS, answer=WORDS, before=st.none() | WORDS, system=st.none() | WORDS)
@settings(max_examples=25, deadline=None)
def test_an_open_answer_reads_like_the_chat_up_to_where_its_text_ends(
    make: Maker, prompt: str, answer: str, before: str | None, system: str | None
) -> None:
    """As transformers renders it with `continue_final_message`."""
    tokenizer = make()
    template, turns = ChatTemplate(tokenizer, system), [Turn(before, "tee")] if before else []
    ids = [*template.whole(turns, prompt), *template.open_answer(Turn(prompt, answer))]
    messages = [{"role": "system", "content": system}] if system else []
    for turn in [*turns, Turn(prompt, answer)]:
        messages += [
            {"role": "user", "content": turn.prompt},
            {"role": "assistant", "content": turn.answer},
        ]
    wanted = tokenizer.apply_chat_template(
        messages,
        chat_template=None if tokenizer.chat_template else PLAIN_TEMPLATE,
        continue_final_message=True,
        tokenize=False,
    )
    assert tokenizer.decode(ids) == read_back(tokenizer, str(wanted))


@pytest.mark.parametrize("text", ["the tee ", " the\n", "the\n\n", "  he", "th\u00e9"])
@EXTENDABLE
def test_an_open_answer_keeps_its_blanks(make: Maker, text: str) -> None:
    tokenizer = make()
    template = ChatTemplate(tokenizer, None)
    asked, opened = template.whole([], "?"), template.open_answer(Turn("?", text))
    assert tokenizer.decode([*asked, *opened]).endswith(text)
    own = tuple(answer_ids(tokenizer, text))
    assert template.open_answer(Turn("?", text, own))[-len(own) :] == list(own)


@EXTENDABLE
def test_an_answer_is_closed_once(make: Maker) -> None:
    tokenizer = make()
    template, turns = ChatTemplate(tokenizer, None), [Turn("the", "tee")]
    added = continued(template, turns, "hee")
    assert added is not None
    text = tokenizer.decode(added)
    closing = next(
        token for token in ("<|eot_id|>", "<|im_end|>", "</s>", "<|end_of_text|>") if token in text
    )
    assert text.lstrip().startswith(closing)
    whole = rendered(tokenizer, None, turns, "hee").partition("tee")[2]
    assert text.count(closing) == whole.count(closing)


def test_a_template_that_rewrites_the_past_is_not_extended() -> None:
    template = ChatTemplate(byte_level(COUNTING_TEMPLATE), None)
    assert continued(template, [Turn("a", "b")], "c") is None


def test_a_template_that_does_not_show_the_answer_as_it_is_is_not_extended() -> None:
    hides = (
        "{% for m in messages %}"
        "{{ m.content if m.role == 'user' else m.content | length | string }}.{% endfor %}"
    )
    template = ChatTemplate(byte_level(hides), None)
    assert continued(template, [Turn("a", "b")], "c") is None


def test_a_template_that_refuses_gives_one_clear_error() -> None:
    refuses = "{{ raise_exception('System role not supported') }}"
    template = ChatTemplate(byte_level(refuses), "be brief")
    with pytest.raises(ParameterError, match="System role not supported"):
        template.whole([], "hello")


def test_without_a_template_of_its_own_the_text_begins_with_the_models_first_token() -> None:
    tokenizer = sentencepiece_like(None)
    assert ChatTemplate(tokenizer, None).whole([], "hi")[0] == tokenizer.bos_token_id


def test_a_system_prompt_comes_before_everything() -> None:
    tokenizer = byte_level()
    text = tokenizer.decode(ChatTemplate(tokenizer, "be brief").whole([Turn("a", "b")], "c"))
    assert text.index("be brief") < text.index("a<|eot_id|>") < text.index("c<|eot_id|>")


# how each family's own template lays a chat out, and what ends a turn
LAYOUTS = {
    "gemma": ("<start_of_turn>", "\n", "<end_of_turn>", "model"),
    "chatml": ("<|im_start|>", "\n", "<|im_end|>", "assistant"),
    "phi": ("<|", "|>\n", "<|end|>", "assistant"),
    "granite": ("<|start_of_role|>", "<|end_of_role|>", "<|end_of_text|>", "assistant"),
}


def laid_out(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer whose template closes a turn as a family does; Gemma's has no system role."""
    opens, after, closes, answerer = LAYOUTS[name]
    refusal = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
    template = (
        (refusal if name == "gemma" else "") + "{{ bos_token }}{% for message in messages %}"
        f"{{{{ '{opens}' + message.role.replace('assistant', '{answerer}') + {after!r} "
        f"+ message.content.strip() + '{closes}\n' }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ '{opens}{answerer}' + {after!r} }}}}{{% endif %}}"
    )
    tokenizer = copy.deepcopy(byte_level())
    tokenizer.add_special_tokens({"additional_special_tokens": [closes]})
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_family_ends_its_turns_by_its_own_token_and_by_those_it_states(name: str) -> None:
    tokenizer = laid_out(name)
    closing = tokenizer.convert_tokens_to_ids(LAYOUTS[name][2])
    assert turn_ends(tokenizer, frozenset({5, 7})) == {closing, tokenizer.eos_token_id, 5, 7}


@pytest.mark.parametrize("name", LAYOUTS)
def test_an_answer_that_its_turns_end_closes_is_closed_once(name: str) -> None:
    tokenizer = laid_out(name)
    closing = tokenizer.convert_tokens_to_ids(LAYOUTS[name][2])
    template = ChatTemplate(tokenizer, None, turn_ends(tokenizer, frozenset()))
    answer = (*tokenizer.encode("fine", add_special_tokens=False), closing)
    text = tokenizer.decode(template.whole([Turn("how?", "fine", answer)], "why?"))
    assert text == rendered(tokenizer, None, [Turn("how?", "fine")], "why?")


def test_a_template_without_a_system_role_has_it_before_the_first_message() -> None:
    tokenizer = laid_out("gemma")
    template = ChatTemplate(tokenizer, "be brief")
    text = tokenizer.decode(template.whole([Turn("a", "b")], "c"))
    assert text == rendered(tokenizer, None, [Turn("be brief\n\na", "b")], "c")
    assert tokenizer.decode(template.whole([], "c")) == rendered(
        tokenizer, None, [], "be brief\n\nc"
    )
