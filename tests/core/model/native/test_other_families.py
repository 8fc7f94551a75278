"""The native library computes every family, and leaves what it does not know to PyTorch."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor

from sequoia_core.config import Lookup, Mode, Quantize, SamplingParams, WeightFormat
from sequoia_core.errors import ParameterError
from sequoia_core.model.batch import NativeBatch
from sequoia_core.model.interface import LanguageModel
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.gguf import open_gguf
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.loading.pair import load_pair
from sequoia_core.model.native import matrices
from sequoia_core.model.native.library import Pool
from sequoia_core.model.native.llama import NativeLlama
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.checkpoints import reference_logits, tiny_tokenizer
from tests.core.engines import make_engine, steps_of, tokens_of
from tests.core.families import VARIANTS, save_family, save_family_gguf, tiny_model
from tests.core.model.loading.test_gguf_families import WRITTEN
from tests.core.models import fresh_logits, one_by_one, path_to

IDS = (torch.arange(40) * 31 + 3) % 96  # longer than any window
TREE = GrowMap((-1, 0, 0, 0, 1, 1, 3, 4, 7, 8))


def native(directory: Path, feature_layers: Sequence[int] = ()) -> NativeLlama:
    model = open_directory(directory)
    return NativeLlama(model.config, model.weights, Pool(2), feature_layers=feature_layers)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_native_forward_is_transformers_own(variant: str, tmp_path: Path) -> None:
    expected = reference_logits(save_family(tmp_path, variant), IDS)
    tiny_tokenizer().save_pretrained(tmp_path)
    pair = load_pair(str(tmp_path), dtype="float32")
    assert pair.native
    close(fresh_logits(pair.target, IDS), expected)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_native_forward_of_a_gguf_file_is_transformers_own(name: str, tmp_path: Path) -> None:
    variant, changes = WRITTEN[name]
    theirs = tiny_model(variant, **changes)
    save_family_gguf(tmp_path / "model.gguf", theirs)
    model = open_gguf(tmp_path / "model.gguf")
    close(
        fresh_logits(NativeLlama(model.config, model.weights, Pool(1)), IDS),
        reference_logits(theirs, IDS),
    )


@pytest.mark.parametrize("prefix", [0, 5, 23])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_branch_of_a_tree_has_the_bits_of_its_text(
    variant: str, prefix: int, tmp_path: Path
) -> None:
    """However the text was read; and the logits of transformers."""
    theirs, model = save_family(tmp_path, variant), native(tmp_path)
    cache = model.new_cache()
    for chunk in torch.split(IDS[:prefix], 4) if prefix else ():
        model.extend(chunk, cache)
    tokens = (torch.arange(TREE.size) * 17 + 5) % 96
    places, mask = torch.tensor(TREE.depths) + prefix, TREE.ancestor_mask()
    found = model.forward(tokens, places, mask, cache)
    for node in range(TREE.size):
        branch = torch.cat((IDS[:prefix], tokens[path_to(TREE.parents, node)]))
        assert torch.equal(found[node], one_by_one(model, branch.tolist(), model.new_cache())[-1])
        close(found[node], reference_logits(theirs, branch)[-1])
    kept = path_to(TREE.parents, 8)
    cache.keep(prefix, [prefix + node for node in kept])
    branch = torch.cat((IDS[:prefix], tokens[kept], IDS[:3]))
    alone = one_by_one(model, branch.tolist(), model.new_cache())
    assert torch.equal(one_by_one(model, IDS[:3].tolist(), cache), alone[-3:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_texts_of_a_batch_and_what_drafts_read_are_those_of_one_text(
    variant: str, tmp_path: Path
) -> None:
    save_family(tmp_path, variant)
    model, opened = native(tmp_path, (0, 2)), open_directory(tmp_path)
    reference = Llama(opened.config, opened.weights, torch.device("cpu"), torch.float32, (0, 2))
    cache, batch = reference.new_cache(), NativeBatch(model, 3)
    expected = reference.forward(IDS, torch.arange(len(IDS)), None, cache)
    texts = [IDS[:1], IDS[:17], IDS]
    _, logits = batch.forward([text.tolist() for text in texts])
    for row, text in enumerate(texts):
        close(logits[row], expected[len(text) - 1])
        close(batch.features(row), cache.features(0, len(text)))
        alone = model.new_cache()
        assert torch.equal(logits[row], one_by_one(model, text.tolist(), alone)[-1])
        assert torch.equal(batch.features(row), alone.features(0, len(text)))


CHOICES = {
    "tree": TreeChoice(Mode.SEQUOIA, GrowMap.k_ary([3, 2, 1])),
    "adaptive with look-up": TreeChoice(Mode.SEQUOIA, adaptive=True, lookup=Lookup.ON),
}


@pytest.mark.parametrize("quantize", [Quantize.NONE, Quantize.INT8])
@pytest.mark.parametrize("variant", VARIANTS)
def test_trees_give_the_tokens_of_plain_decoding(
    variant: str, quantize: Quantize, tmp_path: Path
) -> None:
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 8}
    for name, seed in (("target", 0), ("draft", 1)):
        save_family(tmp_path / name, variant, seed, **sizes)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    pair = load_pair(str(tmp_path / "target"), str(tmp_path / "draft"), quantize=quantize)
    assert pair.native
    assert pair.draft is not None
    prompt, params = IDS[:12].tolist(), SamplingParams(temperature=0.0, max_new_tokens=24)
    expected = plain(pair.target, prompt, 24)
    engine = make_engine(pair.target, DraftModel(pair.draft, pair.draft_vocab_ids))
    for choice in CHOICES.values():
        engine.tree_choice = choice
        events = list(engine.generate(prompt, params))
        assert tokens_of(events) == expected
        assert any(len(step.nodes) > 1 for step in steps_of(events))


def plain(model: LanguageModel, prompt: Sequence[int], count: int) -> list[int]:
    """The tokens of greedy decoding, one row at a time."""
    cache, tokens = model.new_cache(), list(prompt)
    for at in range(len(prompt) + count - 1):
        row = model.forward(torch.tensor([tokens[at]]), torch.tensor([at]), None, cache)
        if at >= len(prompt) - 1:
            tokens.append(int(row[0].argmax()))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("variant", ["olmo2", "phi3"])
def test_what_it_does_not_know_is_left_to_pytorch(
    variant: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matrices, "FEATURES", matrices.FEATURES - {"norm_outputs", "fused"})
    expected = reference_logits(save_family(tmp_path, variant), IDS)
    tiny_tokenizer().save_pretrained(tmp_path)
    pair = load_pair(str(tmp_path), dtype="float32")
    assert not pair.native
    assert re.search("computes no (norm outputs|fused), which", pair.description.remark)
    close(fresh_logits(pair.target, IDS), expected)
    with pytest.raises(ParameterError, match=r"the native forward computes no .*; leave --weights"):
        load_pair(str(tmp_path), weights=WeightFormat.NATIVE)
