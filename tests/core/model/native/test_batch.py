"""Conversations of a batch have the bytes that they have alone."""

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from sequoia_core.errors import ContextFullError, ModelLoadError
from sequoia_core.model.batch import PASS_ROWS, NativeBatch
from sequoia_core.model.native.library import Pool, instruction_sets
from sequoia_core.model.native.llama import Continuation, NativeLlama
from tests.core.model.native.test_invariance import mixed_config, mixed_model
from tests.core.models import random_weights

KEPT_LAYERS = (0, 1)
POOL = Pool(2)


def model_of(name: str) -> NativeLlama:
    return mixed_model(POOL, name, KEPT_LAYERS)


def alone(model: NativeLlama, ids: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Logits and features of a text that is read one token at a time."""
    cache = model.new_cache()
    logits = [
        model.forward(torch.tensor([token]), torch.tensor([at]), None, cache)
        for at, token in enumerate(ids)
    ]
    return torch.cat(logits), cache.features(0, len(ids))


class Chats:
    """Rows of a batch that begin with prompts and go on with tokens that a seed gives."""

    def __init__(self, model: NativeLlama, rows: int, seed: int) -> None:
        self._rng = random.Random(seed)
        self._batch = NativeBatch(model, rows)
        self._model = model
        self._ids: list[list[int]] = [[] for _ in range(rows)]
        self._logits: list[dict[int, Tensor]] = [{} for _ in range(rows)]

    def begin(self, row: int, prompt: Sequence[int], kept: int) -> None:
        assert self._ids[row][:kept] == list(prompt[:kept])
        self._batch.start(row, kept)
        self._ids[row], self._logits[row] = list(prompt), {}

    def step(self, resting: Sequence[int]) -> None:
        held = self._batch.lengths
        unread = [[] if row in resting else ids[held[row] :] for row, ids in enumerate(self._ids)]
        done, logits = self._batch.forward(unread)
        held = self._batch.lengths
        active = [row for row, ids in enumerate(unread) if ids]
        assert done == [row for row in active if held[row] == len(self._ids[row])]
        for row, of_row in zip(done, logits, strict=True):
            self._logits[row][held[row] - 1] = of_row
            self._ids[row].append(self._rng.randrange(61))

    def check(self, row: int) -> int:
        """Compare a row with its conversation alone; returns how many logits were compared."""
        held = self._batch.lengths[row]
        if held == 0:
            return 0
        logits, features = alone(self._model, self._ids[row][:held])
        for at, of_row in self._logits[row].items():
            assert torch.equal(of_row, logits[at])
        assert torch.equal(self._batch.features(row), features)
        return len(self._logits[row])


@pytest.mark.parametrize("name", instruction_sets())
def test_rows_equal_their_conversations_alone_bit_for_bit(name: str) -> None:
    chats, rng = Chats(model_of(name), 13, 5), random.Random(7)
    beginning = [rng.randrange(61) for _ in range(9)]
    for row, length in enumerate([1, 300, 17, 2, 90, 255, 256, 257, 16, 5, 31, 33, 64]):
        chats.begin(row, (beginning * 40)[:length], 0)
    compared = 0
    for step in range(60):
        chats.step(rng.sample(range(13), 3))
        if step % 3 == 2:  # a conversation ends and its cache is taken by another
            row = rng.randrange(13)
            compared += chats.check(row)
            if step % 2:
                chats.begin(row, [rng.randrange(61) for _ in range(rng.randrange(1, 70))], 0)
            else:
                kept = min(chats._batch.lengths[row], 9)
                same = chats._ids[row][:kept]
                chats.begin(row, [*same, rng.randrange(61)], kept)
    compared += sum(chats.check(row) for row in range(13))
    assert compared > 200


def test_prompts_share_the_rows_of_a_pass() -> None:
    batch = NativeBatch(model_of(instruction_sets()[0]), 4)
    done, logits = batch.forward([[1] * 200, [2] * 300, [3], []])
    assert done == [0, 2]
    assert logits.shape[0] == 2
    assert list(batch.lengths) == [200, PASS_ROWS - 201, 1, 0]
    done, _ = batch.forward([[], [2] * (300 - batch.lengths[1]), [4], []])
    assert done == [1, 2]
    assert list(batch.lengths) == [200, 300, 2, 0]
    done, logits = batch.forward([[], [], [], []])
    assert (list(done), len(logits)) == ([], 0)


def test_logits_are_those_of_the_last_rows_of_each_text() -> None:
    model = model_of(instruction_sets()[0])
    texts = [[5, 6, 7, 8], [9], [10, 11, 12]]
    logits = model.continue_texts(
        [
            Continuation(model.new_cache(), ids, wanted)
            for ids, wanted in zip(texts, (2, 0, 3), strict=True)
        ]
    )
    assert torch.equal(
        logits, torch.cat([alone(model, texts[0])[0][2:], alone(model, texts[2])[0]])
    )


def test_a_full_window_and_a_shared_cache_are_refused_and_nothing_changes() -> None:
    model = model_of(instruction_sets()[0])
    batch = NativeBatch(model, 2)
    batch.forward([[1] * 100, [2]])
    while batch.lengths[0] < model.context_window:
        batch.forward([[1] * (model.context_window - batch.lengths[0]), []])
    before = list(batch.lengths)
    with pytest.raises(ContextFullError, match="do not fit"):
        batch.forward([[1], [2]])
    assert list(batch.lengths) == before
    cache = model.new_cache()
    with pytest.raises(ModelLoadError, match="share a cache"):
        model.continue_texts([Continuation(cache, [1], 1), Continuation(cache, [2], 1)])
    assert cache.length == 0


def test_features_that_are_not_there_are_refused() -> None:
    model = model_of(instruction_sets()[0])
    cache = model.new_cache()
    model.continue_texts([Continuation(cache, [1, 2], 0)])
    assert cache.features(1, 2).shape == (1, len(KEPT_LAYERS), model.config.hidden_size)
    with pytest.raises(ModelLoadError, match="out of range"):
        cache.features(0, 3)
    bare = NativeLlama(mixed_config(), random_weights(mixed_config(), seed=1), POOL)
    cache = bare.new_cache()
    bare.continue_texts([Continuation(cache, [1], 0)])
    with pytest.raises(ModelLoadError, match="keeps no hidden states"):
        cache.features(0, 1)
