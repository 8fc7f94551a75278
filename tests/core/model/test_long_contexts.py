"""Texts longer than the window that a model was first trained for: yarn and longrope."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from sequoia_core.config import SamplingParams, WeightFormat
from sequoia_core.errors import ContextFullError, ParameterError
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.loader import open_directory
from sequoia_core.model.loading.pair import Pair, load_pair, with_other_draft
from sequoia_core.model.native.library import find_library
from sequoia_core.tree.growmap import GrowMap
from tests.core.checkpoints import reference_logits, reference_text, save_model, tiny_tokenizer
from tests.core.engines import make_engine, tokens_of
from tests.core.families import YARN, save_family
from tests.core.models import fresh_logits, path_to

CPU = torch.device("cpu")
TEXT = (torch.arange(60) * 31 + 3) % 96  # longer than the original window of 32 or 48
TREE = GrowMap((-1, 0, 0, 1, 1, 4))
LONG = "phi3 with longrope"
BUILT = pytest.mark.skipif(find_library() is None, reason="the native library was not built")
ROPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama, a longer text": ("llama", YARN),
    "llama, all entries": (
        "llama",
        {**YARN, "beta_fast": 8, "beta_slow": 0.5, "attention_factor": 1.4, "truncate": False},
    ),
    "llama, a smaller magnitude": ("llama", {**YARN, "mscale": 0.5, "mscale_all_dim": 1.0}),
    "qwen2": ("qwen2", {**YARN, "rope_theta": 1000.0, "beta_slow": 0.25}),
    "qwen3": ("qwen3", YARN),
    "gemma3, whole layers alone": (
        "gemma3",
        {"full_attention": YARN, "sliding_attention": {"rope_type": "default", "rope_theta": 9.0}},
    ),
    "longrope": (LONG, {}),
}


def opened(
    directory: Path, variant: str = LONG, seed: int = 0, **changes: Any
) -> tuple[Any, Llama]:
    """transformers' model and ours, for a context of all its tokens."""
    theirs = save_family(directory, variant, seed, **changes)
    model = open_directory(directory)
    return theirs, Llama(model.config.for_context(64), model.weights, CPU, torch.float32)


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=3e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ROPES)
def test_chunks_and_trees_read_as_transformers_reads_the_whole_text(
    name: str, tmp_path: Path
) -> None:
    variant, rope = ROPES[name]
    changes: dict[str, Any] = {"rope_parameters": rope} if rope else {}
    theirs, model = opened(tmp_path, variant=variant, **changes)
    expected = reference_logits(theirs, TEXT)
    cache = model.new_cache()
    for chunk in torch.split(TEXT[:51], [1, 30, 3, 17]):
        at = cache.length
        found = model.forward(chunk, torch.arange(at, at + len(chunk)), None, cache)
        close(found, expected[at : at + len(chunk)])
    tokens = (torch.arange(TREE.size) * 17 + 5) % 96
    positions = torch.tensor(TREE.depths) + 51
    found = model.forward(tokens, positions, TREE.ancestor_mask(), cache)
    for node in range(TREE.size):
        branch = torch.cat((TEXT[:51], tokens[path_to(TREE.parents, node)]))
        close(found[node], reference_logits(theirs, branch)[-1])


@pytest.mark.parametrize("name", ROPES)
def test_the_entry_changes_what_is_computed(name: str, tmp_path: Path) -> None:
    """Of a random model that is small: else the test above could not fail."""
    variant, rope = ROPES[name]
    changes: dict[str, Any] = {"rope_parameters": rope} if rope else {}
    _, model = opened(tmp_path / "scaled", variant=variant, **changes)
    plain: dict[str, Any] = {"rope_type": "default", "rope_theta": 100.0}
    if variant == "gemma3":
        plain = {**rope, "full_attention": plain}
    _, other = opened(tmp_path / "plain", variant=variant, rope_parameters=plain)
    assert (fresh_logits(model, TEXT) - fresh_logits(other, TEXT)).abs().max() > 0.05


@pytest.mark.parametrize(("variant", "changes"), [(LONG, {}), ("qwen3", {"rope_parameters": YARN})])
def test_a_tree_gives_the_tokens_of_plain_decoding(
    variant: str, changes: dict[str, Any], tmp_path: Path
) -> None:
    theirs, target = opened(tmp_path / "target", variant=variant, **changes)
    _, draft = opened(tmp_path / "draft", seed=1, variant=variant, **changes)
    prompt = TEXT[:50].tolist()
    engine = make_engine(target, draft, GrowMap.k_ary([3, 2, 1]))
    params = SamplingParams(temperature=0.0, max_new_tokens=10)
    expected = reference_text(theirs, prompt, 10)
    assert prompt + tokens_of(list(engine.generate(prompt, params))) == expected


@pytest.fixture
def phi(tmp_path: Path) -> str:
    """Its original window is 48, its longest 64."""
    save_family(tmp_path / "phi", LONG)
    tiny_tokenizer().save_pretrained(tmp_path / "phi")
    return str(tmp_path / "phi")


@pytest.fixture(
    params=[WeightFormat.TORCH, pytest.param(WeightFormat.NATIVE, marks=BUILT)], ids=str
)
def load(request: pytest.FixtureRequest) -> Callable[..., Pair]:
    return partial(load_pair, dtype="float32", weights=request.param)


def test_the_context_that_is_asked_for_chooses_the_factors(
    phi: str, load: Callable[..., Pair]
) -> None:
    """Once, from the first token on; transformers goes by each text's own length."""
    theirs = save_family(Path(phi), LONG)
    usual, long = load(phi), load(phi, context_window=64)
    assert (usual.description.context_window, usual.description.remark) == (48, "")
    assert long.description.context_window == 64
    assert "of more than 48 tokens takes longrope's long factors" in long.description.remark
    close(fresh_logits(usual.target, TEXT[:48]), reference_logits(theirs, TEXT[:48]))
    whole = reference_logits(theirs, TEXT)
    close(fresh_logits(long.target, TEXT), whole)
    close(fresh_logits(long.target, TEXT[:20]), whole[:20])
    assert (whole[:48] - reference_logits(theirs, TEXT[:48])).abs().max() > 1


def test_the_usual_factors_hold_where_memory_ends_the_window_before_the_long_ones(
    phi: str, load: Callable[..., Pair], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = load(phi, phi, context_window=40)
    for fitting, factors_of in ((40, usual), (50, load(phi, phi, context_window=64))):
        monkeypatch.setattr(
            "sequoia_core.model.loading.pair.fitting_window",
            lambda target, *_, most=fitting: min(most, target.config.context_window),
        )
        said: list[str] = []
        pair = load(
            phi, phi, context_window=64, progress=lambda text, _, said=said: said.append(text)
        )
        assert pair.description.context_window == pair.target.context_window == fitting
        assert (
            said.count(f"The context window is {fitting} tokens: more do not fit into the memory")
            == 1
        )
        assert bool(pair.description.remark) == (fitting > 48)
        assert pair.fingerprint == factors_of.fingerprint
        for model, other in ((pair.target, factors_of.target), (pair.draft, factors_of.draft)):
            assert torch.equal(fresh_logits(model, TEXT[:30]), fresh_logits(other, TEXT[:30]))
        assert with_other_draft(pair, phi).fingerprint == pair.fingerprint


def test_what_was_measured_belongs_to_the_factors_and_not_to_the_window(
    phi: str, load: Callable[..., Pair]
) -> None:
    usual, short, longer, longest = (
        load(phi, context_window=tokens).fingerprint for tokens in (None, 20, 49, 64)
    )
    assert usual == short
    assert longer == longest
    assert usual != longest


@pytest.mark.parametrize("tokens", [0, -1, 65])
def test_a_context_that_a_model_does_not_have_is_refused(tokens: int, phi: str) -> None:
    words = f"context_window is {tokens}, but phi has 64 tokens of context; give 1 to 64"
    with pytest.raises(ParameterError, match=words) as caught:
        load_pair(phi, context_window=tokens)
    assert "\n" not in str(caught.value)


def test_any_model_may_have_a_shorter_context(tmp_path: Path, load: Callable[..., Pair]) -> None:
    save_model(tmp_path / "llama", tiny_tokenizer())
    pair = load(str(tmp_path / "llama"), context_window=16)
    assert pair.description.context_window == pair.target.context_window == 16
    with pytest.raises(ContextFullError):
        fresh_logits(pair.target, TEXT[:17])
    with pytest.raises(ParameterError, match="but llama has 64 tokens"):
        load(str(tmp_path / "llama"), context_window=65)


def test_a_draft_takes_the_factors_of_the_same_context(
    phi: str, tmp_path: Path, load: Callable[..., Pair]
) -> None:
    """Also one that is loaded later, and one whose own window is shorter."""
    pair = load(phi, phi, context_window=60)
    assert pair.draft is not None
    close(fresh_logits(pair.draft, TEXT), fresh_logits(pair.target, TEXT))
    other = with_other_draft(load(phi, context_window=60), phi)
    assert other.fingerprint == pair.fingerprint
    assert other.draft is not None
    close(fresh_logits(other.draft, TEXT), fresh_logits(pair.target, TEXT))
    save_model(tmp_path / "short", tiny_tokenizer(), max_position_embeddings=20)
    short = load(phi, str(tmp_path / "short"), context_window=60)
    assert short.draft is not None
    assert (short.target.context_window, short.draft.context_window) == (60, 20)
