"""A GGUF file is the model it was made from; a damaged one is refused in one line."""

import contextlib
import re
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.config import ModelConfig
from sequoia_core.model.gguf import halves_from_pairs, open_gguf
from sequoia_core.model.llama import Llama
from sequoia_core.model.weights import check_weights
from sequoia_core.pair import embedded_target_path
from tests.core.checkpoints import reference_logits, save_gguf, tiny_llama

TOKENS = torch.arange(3, 40)
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def gguf_logits(file: Path) -> torch.Tensor:
    model = open_gguf(file)
    config = ModelConfig.from_hf(model.settings)
    check_weights(config, model.weights)
    llama = Llama(config, model.weights, torch.device("cpu"), torch.float32)
    return llama.forward(TOKENS, torch.arange(len(TOKENS)), None, llama.new_cache())


@given(heads=st.integers(1, 5), half=st.integers(1, 6), seed=st.integers(0, 999))
@settings(deadline=None)
def test_turning_pairs_then_reordering_is_reordering_then_turning_halves(
    heads: int, half: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(heads * 2 * half, 1, generator=generator)
    angle = torch.rand(half, generator=generator) * 6
    first, second = rows.view(heads, half, 2).unbind(-1)
    turned = torch.stack(
        (
            first * angle.cos() - second * angle.sin(),
            second * angle.cos() + first * angle.sin(),
        ),
        dim=-1,
    )
    low, high = halves_from_pairs(rows, heads).view(heads, 2, half).unbind(1)
    expected = torch.stack(
        (low * angle.cos() - high * angle.sin(), high * angle.cos() + low * angle.sin()), dim=1
    )
    assert torch.equal(
        halves_from_pairs(turned.reshape(rows.shape), heads).view(expected.shape), expected
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tie_word_embeddings": True},
        {"head_dim": 16},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "rope_parameters": {"rope_type": "default", "rope_theta": 7e4}},
    ],
    ids=str,
)
def test_logits_equal_those_of_the_model_it_was_made_from(
    changes: dict[str, Any], tmp_path: Path
) -> None:
    model = tiny_llama(**changes)
    save_gguf(tmp_path / "model.gguf", model)
    expected = reference_logits(model, TOKENS)
    torch.testing.assert_close(gguf_logits(tmp_path / "model.gguf"), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_1"])
def test_quantized_weights_equal_transformers(kind: str, tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    save_gguf(file, tiny_llama(), gguf.GGMLQuantizationType[kind])
    weights = open_gguf(file).weights
    reference = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file=file.name, dtype=torch.float32
    ).state_dict()
    assert set(weights) == set(reference)
    for name in reference:
        assert torch.equal(weights[name], reference[name]), name
        assert weights.shape(name) == tuple(reference[name].shape)


def test_a_way_of_storing_that_is_unknown_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(*_: object) -> None:
        raise NotImplementedError("no such kind")

    save_gguf(tmp_path / "model.gguf", tiny_llama(), gguf.GGMLQuantizationType.Q4_1)
    weights = open_gguf(tmp_path / "model.gguf").weights
    monkeypatch.setattr(gguf, "dequantize", unknown)
    message = r"model\.gguf: model\.embed_tokens\.weight is stored as Q4_1, which cannot be read"
    with pytest.raises(ModelLoadError, match=message):
        weights["model.embed_tokens.weight"]


def test_linear_rope_is_read(tmp_path: Path) -> None:
    model = tiny_llama(
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    )
    save_gguf(
        tmp_path / "model.gguf",
        model,
        llama__rope__scaling__type="linear",
        llama__rope__scaling__factor=4.0,
    )
    torch.testing.assert_close(
        gguf_logits(tmp_path / "model.gguf"),
        reference_logits(model, TOKENS),
        atol=2e-5,
        rtol=1e-4,
    )


def llama3_model() -> LlamaForCausalLM:
    return tiny_llama(head_dim=16, max_position_embeddings=16384, rope_parameters=LLAMA3)


def test_llama3_rope_is_recovered_from_the_stored_divisors(tmp_path: Path) -> None:
    model = llama3_model()
    plain = 500000.0 ** -(torch.arange(0, 16, 2) / 16)
    save_gguf(tmp_path / "model.gguf", model, rope_freqs=plain / model.model.rotary_emb.inv_freq)
    rope = open_gguf(tmp_path / "model.gguf").settings["rope_parameters"]
    assert rope["factor"] == pytest.approx(32.0, rel=1e-4)
    assert {**rope, "factor": 32.0} == LLAMA3
    torch.testing.assert_close(
        gguf_logits(tmp_path / "model.gguf"),
        reference_logits(model, TOKENS),
        atol=2e-5,
        rtol=1e-4,
    )


@pytest.mark.parametrize("divisors", [torch.arange(1.0, 9.0), torch.ones(7)])
def test_other_stored_divisors_are_refused(divisors: torch.Tensor, tmp_path: Path) -> None:
    save_gguf(tmp_path / "model.gguf", llama3_model(), rope_freqs=divisors)
    with pytest.raises(ModelLoadError, match=r"model\.gguf: rope_freqs\.weight is not Llama 3's"):
        open_gguf(tmp_path / "model.gguf")


def test_every_stated_end_is_kept_and_sorted(tmp_path: Path) -> None:
    save_gguf(tmp_path / "model.gguf", tiny_llama(), tokenizer__ggml__eot_token_id=0)
    assert open_gguf(tmp_path / "model.gguf").settings["eos_token_id"] == [0, 2]


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"general__architecture": "mamba"}, "architecture is 'mamba'"),
        ({"llama__expert_count": 8}, "only dense 'llama'"),
        ({"llama__rope__dimension_count": 4}, "a part of each head"),
        ({"llama__rope__scaling__type": "yarn"}, "rope scaling 'yarn'"),
        ({"split__count": 3}, "llama-gguf-split --merge"),
        ({"llama__block_count": None}, r"llama\.block_count is missing"),
        ({"llama__embedding_length": "wide"}, "damaged|missing|wrong"),
        ({"llama__attention__head_count": 0}, "an entry is damaged"),
    ],
    ids=str,
)
def test_what_cannot_be_computed_is_refused(
    entries: dict[str, Any], message: str, tmp_path: Path
) -> None:
    save_gguf(tmp_path / "model.gguf", tiny_llama(), **entries)
    with pytest.raises(ModelLoadError, match=message) as caught:
        open_gguf(tmp_path / "model.gguf")
    assert str(caught.value).startswith(str(tmp_path))
    assert "\n" not in str(caught.value)


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    save_gguf(tmp_path / "model.gguf", tiny_llama(num_hidden_layers=1))
    whole = (tmp_path / "model.gguf").read_bytes()
    cut = tmp_path / "cut.gguf"
    for length in [*range(200), *range(200, len(whole) - 40, 997), len(whole) - 40]:
        cut.write_bytes(whole[:length])
        with pytest.raises(ModelLoadError, match=re.escape(str(cut))) as caught:
            open_gguf(cut)
        assert "\n" not in str(caught.value)


@given(seed=st.integers(0, 2**32 - 1), place=st.floats(0, 1), length=st.integers(1, 64))
@settings(deadline=None, max_examples=60)
def test_junk_in_the_head_gives_one_line_or_a_model(
    small_file: bytes, seed: int, place: float, length: int, tmp_path_factory: Any
) -> None:
    junk = np.random.default_rng(seed).bytes(length)
    start = 4 + int(place * 3000)
    file = tmp_path_factory.getbasetemp() / "junk.gguf"
    file.write_bytes(small_file[:start] + junk + small_file[start + length :])
    with contextlib.suppress(ModelLoadError):  # anything else would be a traceback
        open_gguf(file)


@pytest.fixture(scope="module")
def small_file(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    file: Path = tmp_path_factory.mktemp("small") / "model.gguf"
    save_gguf(file, tiny_llama(num_hidden_layers=1))
    return file.read_bytes()


@pytest.mark.parametrize("content", [b"", b"GGUF", b"\x00" * 64, b"GGUF\x03" + b"\xff" * 4096])
def test_another_file_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(content)
    with pytest.raises(ModelLoadError, match="truncated or no GGUF file"):
        open_gguf(tmp_path / "model.gguf")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="no such file"):
        open_gguf(tmp_path / "model.gguf")


@pytest.mark.embedded
def test_the_embedded_target_equals_transformers() -> None:
    file = embedded_target_path()
    reference = AutoModelForCausalLM.from_pretrained(
        file.parent, gguf_file=file.name, dtype=torch.float32
    )
    stored = reference.state_dict()
    weights = open_gguf(file).weights
    assert set(weights) == set(stored) - {"lm_head.weight"}
    for name in weights:
        assert torch.equal(weights[name], stored[name]), name
    torch.testing.assert_close(
        gguf_logits(file), reference_logits(reference, TOKENS), atol=1e-3, rtol=1e-4
    )
