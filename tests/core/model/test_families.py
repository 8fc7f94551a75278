"""Every family's forward is transformers' own, over texts, chunks and trees."""

from pathlib import Path

import pytest
import torch

from sequoia_core.config import Offload, SamplingParams
from sequoia_core.distill.student import Student, student_config, write_draft
from sequoia_core.errors import ContextFullError
from sequoia_core.model.batch import Batch
from sequoia_core.model.config_entries import families
from sequoia_core.model.device import Placement
from sequoia_core.model.graphs import Graphs
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.offload.model import load_offloaded
from sequoia_core.model.recorded import RecordedForward
from sequoia_core.model.tensor_names import EMBEDDING
from sequoia_core.tree.growmap import GrowMap
from tests.core.checkpoints import reference_logits, reference_text
from tests.core.engines import make_engine, tokens_of
from tests.core.families import VARIANTS, save_family
from tests.core.models import fresh_logits, path_to
from tests.tape_runner import TapeRunner

CPU = torch.device("cpu")
TEXT = (torch.arange(40) * 31 + 3) % 96  # longer than any window
TREE = GrowMap((-1, 0, 0, 0, 1, 1, 3, 4, 7, 8))


def opened(directory: Path, dtype: torch.dtype = torch.float32) -> Llama:
    model = open_directory(directory)
    return Llama(model.config, model.weights, CPU, dtype)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=3e-4, rtol=1e-4)


def test_each_family_has_a_variant() -> None:
    assert {kind for kind, _ in VARIANTS.values()} == families().keys()


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_equal_transformers(variant: str, tmp_path: Path) -> None:
    expected = reference_logits(save_family(tmp_path, variant), TEXT)
    close(fresh_logits(opened(tmp_path), TEXT), expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_in_16_bits_logits_are_near_those(variant: str, dtype: torch.dtype, tmp_path: Path) -> None:
    expected = reference_logits(save_family(tmp_path, variant), TEXT)
    found = fresh_logits(opened(tmp_path, dtype), TEXT).float()
    error = float((found - expected).norm() / expected.norm())
    assert 1e-5 < error < (0.06 if dtype is torch.bfloat16 else 0.01)


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


def test_longrope_is_not_read_past_its_original_window(tmp_path: Path) -> None:
    """There transformers computes all keys anew with other factors."""
    theirs, model = save_family(tmp_path, "phi3 with longrope"), opened(tmp_path)
    ids = (torch.arange(49) * 31 + 3) % 96
    cache = model.new_cache()
    close(
        model.forward(ids[:48], torch.arange(48), None, cache), reference_logits(theirs, ids[:48])
    )
    assert (reference_logits(theirs, ids)[:48] - reference_logits(theirs, ids[:48])).abs().max() > 1
    with pytest.raises(ContextFullError):
        model.forward(ids[48:], torch.tensor([48]), None, cache)


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_tree_gives_the_tokens_of_plain_decoding(variant: str, tmp_path: Path) -> None:
    theirs = save_family(tmp_path / "target", variant)
    save_family(tmp_path / "draft", variant, seed=1)
    target, draft = opened(tmp_path / "target"), opened(tmp_path / "draft")
    prompt = TEXT[:12].tolist()
    engine = make_engine(target, draft, GrowMap.k_ary([3, 2, 1]))
    params = SamplingParams(temperature=0.0, max_new_tokens=24)
    expected = reference_text(theirs, prompt, 24)
    assert prompt + tokens_of(list(engine.generate(prompt, params))) == expected


@pytest.mark.parametrize("variant", VARIANTS)
def test_recordings_and_offloaded_layers_compute_the_same(variant: str, tmp_path: Path) -> None:
    """Longer and longer texts of one recording: trees, and single rows of a text."""
    save_family(tmp_path, variant)
    plain, recorded, runner = opened(tmp_path), opened(tmp_path), TapeRunner()
    recorded.recorded = RecordedForward(Graphs(runner, CPU))
    opened_again = open_directory(tmp_path)
    placement = Placement((CPU,), Offload.DISK)
    offloaded = load_offloaded(
        opened_again.config, torch.float32, opened_again.weights, placement, resident=1
    )
    models = (plain, recorded, offloaded)
    caches = [model.new_cache() for model in models]
    for model, cache in zip(models, caches, strict=True):
        model.extend(TEXT[:4], cache)
    tokens, mask = TEXT[: TREE.size], TREE.ancestor_mask()
    for step in range(12):
        depths = torch.tensor(TREE.depths)
        logits, rows = [], []
        for model, cache in zip(models, caches, strict=True):
            length = cache.length
            found = model.forward(tokens, depths + length, mask, cache).clone()
            cache.keep(length, [length, length + 2][: 1 + step % 2])
            at = torch.tensor([cache.length])
            row = model.forward(TEXT[step : step + 1], at, None, cache).clone()
            logits.append(found)
            rows.append(row)
        for other in (1, 2):
            close(logits[other], logits[0])
            close(rows[other], rows[0])
    assert runner.recorded == 2
    assert runner.replayed == 24
    offloaded.layer_stream.close()


@pytest.mark.parametrize("variant", VARIANTS)
def test_many_texts_at_once_compute_the_same(variant: str, tmp_path: Path) -> None:
    save_family(tmp_path, variant)
    model = opened(tmp_path)
    batch, expected = Batch(model, 16), fresh_logits(model, TEXT)
    for at, token in enumerate(TEXT.tolist()):
        ids = [[token] if row == 3 or at % (row + 1) == 0 else [] for row in range(16)]
        done, logits = batch.forward(ids)
        close(logits[done.index(3)], expected[at])


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_draft_made_for_a_family_is_a_llama(variant: str, tmp_path: Path) -> None:
    save_family(tmp_path / "target", variant)
    target = open_directory(tmp_path / "target")
    config = student_config(target.config, 1, 40, (0, 2))
    assert config.beyond_llama == ()
    student = Student(config, target.weights[EMBEDDING], torch.arange(40))
    student.begin_from_target(target.weights, target.config, (0,), 0)
    close(student.norm, opened(tmp_path / "target")._norm._weight)
    write_draft(tmp_path / "draft", student, target.settings, "q8_0", {})
    draft = open_directory(tmp_path / "draft")
    assert draft.config == config
