"""A GGUF file is the model it was made from; a damaged one is refused in one line."""

import contextlib
import random
import re
import struct
import tracemalloc
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
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.gguf import halves_from_pairs, open_gguf
from sequoia_core.model.loading.loader import embedded_target_path
from tests.core.checkpoints import reference_logits, save_gguf, tiny_llama
from tests.core.models import fresh_logits

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
    llama = Llama(model.config, model.weights, torch.device("cpu"), torch.float32)
    return fresh_logits(llama, TOKENS)


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
        {"attention_bias": True},
        {"mlp_bias": True},
        {"attention_bias": True, "mlp_bias": True, "head_dim": 16, "tie_word_embeddings": True},
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


def test_a_product_without_the_bias_that_others_have_adds_none(tmp_path: Path) -> None:
    """As in Qwen turned into a llama: q, k and v have biases, o has none."""
    model = tiny_llama(attention_bias=True)
    absent = [
        name
        for name, parameter in model.named_parameters()
        if name.endswith("o_proj.bias") or name == "model.layers.1.self_attn.k_proj.bias"
    ]
    for name in absent:
        torch.nn.init.zeros_(model.get_parameter(name))
    expected = reference_logits(model, TOKENS)
    for name in absent:
        model.get_submodule(name.removesuffix(".bias")).bias = None
    save_gguf(tmp_path / "model.gguf", model)
    torch.testing.assert_close(gguf_logits(tmp_path / "model.gguf"), expected, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize(
    "entries",
    [
        {"llama__rope__scaling__type": "linear", "llama__rope__scaling__factor": 4.0},
        {"llama__rope__scaling__factor": 4.0},
        {"llama__rope__scale_linear": 4.0},
        {"llama__rope__scale_linear": 2.0, "llama__rope__scaling__factor": 4.0},
        {
            "llama__rope__scaling__type": "linear",
            "llama__rope__scaling__factor": 4.0,
            "llama__rope__scaling__original_context_length": 16,
            "llama__rope__scaling__attn_factor": 1.0,
        },
    ],
    ids=str,
)
def test_linear_rope_is_read(entries: dict[str, Any], tmp_path: Path) -> None:
    model = tiny_llama(
        rope_parameters={"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0}
    )
    save_gguf(tmp_path / "model.gguf", model, **entries)
    torch.testing.assert_close(
        gguf_logits(tmp_path / "model.gguf"),
        reference_logits(model, TOKENS),
        atol=2e-5,
        rtol=1e-4,
    )


def test_a_factor_of_no_scaling_is_none(tmp_path: Path) -> None:
    entries: dict[str, Any] = {
        "llama__rope__scaling__type": "none",
        "llama__rope__scaling__factor": 4.0,
    }
    save_gguf(tmp_path / "model.gguf", tiny_llama(), **entries)
    expected = reference_logits(tiny_llama(), TOKENS)
    torch.testing.assert_close(gguf_logits(tmp_path / "model.gguf"), expected, atol=2e-5, rtol=1e-4)


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
        ({"llama__expert_count": 8}, "only dense ones of these"),
        ({"llama__rope__dimension_count": 4}, "a part of each head"),
        ({"llama__rope__scaling__type": "dynamic"}, "rope scaling 'dynamic'"),
        ({"split__count": 3}, "llama-gguf-split --merge"),
        ({"llama__block_count": None}, r"llama\.block_count is missing"),
        ({"llama__embedding_length": "wide"}, "damaged|missing|wrong"),
        ({"llama__attention__head_count": 0}, "an entry is damaged"),
        ({"llama__attention__head_count_kv": [2, 4]}, "head_count_kv differs from layer to layer"),
        ({"llama__feed_forward_length": [48, 24]}, "feed_forward_length differs from layer to"),
        ({"llama__rope__scaling__attn_factor": 1.2}, r"scaling\.attn_factor is 1\.2"),
        ({"llama__rope__scaling__type": "longrope"}, "rope scaling 'longrope'"),
        ({"llama__attention__value_length": 4}, "value_length is 4, but keys have 8"),
        ({"llama__attention__scale": 0.5}, r"attention\.scale is 0\.5; only 1 / sqrt\(8\)"),
        ({"llama__attention__causal": False}, r"llama\.attention\.causal is False"),
        ({"llama__attention__layer_norm_epsilon": 1e-5}, "layer_norm_epsilon is 9"),
        ({"llama__logit_scale": 0.5}, r"llama\.logit_scale is 0\.5"),
        ({"llama__vocab_size": 90}, r"vocab_size is 90, but token_embd\.weight has 96 rows"),
        ({"llama__block_count": 10**9}, "block_count is 1000000000, but 2 layers are stored"),
        ({"llama__block_count": 1}, "block_count is 1, but 2 layers are stored"),
        ({"llama__an_entry_of_tomorrow": 1}, r"llama\.an_entry_of_tomorrow is 1"),
        ({"llama__x\n\x1b[31m": 1}, r"'llama\.x\\n\\x1b\[31m' is 1"),
        ({"llama__tensor_data_layout": "another"}, "tensor_data_layout is 'another'"),
        ({"rope__freq_scale": 0.5}, r"rope\.freq_scale' is unknown"),
        ({"qwen2__rope__freq_base": 1e6}, r"qwen2\.rope\.freq_base' is unknown"),
        ({"adapter__type": "lora"}, "a LoRA adapter"),
        ({"general__quantization_version": 1}, "quantization_version is 1; only 2"),
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


@pytest.mark.parametrize(
    "name",
    [
        "output.bias", "token_embd.bias", "output_norm.bias", "blk.0.attn_norm.bias",
        "blk.0.attn_q_norm.weight", "blk.0.attn_qkv.weight", "blk.1.ffn_gate_exps.weight",
        "blk.0.attn_q.scale", "rope_factors_long.weight", "something.else", "x\x1b[31m\n",
    ],
)  # fmt: skip
def test_a_tensor_that_nothing_is_computed_with_is_refused(name: str, tmp_path: Path) -> None:
    save_gguf(tmp_path / "model.gguf", tiny_llama(), more_tensors={name: torch.ones(32)})
    with pytest.raises(ModelLoadError, match=r"computes nothing with it") as caught:
        open_gguf(tmp_path / "model.gguf")
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_entries_and_tensors_of_published_files_that_change_nothing_are_accepted(
    tmp_path: Path,
) -> None:
    entries: dict[str, Any] = {
        "general__name": "Tiny", "general__type": "model", "general__file_type": 3,
        "general__quantization_version": 2, "general__tags": ["a", "b"],
        "general__sampling__temp": 0.6, "quantize__imatrix__entries_count": 224,
        "split__no": 0, "split__count": 1, "split__tensors__count": 21,
        "mradermacher__quantized_by": "someone", "llama__vocab_size": 96,
        "llama__attention__value_length": 8, "llama__attention__scale": 8**-0.5,
        "llama__attention__causal": True, "llama__attention__sliding_window": 64,
        "llama__attention__head_count_kv": [2, 2], "llama__expert_count": 0,
        "llama__expert_used_count": 0, "llama__tensor_data_layout": "Meta AI original pth",
        "llama__rope__scaling__finetuned": False, "llama__rope__scaling__type": "none",
        "llama__rope__scaling__original_context_length": 16,
    }  # fmt: skip
    buffers = {f"blk.{layer}.attn_rot_embd.weight": torch.ones(4) for layer in range(2)}
    save_gguf(tmp_path / "model.gguf", tiny_llama(), more_tensors=buffers, **entries)
    expected = reference_logits(tiny_llama(), TOKENS)
    torch.testing.assert_close(gguf_logits(tmp_path / "model.gguf"), expected, atol=2e-5, rtol=1e-4)


def test_a_window_of_attention_less_than_the_context_is_refused(tmp_path: Path) -> None:
    save_gguf(tmp_path / "model.gguf", tiny_llama(), llama__attention__sliding_window=32)
    with pytest.raises(ModelLoadError, match="sliding_window is 32, less than the context"):
        open_gguf(tmp_path / "model.gguf")


def header(entries: bytes = b"", kv_count: int = 0, tensor_count: int = 0) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", 3, tensor_count, kv_count) + entries


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def tensor_info(shape: list[int], kind: int = 0) -> bytes:
    return text("t") + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, 0)


U8, U32, TEXT, ARRAY = 0, 4, 8, 9
HOSTILE = {
    "tensors": header(tensor_count=2**60) + bytes(4096),
    "entries": header(kv_count=2**60) + bytes(4096),
    "a string's length": header(struct.pack("<Q", 2**60) + bytes(64), kv_count=1),
    "a value's length": header(text("k") + struct.pack("<IQ", TEXT, 2**63) + bytes(64), 1),
    "numbers of an array": header(text("k") + struct.pack("<IIQ", ARRAY, U32, 2**61), 1),
    "strings of an array": header(text("k") + struct.pack("<IIQ", ARRAY, TEXT, 2**61), 1),
    "many empty strings": header(
        text("k") + struct.pack("<IIQ", ARRAY, TEXT, 3_000_000) + bytes(24_000_000), 1
    ),
    "nested arrays": header(
        text("k") + struct.pack("<I", ARRAY) + struct.pack("<IQ", ARRAY, 1) * 3000, 1
    ),
    "dimensions": header(text("t") + struct.pack("<I", 2**31) + bytes(256), tensor_count=1),
    "a size": header(tensor_info([2**62]) + bytes(256), tensor_count=1),
    "a size that overflows": header(tensor_info([2**32, 2**32]) + bytes(256), tensor_count=1),
    "an unknown type": header(tensor_info([4], kind=200) + bytes(256), tensor_count=1),
    "a duplicate": header((text("k") + struct.pack("<IB", U8, 1)) * 2, 2),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_sizes_that_a_file_declares_are_not_believed(name: str, tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(HOSTILE[name])
    tracemalloc.start()
    try:
        with pytest.raises(ModelLoadError) as caught:
            open_gguf(tmp_path / "model.gguf")
        assert tracemalloc.get_traced_memory()[1] < 100 << 20
    finally:
        tracemalloc.stop()
    assert "\n" not in str(caught.value)


def test_a_long_array_of_numbers_takes_the_memory_of_its_numbers(tmp_path: Path) -> None:
    numbers = struct.pack("<IIQ", ARRAY, U8, 20_000_000) + bytes(20_000_000)
    (tmp_path / "model.gguf").write_bytes(header(text("tokenizer.k") + numbers, 1))
    tracemalloc.start()
    try:
        with pytest.raises(ModelLoadError, match="missing"):
            open_gguf(tmp_path / "model.gguf")
        assert tracemalloc.get_traced_memory()[1] < 50 << 20
    finally:
        tracemalloc.stop()


def test_the_other_byte_order_is_refused(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "model.gguf", "llama", endianess=gguf.GGUFEndian.BIG)
    writer.add_tensor("token_embd.weight", np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ModelLoadError, match="the other byte order"):
        open_gguf(tmp_path / "model.gguf")


@pytest.mark.parametrize("seed", range(4))
def test_flipped_bytes_give_one_line_or_a_model_that_is_read_whole(
    seed: int, small_file: bytes, tmp_path: Path
) -> None:
    chosen = random.Random(seed)
    end_of_head = small_file.index(b"blk.0.ffn_down") + 60
    for _ in range(60):
        damaged = bytearray(small_file)
        for _ in range(chosen.choice((1, 1, 2, 8))):
            damaged[chosen.randrange(end_of_head)] = chosen.choice((0, 1, 9, 127, 255))
        file = tmp_path / "model.gguf"
        file.write_bytes(damaged)
        with contextlib.suppress(ModelLoadError):  # anything else would be a traceback
            model = open_gguf(file)
            for name in model.weights:
                assert tuple(model.weights[name].shape) == model.weights.shape(name)


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
