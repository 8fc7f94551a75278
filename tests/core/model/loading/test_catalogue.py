"""The catalogue's arithmetic gives the published parameter counts, and its names are found."""

from math import prod

import pytest

from sequoia_core.errors import ParameterError
from sequoia_core.model.loading.catalogue import (
    PairEntry,
    catalogue,
    find_pair,
    known_draft,
)
from sequoia_core.model.loading.loader import BUNDLED_DRAFT, open_directory, open_target
from sequoia_core.model.loading.memory_plan import recording_bytes
from sequoia_core.model.tensor_names import DRAFT_VOCAB_IDS, expected_shapes

PUBLISHED_PARAMETERS = {
    "SmolLM2-135M-Instruct": 134_515_008,
    "meta-llama/Llama-2-7b-chat-hf": 6_738_415_616,
    "meta-llama/Llama-2-13b-chat-hf": 13_015_864_320,
    "JackFram/llama-68m": 68_030_208,
    "lmsys/vicuna-33b-v1.3": 32_528_943_616,
    "princeton-nlp/Sheared-LLaMA-1.3B": 1_345_423_360,
    "meta-llama/Llama-3.1-8B-Instruct": 8_030_261_248,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
    "TinyLlama/TinyLlama-1.1B-Chat-v1.0": 1_100_048_384,
    "Qwen/Qwen3-0.6B": 596_049_920,
    "Qwen/Qwen3-4B": 4_022_468_096,
    "Qwen/Qwen3-8B": 8_190_735_360,
    "Qwen/Qwen3-14B": 14_768_307_200,
    "Qwen/Qwen3-32B": 32_762_123_264,
    "Qwen/Qwen2.5-0.5B-Instruct": 494_032_768,
    "Qwen/Qwen2.5-7B-Instruct": 7_615_616_512,
    "google/gemma-2-2b-it": 2_614_341_888,
    "google/gemma-2-9b-it": 9_241_705_984,
    "google/gemma-3-270m-it": 268_098_176,
    "google/gemma-3-1b-it": 999_885_952,
    "google/gemma-3-12b-it": 11_766_034_176,  # its text part
    "meta-llama/Llama-3.3-70B-Instruct": 70_553_706_496,
    "allenai/OLMo-2-0425-1B-Instruct": 1_484_916_736,
    "allenai/OLMo-2-1124-7B-Instruct": 7_298_617_344,
    "ibm-granite/granite-3.3-2b-instruct": 2_533_539_840,
    "ibm-granite/granite-3.3-8b-instruct": 8_170_864_640,
    "mistralai/Mistral-Large-Instruct-2407": 122_610_069_504,
    "mistralai/Mistral-7B-Instruct-v0.3": 7_248_023_552,
}


def eagle3_parameters(inner: int) -> int:
    """By a file: `fc`, queries, keys and values, output, MLP, four norms, head, and `d2t`."""
    attention = 2 * 4096 * (4096 + 2 * 1024) + 4096**2
    return 3 * 4096**2 + attention + 3 * 4096 * inner + 4 * 4096 + 32000 * 4096 + 32000


EAGLE3_PARAMETERS = {
    "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B": eagle3_parameters(14336),
    "AngelSlim/Qwen3-8B_eagle3": eagle3_parameters(12288),
}


def test_parameter_counts_are_those_published() -> None:
    models = {model.name: model for pair in catalogue() for model in (pair.target, pair.draft)}
    known = PUBLISHED_PARAMETERS | EAGLE3_PARAMETERS
    assert models.keys() - known.keys() == {"bundled draft"}
    for name, count in known.items():
        assert models[name].parameters == count


STATED = (
    "hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "head_dim",
    "context_window",
)  # fmt: skip
"""Entries of the catalogue with the same meaning as in `ModelConfig`."""


def test_the_bundled_draft_is_described_as_its_files_are() -> None:
    draft = find_pair("embedded").draft
    config = open_directory(BUNDLED_DRAFT).config
    for name in STATED:
        assert getattr(draft.config, name) == getattr(config, name), name
    assert draft.config.vocab_size == config.head_vocab_size
    assert len(draft.config.feature_layers) == len(config.feature_layers)
    stored = {name: prod(sizes) for name, sizes in expected_shapes(config).items()}
    assert draft.parameters == sum(stored.values()) - stored[DRAFT_VOCAB_IDS]


@pytest.mark.embedded
def test_the_embedded_target_is_described_as_its_file_is() -> None:
    target, config = find_pair("embedded").target.config, open_target(None).config
    for name in (*STATED, "vocab_size", "tie_word_embeddings"):
        assert getattr(target, name) == getattr(config, name), name


def test_the_pairs_asked_for_are_there_smallest_first() -> None:
    names = [entry.name for entry in catalogue()]
    assert set(names) == {
        "embedded", "tinyllama-1.1b", "llama-2-7b", "llama-3.1-8b",
        "llama-3.1-8b-eagle3", "qwen3-8b-eagle3", "llama-2-13b", "vicuna-33b",
        "qwen3-4b", "qwen3-8b", "qwen3-14b", "qwen3-32b", "qwen2.5-7b", "gemma-2-9b",
        "gemma-3-12b", "gemma-3-12b-270m", "granite-3.3-8b", "olmo-2-7b", "llama-3.3-70b",
        "mistral-large",
    }  # fmt: skip
    targets = [entry.target.parameters for entry in catalogue()]
    assert targets == sorted(targets)


def test_llama_2_7b_needs_its_weights_and_half_a_mebibyte_a_token() -> None:
    """And 768 B of mask a token, logits of 128 nodes, activations of 256 rows, CUDA, its graphs."""
    entry = find_pair("llama-2-7b")
    assert entry.context == 2048
    assert entry.target.kv_bytes(1) == 2**19
    draft_kv = 2 * 2 * 12 * 64 * 2 * 2048
    weights = 2 * (6_738_415_616 + 68_030_208)
    masks = 256 * 3 * 2048
    logits = 128 * 32_000 * (6 + 10) + 2 * 64 * 32_000 * 4
    activations = 256 * 2 * (3 * 11_008 + 2 * 96 * 128 + 4 * 4_096)
    needed = weights + 2**30 + draft_kv + masks + logits + activations
    assert entry.plan(on_gpu=False).needed(2048) == needed
    on_gpu = needed + 2**29 + recording_bytes(32_000, 32_000)
    assert entry.plan(on_gpu=True).needed(2048) == on_gpu


def test_memory_counts_the_states_that_a_draft_reads() -> None:
    """Three of the target's and one of its own, in 16 bits, beside the keys and values."""
    entry = find_pair("llama-3.1-8b-eagle3")
    token = entry.plan(on_gpu=True).token
    keys = 2 * 2 * 8 * 128 * (32 + 1)
    assert token == keys + 2 * 4096 * (3 + 1) + 256 * (4 * 2 + 1)


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.name)
def test_a_pair_fits_only_with_room_to_spare(entry: PairEntry) -> None:
    needed = entry.plan(on_gpu=True).needed(entry.context)
    assert not entry.fits(needed, on_gpu=True)
    assert entry.fits(2 * needed, on_gpu=True)


def test_a_pair_is_gated_when_either_model_is() -> None:
    assert find_pair("llama-2-7b").gated
    assert not find_pair("vicuna-33b").gated


def test_an_unknown_pair_lists_close_names() -> None:
    with pytest.raises(ParameterError, match="llama-2-7b"):
        find_pair("lama-2-7b")
    with pytest.raises(ParameterError, match="embedded, tinyllama"):
        find_pair("zzz")


def test_a_known_target_has_its_draft() -> None:
    assert known_draft("meta-llama/llama-2-7B-chat-hf") == "JackFram/llama-68m"
    assert known_draft("Qwen/Qwen3-8B") == "Qwen/Qwen3-0.6B"  # the first of several
    assert known_draft("SmolLM2-135M-Instruct") is None
    assert known_draft("somebody/else") is None
