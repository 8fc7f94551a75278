"""Rows of a batch compute what they compute alone."""

import random
from collections.abc import Mapping, Sequence

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from sequoia_core.errors import ContextFullError
from sequoia_core.model.batch import GPU_GROUPS, GROUP, SPAN, Batch, NativeBatch
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.memory_plan import kv_token_bytes
from tests.core.model.test_cuda_fake import CUDA, WithoutGuards
from tests.core.models import random_weights, tiny_config, tiny_llama

BEGINNING = [3, 1, 4, 1, 5]
MOST_MORE = 4


def greedy_alone(model: Llama, prompt: Sequence[int], count: int) -> list[int]:
    """Plain greedy decoding, one row at a time, through the engine's own forward."""
    cache, ids = model.new_cache(), list(prompt)
    model.extend(torch.tensor(ids[:-1]), cache)
    for _ in range(count):
        position = torch.tensor([cache.length])
        logits = model.forward(torch.tensor(ids[-1:]), position, None, cache)
        ids.append(int(logits.argmax()))
    return ids


class Texts:
    """Rows of a batch, each greedily continued from a prompt that begins with `BEGINNING`."""

    def __init__(self, batch: Batch | NativeBatch) -> None:
        self._batch = batch
        self.ids: dict[int, list[int]] = {}

    def start(self, row: int, more: Sequence[int]) -> None:
        self._batch.start(row, min(self._batch.lengths[row], len(BEGINNING)))
        self.ids[row] = [*BEGINNING, *more]

    def step(self) -> None:
        unread = [self.ids.get(row, [])[held:] for row, held in enumerate(self._batch.lengths)]
        done, logits = self._batch.forward(unread)
        assert done == [
            row
            for row, held in enumerate(self._batch.lengths)
            if len(self.ids.get(row, [])) == held > 0
        ]
        for row, following in zip(done, logits, strict=True):
            self.ids[row].append(int(following.argmax()))


def forward(batch: Batch, token_ids: Sequence[int | None]) -> Tensor:
    """One token of every row that is given one; logits of all rows, zeros of those that rest."""
    done, logits = batch.forward([[] if token is None else [token] for token in token_ids])
    every = logits.new_zeros(len(token_ids), logits.shape[1])
    every[list(done)] = logits
    return every


def read(batch: Batch, texts: Mapping[int, Sequence[int]]) -> None:
    """Append whole texts to rows."""
    texts = dict(texts)
    while texts:
        batch.forward([texts.get(row, []) for row in range(len(batch.lengths))])
        texts = {row: rest[1:] for row, rest in texts.items() if len(rest) > 1}


def attended(batch: Batch) -> int:
    """Tokens that a pass attends over, of all rows, padding included."""
    return sum(len(group.rows) * group.span for group in batch._groups)


def held_bytes(batch: Batch) -> int:
    return sum(group.memory.nbytes + group.features.nbytes for group in batch._groups)


def a_prompt(rng: random.Random) -> list[int]:
    return [rng.randrange(61) for _ in range(rng.randint(1, MOST_MORE))]


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_ragged_rows_with_refills_decode_as_alone(heads: int) -> None:
    config = tiny_config(num_kv_heads=heads)
    weights, kept = random_weights(config, 0), (0, 1)
    model = Llama(config, weights, torch.device("cpu"), torch.float32, kept)
    batch, rng = Batch(model, 2 * GROUP), random.Random(heads)
    texts, done = Texts(batch), []
    for row in range(0, 2 * GROUP, 2):  # every other row rests from the start
        texts.start(row, a_prompt(rng))
    for step in range(150):
        texts.step()
        if step % 5 == 4:
            row = rng.choice([at for at in texts.ids if at])  # row 0 stays and grows long
            done.append(texts.ids.pop(row))
            cache = model.new_cache()
            model.extend(torch.tensor(done[-1][: batch.lengths[row]]), cache)
            states = cache.features(0, cache.length)
            torch.testing.assert_close(batch.features(row), states, rtol=1e-4, atol=1e-5)
            if step % 25 == 4:
                batch.start(row)  # and rests
            else:
                texts.start(row, a_prompt(rng))
    assert len(done) == 30
    assert max(batch.lengths) > 2 * SPAN
    for ids in [*done, *texts.ids.values()]:
        prompt = ids[: len(BEGINNING) + MOST_MORE]
        assert ids == greedy_alone(model, prompt, len(ids) - len(prompt))


def test_a_model_that_keeps_no_layers_has_no_features() -> None:
    batch = Batch(tiny_llama(), GROUP)
    read(batch, {3: [1] * (SPAN + 2)})
    assert batch.features(3).shape[:2] == (SPAN + 2, 0)


def logits_among(model: Llama, row: int, neighbours: int) -> Tensor:
    """Logits of one script at a row, beside others that come and go at the word of a seed."""
    batch, rng = Batch(model, 2 * GROUP), random.Random(neighbours)
    read(batch, {row: BEGINNING})
    others = [other for other in range(2 * GROUP) if other != row]
    logits = []
    for token in [random.Random(at).randrange(61) for at in range(150)]:
        for other in rng.sample(others, 2 if neighbours else 0):
            batch.start(other)
            if rng.random() < 0.7:
                read(batch, {other: BEGINNING})
        up = [other for other in others if neighbours and rng.random() < 0.9]
        due = {row: token} | {other: rng.randrange(61) for other in up}
        logits.append(forward(batch, [due.get(at) for at in range(2 * GROUP)])[row])
    return torch.stack(logits)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_neighbours_do_not_change_a_bit(dtype: torch.dtype) -> None:
    config = tiny_config(hidden_size=64, intermediate_size=96, head_dim=16)
    model = Llama(config, random_weights(config, 1), torch.device("cpu"), dtype)
    alone = logits_among(model, 0, 0)
    assert alone.isfinite().all()
    for row, neighbours in ((0, 1), (5, 2), (31, 3)):
        assert torch.equal(logits_among(model, row, neighbours), alone)


def test_short_rows_do_not_attend_over_the_longest() -> None:
    batch = Batch(tiny_llama(), 4 * GROUP)
    # one long row in each group
    read(batch, {row: [1] * (10 if row % GROUP else 200) for row in range(4 * GROUP)})
    assert attended(batch) == GROUP * 256 + 3 * GROUP * SPAN
    for row in range(0, 4 * GROUP, GROUP):
        batch.start(row)
    forward(batch, [0] * 4 * GROUP)
    assert attended(batch) == 4 * GROUP * SPAN


def test_one_long_row_costs_the_others_nothing_and_no_row_outgrows_the_window() -> None:
    config = tiny_config(context_window=3 * SPAN)
    model = Llama(config, random_weights(config, 0), torch.device("cpu"), torch.float32, (0, 1))
    batch, each = Batch(model, 4 * GROUP), kv_token_bytes(config, 4, 2)
    read(batch, {5: [1] * 3 * SPAN})
    assert held_bytes(batch) == each * (GROUP * 3 * SPAN + 3 * GROUP * SPAN)
    read(batch, {20: [1]})
    assert held_bytes(batch) == each * (GROUP * 3 * SPAN + 3 * GROUP * SPAN)


def test_a_full_row_is_refused_and_nothing_changes() -> None:
    batch = Batch(tiny_llama(context_window=8), GROUP)
    read(batch, {3: [1] * 8})
    logits = forward(batch, [None] * 3 + [None] + [7] * 12)
    assert logits.isfinite().all()
    before = list(batch.lengths)  # one row of them is full
    with pytest.raises(ContextFullError, match="window of 8"):
        forward(batch, [7] * GROUP)
    assert batch.lengths == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_batch_runs_on_cuda_without_reading_back(dtype: torch.dtype) -> None:
    with FakeTensorMode(), WithoutGuards():
        config = tiny_config()
        model = Llama(config, random_weights(config, 0), CUDA, dtype, (1,))
        rows = 2 * GROUP * GPU_GROUPS
        batch = Batch(model, rows)
        read(batch, {1: [1] * 70, 20: [1] * 70})
        assert attended(batch) == 2 * GROUP * (2 * SPAN + (GPU_GROUPS - 1) * SPAN)
        for _ in range(2):
            done, logits = batch.forward([[7]] * 30 + [[]] + [[7, 7]] * (rows - 31))
            assert done == list(range(30))
            assert logits.device == CUDA
            assert logits.dtype is torch.float32
            assert logits.shape == (30, 61)
        features = batch.features(1)
        assert (features.device, features.dtype) == (CUDA, dtype)
        assert features.shape == (72, 1, config.hidden_size)
