"""A corpus keeps what was put in, knows answers from questions, and loses loops only."""

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerBase

from sequoia_core.distill.corpus import GRAM, AnswerMarks, Corpus, load_corpus, usable_length
from sequoia_core.errors import ParameterError
from sequoia_core.text.chat_template import ChatTemplate, Turn
from tests.core.checkpoints import tiny_tokenizer
from tests.core.text.test_chat_template import continued
from tests.core.tiny_tokenizers import LLAMA2_TEMPLATE, byte_level, sentencepiece_like

Conversation = tuple[list[int], list[bool]]


def made(conversations: Sequence[Conversation], vocab_size: int = 90) -> Corpus:
    return Corpus.of(conversations, vocab_size)


def conversations_of(corpus: Corpus) -> list[Conversation]:
    return [(ids.tolist(), answers.tolist()) for ids, answers in corpus]


def random_text(rng: random.Random, length: int) -> Conversation:
    """Few tokens and copied stretches, so that phrases come again."""
    ids = [rng.randrange(4) for _ in range(length)]
    for _ in range(length // 30):
        source, target = rng.randrange(length), rng.randrange(length)
        width = min(rng.randrange(30), length - max(source, target))
        ids[target : target + width] = ids[source : source + width]
    return ids, [at > length // 3 for at in range(length)]


@given(st.lists(st.lists(st.tuples(st.integers(0, 89), st.booleans()), min_size=1), max_size=5))
def test_conversations_come_out_as_they_were_put_in(rows: list[list[tuple[int, bool]]]) -> None:
    texts = [([token for token, _ in row], [mark for _, mark in row]) for row in rows]
    corpus = made(texts)
    assert len(corpus) == len(texts)
    assert conversations_of(corpus) == texts
    order = list(range(len(texts)))[::-1]
    assert conversations_of(corpus.select(order)) == texts[::-1]


@pytest.mark.parametrize(("vocab_size", "kind"), [(1 << 16, np.uint16), (128_256, np.uint32)])
def test_a_file_holds_what_was_saved(tmp_path: Path, vocab_size: int, kind: type) -> None:
    corpus = made([([vocab_size - 1, 2], [False, True]), ([3], [True])], vocab_size)
    corpus.save(tmp_path / "text.npz")
    loaded = load_corpus(tmp_path / "text.npz", AnswerMarks((), frozenset()))
    assert loaded.tokens.dtype == kind
    assert conversations_of(loaded) == conversations_of(corpus)
    assert [file.name for file in tmp_path.iterdir()] == ["text.npz"]


def test_a_damaged_or_foreign_file_is_refused_in_one_line(tmp_path: Path) -> None:
    file, marks = tmp_path / "text.npz", AnswerMarks((1,), frozenset({2}))
    with pytest.raises(ParameterError, match="cannot be read"):
        load_corpus(file, marks)
    file.write_bytes(b"PK\x03\x04 nonsense")
    with pytest.raises(ParameterError, match="cannot be read"):
        load_corpus(file, marks)
    np.save(tmp_path / "bare.npy", np.arange(3))
    with pytest.raises(ParameterError, match="cannot be read"):
        load_corpus(tmp_path / "bare.npy", marks)
    with file.open("wb") as opened:
        np.savez(opened, tokens=np.zeros(3, np.uint16))
    with pytest.raises(ParameterError, match="no array called offsets"):
        load_corpus(file, marks)
    with file.open("wb") as opened:
        np.savez(opened, tokens=np.array([{}], dtype=object), offsets=np.array([0]))
    with pytest.raises(ParameterError, match="cannot be read"):
        load_corpus(file, marks)
    for tokens, offsets, says in (
        (np.arange(4, dtype=np.uint16), [0, 3, 2], "offsets"),
        (np.arange(4, dtype=np.uint16), [1], "offsets"),
        (np.arange(4, dtype=np.int64), [0], "uint16"),
        (np.zeros(4, np.uint16), [0], "no answer"),
    ):
        with file.open("wb") as opened:
            np.savez(opened, tokens=tokens, offsets=np.array(offsets))
        with pytest.raises(ParameterError, match=says):
            load_corpus(file, marks)


@pytest.mark.parametrize(
    ("tokenizer", "end"),
    [
        (tiny_tokenizer(first="a"), "<|im_end|>"),
        (byte_level(), "<|eot_id|>"),
        (sentencepiece_like(LLAMA2_TEMPLATE), "</s>"),
    ],
    ids=["chatml", "llama3", "llama2"],
)
def test_answers_are_found_by_their_header_alone(
    tokenizer: PreTrainedTokenizerBase, end: str, tmp_path: Path
) -> None:
    template = ChatTemplate(tokenizer, None)
    closing = int(tokenizer.convert_tokens_to_ids(end))
    marks = AnswerMarks.of(tokenizer, [closing])
    first = template.whole([], "the cat")
    more = continued(template, [Turn("the cat", "he ate")], "where")
    assert more is not None
    between = more[more.index(closing) + 1 :]
    answer, again = ids_of(tokenizer, "he ate"), ids_of(tokenizer, "there")
    ids = [*first, *answer, closing, *between, *again]
    expected = [False] * len(first) + [True] * (len(answer) + 1)
    expected += [False] * len(between) + [True] * len(again)
    assert marks.answers(ids).tolist() == expected
    tokens = np.array(ids + ids, np.uint32)
    for offsets in ([0, len(ids)], [0, len(ids), len(tokens)]):  # some files name the end too
        np.savez(tmp_path / "bare.npz", tokens=tokens, offsets=np.array(offsets))
        loaded = load_corpus(tmp_path / "bare.npz", marks)
        assert conversations_of(loaded) == [(ids, expected)] * 2


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


def test_what_is_held_out_follows_from_the_seed_alone() -> None:
    corpus = made([([at], [True]) for at in range(40)])
    apart = corpus.held_out(10, 3)
    assert apart == sorted(set(apart))
    assert len(apart) == 10
    assert corpus.held_out(10, 3) == apart != corpus.held_out(10, 4)
    for count in (0, 40, 41):
        with pytest.raises(ParameterError, match="generate more"):
            corpus.held_out(count, 0)


def test_conversations_with_one_prompt_are_held_out_together() -> None:
    prompts = [at % 7 for at in range(40)]
    corpus = made([([prompt, 50 + at], [False, True]) for at, prompt in enumerate(prompts)])
    apart = corpus.held_out(10, 3)
    assert 10 <= len(apart) <= 15
    assert not {prompts[at] for at in apart} & {prompts[at] for at in range(40) if at not in apart}
    alike = made([([1, at], [False, True]) for at in range(40)])
    with pytest.raises(ParameterError, match="generate more"):
        alike.held_out(1, 3)


def repeated_share(ids: Sequence[int]) -> float:
    """By the definition."""
    phrases = [tuple(ids[at : at + GRAM]) for at in range(len(ids) - GRAM + 1)]
    seen = [phrase in phrases[:at] for at, phrase in enumerate(phrases)]
    return sum(seen) / len(seen) if seen else 0.0


@pytest.mark.parametrize("limit", [0.0, 0.1, 0.3])
def test_what_is_left_is_the_longest_beginning_below_the_limit(limit: float) -> None:
    rng = random.Random(1)
    texts = [random_text(rng, rng.randrange(2, 200)) for _ in range(30)]
    looping = [list(range(20)) + [at % 5 for at in range(100)] for _ in range(3)]
    texts += [(ids, [at > 4 for at in range(len(ids))]) for ids in looping]
    texts += [([*ids, 7, 8], [*marks, False, False]) for ids, marks in texts[:10]]
    cut = 0
    for ids, marks in texts:
        ends = [0]
        ends += [at for at in range(2, len(ids) + 1) if marks[at - 1]]
        ends = [at for at in ends if repeated_share(ids[:at]) <= limit]
        left = usable_length(ids, marks, limit)
        assert left == ends[-1]
        assert usable_length(ids[:left], marks[:left], limit) == left
        cut += left < len(ids) - 2
    assert 0 < cut < len(texts)


def test_nothing_is_left_without_an_answer_that_follows_something() -> None:
    assert usable_length([7] * 40 + list(range(40)), [False] * 60 + [True] * 20, 0.1) == 0
    assert usable_length([3, 4], [True, False]) == 0
    assert usable_length([3], [True]) == 0
    assert usable_length([], []) == 0
