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

from sequoia_core.distill.corpus import GRAM, AnswerMarks, Corpus
from sequoia_core.distill.dialogue import LONGEST, TURNS, Dialogue, TemplateTokens
from sequoia_core.distill.generate import MOST_GPU_ROWS, MOST_ROWS, Writer, rows_for
from sequoia_core.distill.options import Options
from sequoia_core.distill.shards import LabelledConversation, LabelledText, Shards, token_bytes
from sequoia_core.errors import ModelLoadError, NumberError, ParameterError
from sequoia_core.model.llama import Llama
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.speculate.sampling import labelled_draws
from sequoia_core.text.chat_template import ChatTemplate, Turn
from tests.core.checkpoints import tiny_tokenizer
from tests.core.models import random_weights, tiny_config
from tests.core.text.test_chat_template import continued
from tests.core.tiny_tokenizers import COUNTING_TEMPLATE, byte_level

CPU = torch.device("cpu")
TOKENIZER = tiny_tokenizer(first="a")
CLOSING = frozenset({2})
PIECES = TemplateTokens.of(TOKENIZER, CLOSING, [], 100)
WINDOW = 100
KEPT_LAYERS, ROWS = (0, 1), 16


def target(dtype: torch.dtype = torch.float32) -> Llama:
    config = tiny_config(vocab_size=96, head_vocab_size=96, context_window=WINDOW)
    return Llama(config, random_weights(config, 3), CPU, dtype, KEPT_LAYERS)


def written(
    folder: Path,
    breaks: Iterator[int],
    model: Llama | NativeLlama,
    tokens: int = 1500,
    given: Corpus | None = None,
) -> LabelledText:
    """The text, by writers of which each but the last is broken off after so many passes."""
    options = Options(tokens=tokens, seed=7)
    for passes in breaks:
        writer = Writer(model, PIECES, options, ROWS, Shards(folder, 96), given)
        assert len(list(islice(writer.run(save_seconds=0.0), passes))) == passes
    writer = Writer(model, PIECES, options, ROWS, Shards(folder, 96), given)
    for _ in writer.run():
        assert 0.0 <= writer.share <= 1.0
    assert writer.share == 1.0
    return Shards(folder, 96).text(tokens)


def content(text: LabelledText) -> list[list[bytes]]:
    """Each conversation's arrays, byte for byte."""
    corpus, found = text.corpus, []
    for index in range(len(corpus)):
        labels, arrays = text.conversation(index), [*corpus[index]]
        arrays += [labels.top_ids.numpy(), labels.top_probs.numpy()]
        arrays.append(labels.features.view(torch.int16).numpy())
        found.append([array.tobytes() for array in arrays])
    return found


def check_labels(text: LabelledText, model: Llama | NativeLlama) -> None:
    """Hold labels and features against a plain forward over each conversation."""
    for index in range(len(text.corpus)):
        (tokens, answers), labels = text.corpus[index], text.conversation(index)
        ids = torch.from_numpy(tokens.astype(np.int64))
        cache = model.new_cache()
        logits = model.forward(ids, torch.arange(len(ids)), None, cache)
        wanted = answers[1:]
        top = torch.softmax(logits[:-1][wanted], -1).topk(labels.top_ids.shape[1])
        np.testing.assert_array_equal(labels.top_ids.long()[:, :8], top.indices[:, :8])
        torch.testing.assert_close(labels.top_probs.float(), top.values, rtol=2e-3, atol=1e-5)
        states = cache.features(0, len(ids) - 1).float()
        torch.testing.assert_close(labels.features.float(), states, rtol=1e-2, atol=1e-2)
    assert len(text.corpus) > 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_text_is_the_same_whatever_breaks_it_off(tmp_path: Path, dtype: torch.dtype) -> None:
    model = target(dtype)
    whole = written(tmp_path / "whole", iter([]), model)
    tokens = whole.corpus.tokens
    assert len(tokens) >= 1500
    assert len(tokens[: int(whole.corpus.offsets[-1])]) < 1500
    for at, breaks in enumerate(([1], [30], [60, 1, 25])):
        assert content(written(tmp_path / str(at), iter(breaks), model)) == content(whole)


def test_labels_are_those_of_a_plain_forward_over_the_text(tmp_path: Path) -> None:
    model = target()
    check_labels(written(tmp_path, iter([]), model), model)


def test_given_text_has_the_labels_of_text_that_is_written(tmp_path: Path) -> None:
    model = target()
    whole = written(tmp_path / "whole", iter([]), model)
    for at, breaks in enumerate(([], [40, 3])):
        again = written(tmp_path / str(at), iter(breaks), model, 1500, whole.corpus)
        assert content(again) == content(whole)
    more = written(tmp_path / "more", iter([50]), model, 2500, whole.corpus)
    assert content(more)[: len(whole.corpus)] == content(whole)
    assert content(more) == content(written(tmp_path / "at once", iter([]), model, 2500))


def test_a_shard_that_is_half_written_does_not_count(tmp_path: Path) -> None:
    model = target()
    whole = written(tmp_path / "whole", iter([]), model)
    (tmp_path / "parts").mkdir()
    shard = next((tmp_path / "whole").glob("shard-*"))
    half = shard.read_bytes()[: shard.stat().st_size // 2]
    (tmp_path / "parts" / f".{shard.name}.0123.part").write_bytes(half)
    assert content(written(tmp_path / "parts", iter([]), model)) == content(whole)
    shard.write_bytes(half)
    with pytest.raises(ParameterError, match="is damaged"):
        Shards(tmp_path / "whole", 96)


def test_a_full_shard_is_written_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = written(tmp_path / "whole", iter([]), target())
    monkeypatch.setattr("sequoia_core.distill.shards.SHARD_BYTES", 30_000)
    parts = written(tmp_path / "parts", iter([]), target())
    assert content(parts) == content(whole)
    sizes = [file.stat().st_size for file in (tmp_path / "parts").glob("shard-*")]
    assert len(sizes) > 3
    assert max(sizes) < 60_000


@pytest.mark.parametrize("vocab_size", [96, 70_000])
def test_ids_of_any_vocabulary_are_kept(tmp_path: Path, vocab_size: int) -> None:
    shards = Shards(tmp_path, vocab_size)
    top = torch.tensor([[vocab_size - 1, 0]], dtype=torch.int32)
    text_of_two = [1, vocab_size - 1], [False, True]
    labels = top, torch.tensor([[0.75, 0.25]])
    shards.add(0, LabelledConversation.of(text_of_two, labels, torch.ones(1, 1, 4), vocab_size))
    nothing = top[:0], torch.ones(0, 2)
    shards.add(1, LabelledConversation.of(([], []), nothing, torch.ones(0, 1, 4), vocab_size))
    shards.save()
    text = Shards(tmp_path, vocab_size).text(100)
    assert text.corpus.tokens.tolist() == [1, vocab_size - 1]
    assert text.conversation(0).top_ids.tolist() == top.tolist()
    assert text.conversation(0).top_probs.tolist() == [[0.75, 0.25]]
    assert list(text.numbers) == [0]


def answer(tokens: int, vocab_size: int = 96) -> LabelledConversation:
    """A conversation that is one answer, of which all but the first token have labels."""
    top = torch.zeros(tokens - 1, 32, dtype=torch.int64), torch.ones(tokens - 1, 32)
    text = [3] * tokens, [True] * tokens
    return LabelledConversation.of(text, top, torch.ones(tokens - 1, 2, 4), vocab_size)


@pytest.mark.parametrize(("vocab_size", "ids"), [(96, torch.uint16), (70_000, torch.uint32)])
def test_labels_have_the_types_of_a_shard(vocab_size: int, ids: torch.dtype) -> None:
    labels = answer(3, vocab_size)
    types = [labels.tokens.dtype, labels.top_ids.dtype]
    types += [labels.top_probs.dtype, labels.features.dtype]
    assert types == [ids, ids, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("vocab_size", [96, 70_000])
def test_a_shard_is_as_large_as_its_tokens_are_said_to_be(tmp_path: Path, vocab_size: int) -> None:
    shards = Shards(tmp_path, vocab_size)
    shards.add(0, answer(2000, vocab_size))
    shards.save()
    (file,) = tmp_path.iterdir()
    said = 2000 * token_bytes(vocab_size, 2 * 4)
    assert 0.995 * said < file.stat().st_size < 1.005 * said


def test_a_missing_shard_is_written_again_with_the_others_kept(tmp_path: Path) -> None:
    for number in range(3):
        shards = Shards(tmp_path, 96)
        shards.add(number, answer(10 + number))
        shards.save()
    min(tmp_path.iterdir()).unlink()
    shards = Shards(tmp_path, 96)
    assert sorted(shards.lengths) == [1, 2]
    shards.add(0, answer(10))
    shards.save()
    assert Shards(tmp_path, 96).lengths == {0: 10, 1: 11, 2: 12}


def test_a_run_ends_with_enough_tokens_or_before_a_conversation_that_is_missing(
    tmp_path: Path,
) -> None:
    shards = Shards(tmp_path, 96)
    for number in (0, 1, 2, 4):
        shards.add(number, answer(10))
    assert [shards.run(tokens) for tokens in (0, 10, 11, 99)] == [(0, 0), (1, 10), (2, 20), (3, 30)]
    shards.add(3, answer(10))
    assert shards.run(99, (3, 30)) == shards.run(99) == (5, 50)


@pytest.mark.parametrize("beginning", [(), (1,)])
def test_a_template_may_begin_with_the_users_own_words(
    tmp_path: Path, beginning: tuple[int, ...]
) -> None:
    pieces = replace(PIECES, beginning=beginning)
    list(Writer(target(), pieces, Options(tokens=500, seed=7), ROWS, Shards(tmp_path, 96)).run())
    text = Shards(tmp_path, 96).text(400).corpus
    for ids, answers in text:
        assert tuple(ids[: len(beginning)].tolist()) == beginning
        assert answers.any()


def test_conversations_follow_from_their_number_and_the_seed(tmp_path: Path) -> None:
    model = target()
    whole = content(written(tmp_path / "whole", iter([]), model))
    assert content(written(tmp_path / "more", iter([]), model, 2500))[: len(whole)] == whole
    options = Options(tokens=1500, seed=8)
    list(Writer(model, PIECES, options, ROWS, Shards(tmp_path / "other", 96)).run())
    assert content(Shards(tmp_path / "other", 96).text(1500)) != whole


def test_every_token_said_is_drawn_from_the_targets_distribution(tmp_path: Path) -> None:
    """Held against the plain forward over the whole conversation."""
    model = target()
    labelled = written(tmp_path, iter([]), model)
    text, said = labelled.corpus, {True: 0, False: 0}
    for index, number in enumerate(labelled.numbers):
        ids, marks = (each.tolist() for each in text[index])
        cache, positions = model.new_cache(), torch.arange(len(ids))
        logits = model.forward(torch.tensor(ids), positions, None, cache)
        dialogue = Dialogue(number, 7, PIECES, WINDOW)
        while len(dialogue.ids) < len(ids) and not dialogue.finished:
            row = logits[len(dialogue.ids) - 1 : len(dialogue.ids)].clone()
            if dialogue.must_go_on:
                row[:, 2] = float("-inf")
            chances = [dialogue.chance()]
            (token,) = labelled_draws(row, [dialogue.temperature], chances, 1).tokens
            said[dialogue.temperature == 0.0] += 1
            dialogue.take(token)
        assert dialogue.ids[: len(ids)] == ids
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
            chances = [rng.random() for _ in range(1000)]
            drawn = labelled_draws(wide, [temperature] * 1000, chances, 2).tokens
            counts += np.bincount(drawn, minlength=1000)
        expected = torch.softmax(logits[row].double() / temperature, -1).numpy() * draws
        common = expected >= 5
        seen = [*counts[common], counts[~common].sum()]
        wanted = [*expected[common], expected[~common].sum()]
        assert chisquare(seen, wanted).pvalue > 1e-3


def test_the_ends_of_chance_stay_inside_the_vocabulary() -> None:
    logits = torch.tensor([[0.0, -50.0, -50.0]]).repeat(3, 1)
    drawn = labelled_draws(logits, [1.0, 1.0, 0.0], [0.0, 1 - 1e-16, 0.5], 1)
    assert drawn.tokens in ([0, 0, 0], [0, 2, 0])
    wide = torch.full((1, 300), -torch.inf)
    wide[0, 299] = 0.0
    assert labelled_draws(wide, [1.0], [0.999999999], 1).tokens == [299]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_are_refused(temperature: float) -> None:
    logits = torch.zeros(2, 300)
    logits[1, 7] = torch.nan
    with pytest.raises(NumberError, match="float32"):
        labelled_draws(logits, [temperature] * 2, [0.5] * 2, 4)


def talked(dialogue: Dialogue, tokens: Iterator[int]) -> Dialogue:
    while not dialogue.finished:
        dialogue.take(next(tokens))
    return dialogue


def babble(seed: int) -> Iterator[int]:
    rng = random.Random(seed)
    while True:
        yield rng.randrange(16, 42)  # a to z


def test_turns_keep_to_their_lengths_and_to_the_template(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sequoia_core.distill.dialogue.QUESTION", 12)
    monkeypatch.setattr("sequoia_core.distill.dialogue.ANSWER", 40)
    template, turns = ChatTemplate(TOKENIZER, None), []
    for index in range(200):
        rng = random.Random(index)
        tokens = (2 if rng.random() < 0.05 else token for token in babble(index))
        dialogue = talked(Dialogue(index, 1, PIECES, 10_000), tokens)
        text = TOKENIZER.decode(dialogue.ids)
        parts = [part.partition("\n") for part in text.split("<|im_start|>")[1:]]
        said = [(role, content.removesuffix("\n")) for role, _, content in parts]
        assert [role for role, _ in said] == ["user", "assistant"] * (len(said) // 2)
        turns.append(len(said) // 2)
        question = said[0][1].removesuffix("<|im_end|>")
        rendered = template.whole([], question)
        assert dialogue.ids[: len(rendered)] == rendered
        before, start = [], len(rendered)
        for (_, asked), (_, answered), (_, after) in zip(
            said[::2], said[1::2], said[2::2], strict=False
        ):
            before.append(
                Turn(asked.removesuffix("<|im_end|>"), answered.removesuffix("<|im_end|>"))
            )
            more = continued(template, before, after.removesuffix("<|im_end|>"))
            assert more is not None
            start += len(TOKENIZER.encode(before[-1].answer, add_special_tokens=False))
            assert dialogue.ids[start : start + len(more)] == more
            start += len(more)
        assert dialogue.answers[-1]
        runs = "".join("x" if mark else " " for mark in dialogue.answers).split()
        assert max(map(len, runs)) <= 40
    assert set(turns) == set(range(1, max(TURNS) + 1))  # babble may fill an answer and end it all
    assert turns.count(1) > turns.count(2) > turns.count(max(TURNS)) > 0


@pytest.mark.parametrize("window", [30, 41, 64])
def test_no_conversation_outgrows_the_window(window: int) -> None:
    for index in range(100):
        dialogue = talked(Dialogue(index, 0, PIECES, window), babble(index))
        assert len(dialogue.ids) == len(dialogue.answers) <= window


def test_a_conversation_ends_after_so_many_tokens_but_for_a_prompt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sequoia_core.distill.dialogue.ANSWER", 4000)
    pieces = TemplateTokens.of(TOKENIZER, CLOSING, ["0" * 3000], 4000)
    longest = set()
    for index in range(20):
        longest.add(len(talked(Dialogue(index, 0, pieces, 10_000), babble(index)).ids))
    prompt = len(pieces.prompts[0])
    assert longest == {LONGEST, prompt + LONGEST}


def test_a_loop_ends_the_answer_and_is_left_out() -> None:
    for period in (1, 5, 17):
        dialogue = Dialogue(0, 0, PIECES, 100_000)
        talked(dialogue, (20 + at % period for at in range(10_000)))
        answer = sum(dialogue.answers)
        assert answer <= period + GRAM
    calm = talked(Dialogue(0, 0, PIECES, 100_000), chain(islice(babble(1), 600), repeat(2)))
    assert sum(calm.answers) > 400


def test_a_question_is_opened_or_must_say_something() -> None:
    beginnings = [Dialogue(index, 0, PIECES, WINDOW) for index in range(400)]
    unopened = [each for each in beginnings if each.must_go_on]
    assert 20 < len(unopened) < 90
    for each in unopened:
        each.take(50)
        assert not each.must_go_on
    rest = [tuple(each.ids) for each in beginnings if each not in unopened]
    openings = {ids[len(PIECES.beginning) :] for ids in rest}
    assert openings <= set(chain(*PIECES.openings))
    assert all(len(openings & set(kind)) > len(kind) / 3 for kind in PIECES.openings)


def test_prompts_begin_half_of_the_conversations_whole() -> None:
    prompts = ["hello there", "0123", "x" * 400]
    pieces = TemplateTokens.of(TOKENIZER, CLOSING, prompts, 50)
    template = ChatTemplate(TOKENIZER, None)
    wanted = {tuple(template.whole([], prompt)) for prompt in prompts[:2]}
    assert set(pieces.prompts) == wanted
    beginnings = [tuple(Dialogue(at, 0, pieces, WINDOW).ids) for at in range(300)]
    prompted = [ids for ids in beginnings if ids in wanted]
    assert set(prompted) == wanted
    assert 110 < len(prompted) < 190
    with pytest.raises(ParameterError, match="longer than 5 tokens"):
        TemplateTokens.of(TOKENIZER, CLOSING, prompts, 5)


def test_templates_that_cannot_continue_have_one_turn_and_none_is_refused() -> None:
    counting = byte_level(COUNTING_TEMPLATE)
    closing = int(counting.convert_tokens_to_ids("<|eot_id|>"))
    assert TemplateTokens.of(counting, [closing], [], 100).between is None
    with pytest.raises(ModelLoadError, match="no chat template"):
        TemplateTokens.of(byte_level(None), [closing], [], 100)


def test_rows_fit_the_text_and_the_memory() -> None:
    on_cpu = [rows_for(tokens, 4096, 49152, None, 600) for tokens in (500, 20_000, 10**7)]
    assert on_cpu == [16, 32, MOST_ROWS]
    assert rows_for(10**7, 1 << 18, 49152, None, 600) == 16
    on_gpu = [rows_for(10**8, 24_000, 49152, memory << 30, 600) for memory in (2, 16, 140)]
    assert on_gpu == [64, 512, MOST_GPU_ROWS]


def test_rows_that_all_hold_the_longest_given_conversation_fit_into_memory() -> None:
    for longest in (600, 2048, 8192):
        rows = rows_for(10**8, 24_000, 49152, 140 << 30, longest)
        assert rows >= 64
        assert rows * longest * 24_000 <= 70 << 30
    assert rows_for(10**7, 24_000, 49152, None, 8192) == 16
