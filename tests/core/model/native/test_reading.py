"""What the library computes from logits, against PyTorch's operations on the same rows."""

from array import array
from itertools import permutations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sequoia_core.errors import ModelLoadError
from sequoia_core.model.interface import Draws, LevelDraw, Paths, TreeRows
from sequoia_core.model.native.library import Pool
from sequoia_core.model.native.llama import Continuation, NativeLlama
from sequoia_core.model.native.rows import NativeRows
from sequoia_core.speculate.sampling import labelled_draws
from sequoia_core.speculate.token_tree import TreeLayout
from sequoia_core.tree.growmap import GrowMap
from tests.core.model.native.test_invariance import MODELS, read, tree_mask
from tests.core.models import random_weights, tiny_config

CASES = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
CONTEXT = 21
CPU = torch.device("cpu")


@st.composite
def shapes(draw: st.DrawFn) -> GrowMap:
    """Trees of up to 12 nodes, numbered breadth first."""
    parents = [-1]
    for node in range(1, draw(st.integers(1, 12))):
        parents.append(draw(st.integers(max(parents[-1], 0), node - 1)))
    return GrowMap(tuple(parents))


@pytest.mark.parametrize("model", MODELS.values(), ids=map(str, MODELS))
@CASES
@given(shape=shapes(), temperature=st.sampled_from([0.3, 1.0, 2.5]), seed=st.integers(0, 99))
def test_a_tree_is_read_as_under_its_mask(
    model: NativeLlama, shape: GrowMap, temperature: float, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(model.vocab_size, (CONTEXT + shape.size,), generator=generator)
    cache = read(model, ids[:CONTEXT], ())
    layout, nodes = TreeLayout(shape, CPU), ids[CONTEXT:]
    expected = model.forward(nodes, CONTEXT + layout.depths, layout.mask, cache)
    cache.truncate(CONTEXT)
    rows = TreeRows(nodes.tolist(), CONTEXT, layout.paths)
    logits, summary = model.read_tree(rows, layout.host_parents, temperature, cache)
    assert logits.numpy().tobytes() == expected.numpy().tobytes()
    assert list(summary.argmax) == expected.argmax(-1).tolist()
    wanted = torch.log_softmax(expected.double() / temperature, -1)
    assert list(summary.log_totals) == pytest.approx(
        torch.logsumexp(expected.double() / temperature, -1).tolist(), abs=1e-5
    )
    assert list(summary.log_probs) == pytest.approx(
        wanted[layout.parents, nodes].tolist(), abs=1e-5
    )


@pytest.mark.parametrize("model", MODELS.values(), ids=map(str, MODELS))
def test_children_are_the_most_probable_tokens_at_the_root_and_below(model: NativeLlama) -> None:
    ids = torch.randint(
        model.vocab_size, (CONTEXT + 4,), generator=torch.Generator().manual_seed(3)
    )
    cache = read(model, ids[: CONTEXT - 3], ())
    expected = model.forward(
        ids[CONTEXT - 3 : CONTEXT], torch.arange(CONTEXT - 3, CONTEXT), None, cache
    )
    cache.truncate(CONTEXT - 3)
    pending = ids[CONTEXT - 3 : CONTEXT].tolist()
    draws = model.read_level(TreeRows(pending), 5, cache, LevelDraw())
    check_top(expected[-1:], draws)
    parents = (-1, -1, 0, 1)
    expected = model.forward(
        ids[CONTEXT:], torch.tensor([0, 0, 1, 1]) + CONTEXT, tree_mask(parents, CONTEXT), cache
    )
    cache.truncate(CONTEXT)
    paths = Paths.of([(0,), (1,), (0, 2), (1, 3)])
    draws = model.read_level(
        TreeRows(ids[CONTEXT:].tolist(), CONTEXT, paths), 5, cache, LevelDraw()
    )
    check_top(expected, draws)
    assert torch.allclose(draws.distributions, torch.softmax(expected, -1), atol=1e-6)


def check_top(logits: torch.Tensor, draws: Draws) -> None:
    expected = torch.softmax(logits, -1).topk(5)
    assert list(draws.columns) == expected.indices.flatten().tolist()
    assert list(draws.probs) == pytest.approx(expected.values.flatten().tolist(), rel=1e-5)
    assert list(draws.stated) == pytest.approx(list(draws.probs), rel=1e-5)
    assert list(draws.peaks) == pytest.approx(expected.values[:, 0].tolist(), rel=1e-5)


@pytest.mark.parametrize("model", MODELS.values(), ids=map(str, MODELS))
@pytest.mark.parametrize("temperature", [0.3, 0.6, 1.0, 2.0])
def test_drawn_children_state_their_probability_at_temperature_1_too(
    model: NativeLlama, temperature: float
) -> None:
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(model.vocab_size, (CONTEXT + 1,), generator=generator)
    cache = read(model, ids[:CONTEXT], ())
    logits = model.forward(ids[CONTEXT:], torch.tensor([CONTEXT]), None, cache)
    cache.truncate(CONTEXT)
    draw = LevelDraw(temperature, generator)
    draws = model.read_level(TreeRows(ids[CONTEXT:].tolist()), 4, cache, draw)
    drawn = list(draws.columns)
    assert len({*drawn}) == 4
    for temperature_of, found in ((temperature, draws.probs), (1.0, draws.stated)):
        wanted = torch.softmax(logits[0] / temperature_of, -1)[drawn]
        assert list(found) == pytest.approx(wanted.tolist(), rel=1e-5)
    assert draws.peaks[0] == pytest.approx(float(torch.softmax(logits[0], -1).max()), rel=1e-5)


@pytest.mark.parametrize("model", list(MODELS.values())[:1], ids=map(str, list(MODELS)[:1]))
def test_a_path_that_does_not_end_at_its_row_is_refused(model: NativeLlama) -> None:
    cache = read(model, torch.arange(CONTEXT), ())
    rows = TreeRows([1, 2], CONTEXT, Paths(array("i", [1, 1]), array("i", [0, 0])))
    with pytest.raises(Exception, match="a path does not end at its own row"):
        model.read_level(rows, 1, cache, LevelDraw())
    assert cache.length == CONTEXT


ROWS = NativeRows(Pool(2)) if MODELS else None


@pytest.mark.skipif(ROWS is None, reason="the native library was not built")
@pytest.mark.parametrize("columns", [32, 1000, 49_152])
def test_labelled_draws_are_those_of_pytorch(columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert ROWS is not None
    # an earlier test may have loaded a native pair
    monkeypatch.setattr("sequoia_core.model.native.rows._reader", None)
    generator = torch.Generator().manual_seed(columns)
    logits = torch.randn((40, columns), generator=generator) * 3
    logits[::5, ::2] = -torch.inf
    temperatures = [0.0, 0.3, 0.6, 1.0] * 10
    uniforms = torch.rand(40, generator=generator, dtype=torch.float64).tolist()
    expected = labelled_draws(logits, temperatures, uniforms, 16)
    found = ROWS.labelled_draws(logits, temperatures, uniforms, 16)
    assert torch.equal(found.columns, expected.columns)
    torch.testing.assert_close(found.probs, expected.probs, rtol=1e-5, atol=0)
    assert found.tokens == expected.tokens
    assert len(set(found.tokens)) > 10
    logits[3, columns // 2] = torch.nan
    logits[4, 0] = torch.nan
    drawn = ROWS.labelled_draws(logits, temperatures, uniforms, 16).tokens
    assert drawn[3] == drawn[4] == -1
    assert drawn[5:] == expected.tokens[5:]


@pytest.mark.skipif(ROWS is None, reason="the native library was not built")
@pytest.mark.parametrize(
    "weights", [(0.5, 0.2, 0.2, 0.1), (0.97, 0.0, 0.03, 0.0), (0.0, 0.0, 1.0, 0.0), (0.0,) * 4]
)
def test_ordered_draws_follow_the_law_of_drawing_without_replacement(
    weights: tuple[float, ...],
) -> None:
    """The share of an even grid of uniform numbers that gives each pair is its probability."""
    assert ROWS is not None
    steps = 120
    grid = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    uniforms = torch.cartesian_prod(grid, grid).contiguous()
    probs = torch.tensor([weights]).expand(len(uniforms), -1).contiguous()
    drawn = ROWS.ordered_draws(probs, uniforms.flatten().tolist(), 2)
    pairs = list(zip(drawn[::2], drawn[1::2], strict=True))
    law = {pair: share(weights, pair) for pair in permutations(range(4), 2)}
    for pair, expected in law.items():
        assert pairs.count(pair) / len(pairs) == pytest.approx(expected, abs=2 / steps)
    assert all(law[pair] > 0 for pair in pairs)


def share(weights: tuple[float, ...], pair: tuple[int, int]) -> float:
    """Probability of an ordered pair; where nothing is left, all others are equally likely."""
    left, found = dict(enumerate(weights)), 1.0
    for each in pair:
        total = sum(left.values())
        found *= left[each] / total if total else 1 / len(left)
        del left[each]
    return found


@pytest.mark.skipif(ROWS is None, reason="the native library was not built")
@pytest.mark.parametrize("columns", [1, 7, 16, 17, 100, 512, 6145])
def test_probabilities_are_those_of_pytorch(columns: int) -> None:
    assert ROWS is not None
    logits = torch.randn(3, columns, generator=torch.Generator().manual_seed(columns)) * 6
    logits[1, columns // 2 + 1 :] = -torch.inf
    assert torch.allclose(ROWS.probs(logits, 0.7), torch.softmax(logits / 0.7, -1), atol=1e-6)


@pytest.mark.skipif(ROWS is None, reason="the native library was not built")
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_logit_that_is_no_number_spoils_its_row(bad: float) -> None:
    assert ROWS is not None
    logits = torch.zeros(2, 40)
    logits[1, 30] = bad
    probs = ROWS.probs(logits, 1.0)
    assert torch.allclose(probs[0], torch.full((40,), 1 / 40))
    assert probs[1].isnan().all()
    assert ROWS.ordered_draws(probs, [0.3] * 4, 2)[2:] == [-1, -1]


@pytest.mark.skipif(ROWS is None, reason="the native library was not built")
def test_more_rows_than_shares_can_number_are_refused() -> None:
    assert ROWS is not None
    most = 2**20 - 1
    logits = torch.zeros(most + 1, 1)
    assert ROWS.probs(logits[:most], 1.0).eq(1).all()
    with pytest.raises(ModelLoadError, match="more rows than one call computes"):
        ROWS.probs(logits, 1.0)
    with pytest.raises(ModelLoadError, match="more rows than one call computes"):
        ROWS.labelled_draws(logits, [0.0] * len(logits), [0.5] * len(logits), 1)


@pytest.mark.skipif(ROWS is None, reason="the native library was not built")
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (2**20, "more rows than one call computes"),
        (2**19, "a forward larger than one call computes"),  # four heads of keys for each two rows
    ],
)
def test_a_forward_of_more_chunks_than_shares_can_number_is_refused(
    rows: int, message: str
) -> None:
    config = tiny_config(num_heads=12, num_kv_heads=4, num_layers=1, context_window=2**21)
    model = NativeLlama(config, random_weights(config, seed=3), Pool(1))
    cache = model.new_cache()
    with pytest.raises(ModelLoadError, match=message):
        model.continue_texts([Continuation(cache, [0] * rows, 0)])
    assert cache.length == 0
