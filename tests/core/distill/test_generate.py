"""The target's own text: drawn as it says, the same whatever interrupts it, cut where it loops."""

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, islice, repeat
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import chisquare

from sequoia_core.chat_template import ChatTemplate, Turn
from sequoia_core.distill.corpus import GRAM, AnswerMarks, Corpus
from sequoia_core.distill.dialogue import Dialogue, Lengths
from sequoia_core.distill.generate import (
    MOST_ROWS,
    TextStore,
    Writer,
    WritingPlan,
    draw_tokens,
    rows_for,
)
from sequoia_core.distill.pieces import OPENINGS, Pieces
from sequoia_core.errors import ModelLoadError, ParameterError
from sequoia_core.model.llama import Llama
from sequoia_core.model.native.llama import NativeLlama
from tests.core.checkpoints import tiny_tokenizer
from tests.core.models import random_weights, tiny_config
from tests.core.tiny_tokenizers import COUNTING_TEMPLATE, byte_level

CPU = torch.device("cpu")
TOKENIZER = tiny_tokenizer(first="a")
CLOSING = frozenset({2})
PIECES = Pieces.of(TOKENIZER, CLOSING, [], 100)
LENGTHS = Lengths(question=12, answer=40, window=100)


def target(dtype: torch.dtype = torch.float32) -> Llama:
    config = tiny_config(vocab_size=96, head_vocab_size=96, context_window=100)
    return Llama(config, random_weights(config, 3), CPU, dtype)


def written(
    folder: Path, breaks: Iterator[int], model: Llama | NativeLlama, tokens: int = 1500
) -> Corpus:
    """The text, by writers of which each but the last is broken off after so many passes."""
    plan = WritingPlan(tokens, seed=7, first=0, rows=16)
    for passes in breaks:
        writer = Writer(model, PIECES, plan, TextStore(folder, 96))
        assert len(list(islice(writer.run(save_seconds=0.0), passes))) == passes
    writer = Writer(model, PIECES, plan, TextStore(folder, 96))
    for _ in writer.run():
        assert 0.0 <= writer.share <= 1.0
    assert writer.share == 1.0
    return writer.text()


def same(one: Corpus, other: Corpus) -> bool:
    pairs = zip(one.arrays().values(), other.arrays().values(), strict=True)
    return all(np.array_equal(left, right) for left, right in pairs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_text_is_the_same_whatever_breaks_it_off(tmp_path: Path, dtype: torch.dtype) -> None:
    model = target(dtype)
    whole = written(tmp_path / "whole", iter([]), model)
    assert len(whole.tokens) >= 1500
    assert len(whole.select(range(whole.conversations - 1)).tokens) < 1500
    for at, breaks in enumerate(([1], [30], [60, 1, 25])):
        assert same(written(tmp_path / str(at), iter(breaks), model), whole)


@pytest.mark.parametrize("beginning", [(), (1,)])
def test_a_template_may_begin_with_the_users_own_words(
    tmp_path: Path, beginning: tuple[int, ...]
) -> None:
    pieces = replace(PIECES, beginning=beginning)
    plan = WritingPlan(400, seed=7, first=0, rows=16)
    writer = Writer(target(), pieces, plan, TextStore(tmp_path, 96))
    list(writer.run())
    text = writer.text()
    for at in range(text.conversations):
        ids = tuple(text.tokens[text.span(at)].tolist())
        assert ids[: len(beginning)] == beginning
        assert text.answers[text.span(at)].any()


def test_conversations_follow_from_their_number_and_the_seed(tmp_path: Path) -> None:
    model = target()
    whole = written(tmp_path / "whole", iter([]), model)
    later = WritingPlan(600, seed=7, first=4, rows=16)
    writer = Writer(model, PIECES, later, TextStore(tmp_path / "later", 96))
    list(writer.run())
    text = writer.text()
    assert same(text, whole.select(range(4, 4 + text.conversations)))
    other = Writer(model, PIECES, WritingPlan(600, 8, 4, 16), TextStore(tmp_path / "other", 96))
    list(other.run())
    assert not same(other.text(), text)


def test_every_token_said_is_drawn_from_what_the_target_thinks(tmp_path: Path) -> None:
    """Held against the plain forward over the whole conversation."""
    model = target()
    text = written(tmp_path, iter([]), model)
    said = {True: 0, False: 0}
    for index in range(text.conversations):
        ids = text.tokens[text.span(index)].tolist()
        cache, positions = model.new_cache(), torch.arange(len(ids))
        logits = model.forward(torch.tensor(ids), positions, None, cache)
        dialogue = Dialogue(index, 7, PIECES, Lengths.within(100))
        while len(dialogue.ids) < len(ids) and not dialogue.finished:
            row = logits[len(dialogue.ids) - 1 : len(dialogue.ids)].clone()
            if dialogue.must_go_on:
                row[:, 2] = float("-inf")
            chances = [dialogue.chance()]
            (token,) = draw_tokens(row, [dialogue.temperature], chances)
            said[dialogue.temperature == 0.0] += 1
            dialogue.take(token)
        assert dialogue.ids[: len(ids)] == ids
        marks = text.answers[text.span(index)].tolist()
        assert dialogue.answers[: len(ids)] == marks
        assert AnswerMarks(PIECES.header, CLOSING).answers(ids).tolist() == marks
    assert min(said.values()) > 100


def test_tokens_are_drawn_by_their_probabilities_each_row_at_its_temperature() -> None:
    generator, draws = torch.Generator().manual_seed(0), 40_000
    logits = torch.randn(2, 1000, generator=generator) * 2  # not a multiple of a block
    rng = random.Random(0)
    for temperature, row in ((1.0, 0), (0.5, 1)):
        counts = np.zeros(1000)
        for _ in range(draws // 1000):
            wide = logits[row].repeat(1000, 1)
            drawn = draw_tokens(wide, [temperature] * 1000, [rng.random() for _ in range(1000)])
            counts += np.bincount(drawn, minlength=1000)
        expected = torch.softmax(logits[row].double() / temperature, -1).numpy() * draws
        common = expected >= 5
        seen = [*counts[common], counts[~common].sum()]
        wanted = [*expected[common], expected[~common].sum()]
        assert chisquare(seen, wanted).pvalue > 1e-3


def test_the_ends_of_chance_stay_inside_the_vocabulary() -> None:
    logits = torch.tensor([[0.0, -50.0, -50.0]]).repeat(3, 1)
    assert draw_tokens(logits, [1.0, 1.0, 0.0], [0.0, 1 - 1e-16, 0.5]) in ([0, 0, 0], [0, 2, 0])
    wide = torch.full((1, 300), -torch.inf)
    wide[0, 299] = 0.0
    assert draw_tokens(wide, [1.0], [0.999999999]) == [299]


def talked(dialogue: Dialogue, tokens: Iterator[int]) -> Dialogue:
    while not dialogue.finished:
        dialogue.take(next(tokens))
    return dialogue


def babble(seed: int) -> Iterator[int]:
    rng = random.Random(seed)
    while True:
        yield rng.randrange(16, 42)  # a to z


def test_turns_keep_to_their_lengths_and_to_the_template() -> None:
    template, turns = ChatTemplate(TOKENIZER, None), []
    for index in range(200):
        rng = random.Random(index)
        lengths = Lengths(question=12, answer=40, window=10_000)
        tokens = (2 if rng.random() < 0.05 else token for token in babble(index))
        dialogue = talked(Dialogue(index, 1, PIECES, lengths), tokens)
        text = TOKENIZER.decode(dialogue.ids)
        parts = [part.partition("\n") for part in text.split("<|im_start|>")[1:]]
        said = [(role, content.removesuffix("\n")) for role, _, content in parts]
        assert [role for role, _ in said] == ["user", "assistant"] * (len(said) // 2)
        turns.append(len(said) // 2)
        question, answer = (content.removesuffix("<|im_end|>") for _, content in said[:2])
        rendered = template.whole([], question)
        assert dialogue.ids[: len(rendered)] == rendered
        if len(said) == 4:
            second = said[2][1].removesuffix("<|im_end|>")
            more = template.continuing([Turn(question, answer)], second)
            assert more is not None
            start = len(rendered) + len(TOKENIZER.encode(answer, add_special_tokens=False))
            assert dialogue.ids[start : start + len(more)] == more
        assert dialogue.answers[-1]
        runs = "".join("x" if mark else " " for mark in dialogue.answers).split()
        assert max(map(len, runs)) <= 40
    assert set(turns) == {1, 2}
    assert 0.05 < turns.count(2) / len(turns) < 0.25


@pytest.mark.parametrize("window", [30, 41, 64])
def test_no_conversation_outgrows_the_window(window: int) -> None:
    for index in range(100):
        dialogue = talked(Dialogue(index, 0, PIECES, Lengths.within(window)), babble(index))
        assert len(dialogue.ids) == len(dialogue.answers) <= window


def test_a_loop_ends_the_answer_and_is_left_out() -> None:
    lengths = Lengths(question=12, answer=10_000, window=100_000)
    for period in (1, 5, 17):
        dialogue = Dialogue(0, 0, PIECES, lengths)
        talked(dialogue, (20 + at % period for at in range(10_000)))
        answer = sum(dialogue.answers)
        assert answer <= period + GRAM
    calm = talked(Dialogue(0, 0, PIECES, lengths), chain(islice(babble(1), 500), repeat(2)))
    assert sum(calm.answers) > 400


def test_a_question_is_opened_or_must_say_something() -> None:
    beginnings = [Dialogue(index, 0, PIECES, LENGTHS) for index in range(400)]
    unopened = [each for each in beginnings if each.must_go_on]
    assert 20 < len(unopened) < 90
    for each in unopened:
        each.take(50)
        assert not each.must_go_on
    rest = [tuple(each.ids) for each in beginnings if each not in unopened]
    openings = {ids[len(PIECES.beginning) :] for ids in rest}
    assert openings <= set(PIECES.openings)
    assert len(openings) > len(OPENINGS) / 2


def test_prompts_begin_half_of_the_conversations_whole() -> None:
    prompts = ["hello there", "0123", "x" * 400]
    pieces = Pieces.of(TOKENIZER, CLOSING, prompts, 50)
    template = ChatTemplate(TOKENIZER, None)
    wanted = {tuple(template.whole([], prompt)) for prompt in prompts[:2]}
    assert set(pieces.prompts) == wanted
    beginnings = [tuple(Dialogue(at, 0, pieces, LENGTHS).ids) for at in range(300)]
    prompted = [ids for ids in beginnings if ids in wanted]
    assert set(prompted) == wanted
    assert 110 < len(prompted) < 190
    with pytest.raises(ParameterError, match="longer than 5 tokens"):
        Pieces.of(TOKENIZER, CLOSING, prompts, 5)


def test_templates_that_cannot_go_on_have_one_turn_and_none_is_refused() -> None:
    counting = byte_level(COUNTING_TEMPLATE)
    closing = int(counting.convert_tokens_to_ids("<|eot_id|>"))
    assert Pieces.of(counting, [closing], [], 100).between is None
    with pytest.raises(ModelLoadError, match="no chat template"):
        Pieces.of(byte_level(None), [closing], [], 100)


def test_rows_fit_the_text_and_the_memory() -> None:
    small = tiny_config()
    assert [rows_for(small, tokens, 2) for tokens in (500, 20_000, 60_000, 10**7)] == [
        16, 32, 96, MOST_ROWS,
    ]  # fmt: skip
    large = tiny_config(num_layers=80, num_kv_heads=4, head_dim=1024)
    assert 16 <= rows_for(large, 10**7, 2) < MOST_ROWS
