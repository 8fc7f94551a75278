"""A damaged GGUF file that reaches the native library is computed or refused in one line."""

import contextlib
import os
import random
import resource
from collections.abc import Callable
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch

from sequoia_core.errors import ModelLoadError, SequoiaError
from sequoia_core.model.loading.gguf import open_gguf
from sequoia_core.model.native.library import Pool, instruction_sets
from sequoia_core.model.native.llama import NativeLlama
from tests.core.checkpoints import save_gguf, tiny_llama
from tests.core.models import fresh_logits, random_weights, tiny_config

ROUNDS = int(os.environ.get("SEQUOIA_FUZZ_ROUNDS", "25"))
"""Damaged files of each kind; `make sanitize` tries many more."""

POOL = Pool(2)
KINDS = ("F32", "F16", "Q8_0", "Q4_0", "Q5_1")
Damage = Callable[[random.Random, bytearray, int], None]


def computed(file: Path, instruction_set: str | None = None) -> torch.Tensor:
    """Logits of a few rows and of a small tree, as far as the file's model has the tokens."""
    model = open_gguf(file)
    native = NativeLlama(model.config, model.weights, POOL, instruction_set=instruction_set)
    cache = native.new_cache()
    ids = torch.tensor([1, 2, 3, 1, 2]) % model.config.vocab_size
    native.extend(ids, cache)
    mask = torch.ones(3, 8, dtype=torch.bool).tril(5)
    mask[2, 6] = False
    logits = native.forward(ids[:3], torch.tensor([5, 6, 6]), mask, cache)
    cache.keep(5, [5, 7])
    return native.forward(ids[:1], torch.tensor([7]), None, cache) + logits[:1]


@pytest.fixture(scope="module", params=KINDS)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file that can be computed."""
    file: Path = tmp_path_factory.mktemp("whole") / "model.gguf"
    kind = gguf.GGMLQuantizationType[request.param]
    save_gguf(file, tiny_llama(num_hidden_layers=1, tie_word_embeddings=True), kind)
    assert torch.isfinite(computed(file)).all()
    return file.read_bytes()


def flip_in_head(chosen: random.Random, data: bytearray, head: int) -> None:
    """Names, types, shapes, offsets and entries."""
    for _ in range(chosen.choice((1, 1, 2, 8))):
        data[chosen.randrange(head)] = chosen.choice((0, 1, 2, 8, 9, 12, 30, 127, 128, 255))


def flip_in_data(chosen: random.Random, data: bytearray, head: int) -> None:
    """Codes and scales, also such that are infinite or no number."""
    for _ in range(chosen.choice((1, 8, 200))):
        data[chosen.randrange(head, len(data))] = chosen.choice((0, 1, 0x7C, 0x7F, 0xFC, 0xFF))


def change_numbers(chosen: random.Random, data: bytearray, head: int) -> None:
    """Whole 32-bit numbers of the head: sizes that are absurd, negative or almost right."""
    for _ in range(chosen.choice((1, 2))):
        at = chosen.randrange(24, head - 4)
        number = chosen.choice((0, 1, 3, 31, 33, 64, 2**16 + 1, 2**31 - 1, 2**31, 2**32 - 1))
        data[at : at + 4] = number.to_bytes(4, "little")


def cut(chosen: random.Random, data: bytearray, head: int) -> None:
    """An end that is missing, or a piece within."""
    at = chosen.randrange(len(data))
    del data[at : chosen.choice((len(data), at + 1, at + 32))]


@pytest.mark.parametrize("damage", [flip_in_head, flip_in_data, change_numbers, cut])
def test_damaged_files_are_computed_or_refused(
    damage: Damage, whole: bytes, tmp_path: Path
) -> None:
    head = whole.index(b"blk.0.ffn_down") + 60
    chosen, file = random.Random(damage.__name__), tmp_path / "model.gguf"
    for _ in range(ROUNDS):
        data = bytearray(whole)
        damage(chosen, data, head)
        file.write_bytes(data)
        with contextlib.suppress(SequoiaError):  # anything else would be a traceback
            computed(file, chosen.choice(instruction_sets()))


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"intermediate_size": 64}, "mlp.gate_proj"),
        ({"hidden_size": 64}, "self_attn.q_proj"),
        ({"num_kv_heads": 4}, "self_attn.k_proj"),
        ({"vocab_size": 90}, "embed_tokens"),
    ],
)
def test_a_matrix_of_another_shape_than_the_model_says_is_refused(
    changes: dict[str, int], name: str
) -> None:
    """By the library itself, whatever was checked before."""
    config, other = tiny_config(tie_word_embeddings=True), tiny_config(**changes)
    weights = random_weights(config, seed=1)
    (key,) = (each for each in weights if name in each and "layers.1" not in each)
    weights[key] = random_weights(other, seed=1)[key]
    assert weights[key].shape != random_weights(config, seed=1)[key].shape
    with pytest.raises(ModelLoadError, match="another shape than the model says"):
        NativeLlama(config, weights, POOL)


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("model.norm.weight", 64),
        ("model.layers.1.post_attention_layernorm.weight", 31),
        ("model.layers.0.self_attn.q_norm.weight", 16),
        ("model.layers.0.self_attn.k_norm.weight", 32),
        ("model.layers.1.self_attn.q_proj.bias", 40),
    ],
)
def test_a_vector_of_another_size_than_the_model_says_is_refused(name: str, size: int) -> None:
    config = tiny_config(qk_norm="head", attention_bias=True)
    weights = random_weights(config, seed=1)
    assert len(weights[name]) != size
    weights[name] = torch.ones(size)
    with pytest.raises(ModelLoadError, match=r"another size than (the model says|its matrix)"):
        NativeLlama(config, weights, POOL)


@pytest.mark.parametrize("special", [np.inf, -np.inf, np.nan])
def test_numbers_that_are_none_stay_in_the_rows_that_read_them(special: float) -> None:
    config = tiny_config()
    weights = random_weights(config, seed=1)
    clean = NativeLlama(config, weights, POOL)
    weights["model.embed_tokens.weight"][7] = special
    damaged = NativeLlama(config, weights, POOL)
    wanted, found = (fresh_logits(each, torch.tensor([1, 2, 3, 7])) for each in (clean, damaged))
    assert torch.equal(found[:3], wanted[:3])


@pytest.mark.parametrize("name", instruction_sets())
def test_soft_caps_leave_what_is_no_number(name: str) -> None:
    """Else a damaged model would write any text, where PyTorch's logits are refused."""
    config = tiny_config(attention_softcap=3.0, logit_softcap=2.0, vocab_size=90)
    weights = random_weights(config, seed=1)
    weights["model.embed_tokens.weight"][7] = np.nan
    model = NativeLlama(config, weights, POOL, instruction_set=name)
    found = fresh_logits(model, torch.tensor([1, 7, 2]))
    assert found[0].isfinite().all()
    assert found[1:].isnan().all()


def test_after_memory_was_full_the_next_call_has_room() -> None:
    config = tiny_config(hidden_size=4096, num_layers=1, context_window=4096)
    weights, ids = random_weights(config, seed=1), torch.arange(2048) % config.vocab_size
    expected = fresh_logits(NativeLlama(config, weights, POOL), ids)
    model = NativeLlama(config, weights, POOL)
    fresh_logits(model, ids[:4])
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + (16 << 20), hard))  # the rows take twice that
    try:
        with pytest.raises(ModelLoadError, match="not enough memory"):
            fresh_logits(model, ids)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert torch.equal(fresh_logits(model, ids), expected)
