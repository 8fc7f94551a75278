"""Every family's forward is transformers' own, over texts, chunks and trees."""

from pathlib import Path

import pytest
import torch

from sequoia_core.config import SamplingParams
from sequoia_core.model.config_entries import families
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.tree.growmap import GrowMap
from tests.core.checkpoints import reference_logits
from tests.core.engines import make_engine, tokens_of
from tests.core.families import VARIANTS, save_family
from tests.core.models import fresh_logits, path_to

CPU = torch.device("cpu")
TEXT = (torch.arange(40) * 31 + 3) % 96  # longer than any window
TREE = GrowMap((-1, 0, 0, 0, 1, 1, 3, 4, 7, 8))


def opened(directory: Path) -> Llama:
    model = open_directory(directory)
    return Llama(model.config, model.weights, CPU, torch.float32)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=3e-4, rtol=1e-4)


def test_each_family_has_a_variant() -> None:
    assert {kind for kind, _ in VARIANTS.values()} | {"llama"} == families().keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant: str, tmp_path: Path) -> None:
    expected = reference_logits(save_family(tmp_path, variant), TEXT)
    close(fresh_logits(opened(tmp_path), TEXT), expected)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_text_may_be_read_in_chunks(variant: str, tmp_path: Path) -> None:
    expected = reference_logits(save_family(tmp_path, variant), TEXT)
    model = opened(tmp_path)
    cache = model.new_cache()
    for chunk in torch.split(TEXT[:30], [1, 12, 3, 14]):
        model.extend(chunk, cache)
    for chunk in torch.split(TEXT[30:], [1, 4, 1, 4]):
        positions = torch.arange(cache.length, cache.length + len(chunk))
        found = model.forward(chunk, positions, None, cache)
        close(found, expected[cache.length - len(chunk) : cache.length])


@pytest.mark.parametrize("prefix", [0, 5, 23])
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_branch_of_a_tree_reads_as_its_text_does(
    variant: str, prefix: int, tmp_path: Path
) -> None:
    """In a sliding layer too, where a row sees so many positions and not so many rows."""
    theirs, model = save_family(tmp_path, variant), opened(tmp_path)
    cache = model.new_cache()
    if prefix:
        model.extend(TEXT[:prefix], cache)
    tokens = (torch.arange(TREE.size) * 17 + 5) % 96
    positions = torch.tensor(TREE.depths) + prefix
    found = model.forward(tokens, positions, TREE.ancestor_mask(), cache)
    for node in range(TREE.size):
        branch = torch.cat((TEXT[:prefix], tokens[path_to(TREE.parents, node)]))
        close(found[node], reference_logits(theirs, branch)[-1])
    kept = path_to(TREE.parents, 8)
    cache.keep(prefix, [prefix + node for node in kept])
    branch = torch.cat((TEXT[:prefix], tokens[kept], TEXT[:3]))
    positions = torch.arange(cache.length, cache.length + 3)
    close(model.forward(TEXT[:3], positions, None, cache), reference_logits(theirs, branch)[-3:])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_tree_gives_the_tokens_of_plain_decoding(variant: str, tmp_path: Path) -> None:
    theirs = save_family(tmp_path / "target", variant)
    save_family(tmp_path / "draft", variant, seed=1, num_hidden_layers=2)
    target, draft = opened(tmp_path / "target"), opened(tmp_path / "draft")
    prompt = TEXT[:12].tolist()
    engine = make_engine(target, draft, GrowMap.k_ary([3, 2, 1]))
    params = SamplingParams(temperature=0.0, max_new_tokens=24)
    expected = list(prompt)
    for _ in range(24):
        expected.append(int(reference_logits(theirs, torch.tensor(expected))[-1].argmax()))
    assert prompt + tokens_of(list(engine.generate(prompt, params))) == expected
