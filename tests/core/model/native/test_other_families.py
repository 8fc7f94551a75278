"""The native library computes the families that it can, and leaves the others to PyTorch."""

from pathlib import Path

import pytest
import torch

from sequoia_core.config import WeightFormat
from sequoia_core.errors import ParameterError
from sequoia_core.model.loading.gguf import open_gguf
from sequoia_core.model.loading.pair import load_pair
from sequoia_core.model.native.library import Pool
from sequoia_core.model.native.llama import NativeLlama
from tests.core.checkpoints import reference_logits, tiny_tokenizer
from tests.core.families import VARIANTS, save_family, save_family_gguf, tiny_model
from tests.core.models import fresh_logits

IDS = (torch.arange(40) * 31 + 3) % 96
NATIVE = ("llama", "mistral", "qwen2")


@pytest.mark.parametrize("variant", NATIVE)
def test_a_native_forward_is_transformers_own(variant: str, tmp_path: Path) -> None:
    expected = reference_logits(save_family(tmp_path, variant), IDS)
    tiny_tokenizer().save_pretrained(tmp_path)
    pair = load_pair(str(tmp_path), dtype="float32")
    assert pair.native
    torch.testing.assert_close(fresh_logits(pair.target, IDS), expected, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", NATIVE)
def test_a_native_forward_of_a_gguf_file_is_transformers_own(variant: str, tmp_path: Path) -> None:
    theirs = tiny_model(variant)
    save_family_gguf(tmp_path / "model.gguf", theirs)
    model = open_gguf(tmp_path / "model.gguf")
    native = NativeLlama(model.config, model.weights, Pool(1))
    found, expected = fresh_logits(native, IDS), reference_logits(theirs, IDS)
    torch.testing.assert_close(found, expected, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", sorted(VARIANTS.keys() - set(NATIVE)))
def test_pytorch_computes_the_others(variant: str, tmp_path: Path) -> None:
    expected = reference_logits(save_family(tmp_path, variant), IDS)
    tiny_tokenizer().save_pretrained(tmp_path)
    pair = load_pair(str(tmp_path), dtype="float32")
    assert "the native forward computes no " in pair.description.remark
    torch.testing.assert_close(fresh_logits(pair.target, IDS), expected, atol=3e-4, rtol=1e-4)
    with pytest.raises(ParameterError, match=r"the native forward computes no .*; leave --weights"):
        load_pair(str(tmp_path), weights=WeightFormat.NATIVE)
