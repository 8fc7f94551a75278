"""The grid holds each shape once, the picked one among them, and its arithmetic is the clock's."""

from collections.abc import Iterator
from typing import Any

import pytest

from sequoia_core.config import SamplingParams
from sequoia_core.events import Step
from sequoia_core.measure import grid
from sequoia_core.measure.grid import GridAnswer, GridCell, GridComparison, compare, grid_trees
from sequoia_core.measure.timings import StepCostModel
from sequoia_core.measure.tuner import SpeedModel
from sequoia_core.tree.choice import ROOT
from sequoia_core.tree.growmap import GrowMap
from tests.core.measure.test_tuner import pair
from tests.core.measuring import TIMES, make_step, record_of

MODEL = SpeedModel(record_of(((0.6, 0.2, 0.1), (0.5, 0.1))), StepCostModel(TIMES).costs(0.0, 100))


def test_a_grid_holds_every_shape_once_and_the_picked_one() -> None:
    trees = grid_trees(MODEL)
    parents = [tree.parents for tree in trees]
    assert len(set(parents)) == len(parents)
    assert ROOT.parents in parents
    assert (MODEL.search().growmap or ROOT).parents in parents
    assert all(tree.depth <= grid.DEPTHS[-1] or tree.size > grid.NODES[-1] for tree in trees)
    assert max(tree.size for tree in trees) >= grid.NODES[-1]


def test_where_plain_decoding_is_picked_it_is_compared_like_a_tree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    useless = SpeedModel(record_of(((0.01,),)), MODEL.costs)
    monkeypatch.setattr(grid, "PROMPTS", ("Why?",))
    monkeypatch.setattr(grid, "TOKENS", 4)
    comparison = compare(pair(), useless, 0.0, lambda _message, _share: None)
    assert comparison.picked.tree.size == 1
    assert comparison.picked.measured == 1.0
    assert comparison.seeming_shortfall == pytest.approx(1 - 1 / comparison.best.measured)


def test_measured_is_tokens_per_step_by_the_ratio_of_step_times(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps that take exactly what the figures say and always emit two tokens."""

    def decode(_pair: Any, tree: GrowMap, prompt: str, _params: SamplingParams) -> Iterator[Step]:
        slower = 3.0 if prompt == grid.PROMPTS[0] else 1.0  # a busy moment slows all alike
        path = (0,) if tree.size == 1 else (0, 1)
        return iter([make_step(tree, path, MODEL.costs, slower=slower)] * 3)

    monkeypatch.setattr(grid, "decode_steps", decode)
    shares: list[float | None] = []
    comparison = compare(pair(), MODEL, 0.0, lambda _message, share: shares.append(share))
    assert shares == sorted(share for share in shares if share is not None)
    for cell in comparison.cells:
        tokens = 1 if cell.tree.size == 1 else 2
        record = MODEL.record
        expected = cell.tree.expected_tokens(record.rates, record.deeper)
        ideal = tokens / expected * cell.predicted
        assert cell.tokens_per_step == tokens
        assert cell.measured == pytest.approx(ideal)
    assert comparison.best is max(comparison.cells, key=lambda cell: cell.measured)


def test_trees_take_turns_in_both_orders(monkeypatch: pytest.MonkeyPatch) -> None:
    """What warms up or slows down in a round meets the first and the last tree alike."""
    order: dict[str, list[GrowMap]] = {}

    def decode(_pair: Any, tree: GrowMap, prompt: str, _params: SamplingParams) -> Iterator[Step]:
        order.setdefault(prompt, []).append(tree)
        return iter([make_step(tree, (0,), MODEL.costs)])

    monkeypatch.setattr(grid, "decode_steps", decode)
    compare(pair(), MODEL, 0.0, lambda _message, _share: None)
    rounds = list(order.values())
    assert rounds[0] == rounds[1][::-1] == rounds[2]


def test_decoding_a_grid_really_decodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grid, "PROMPTS", ("Why?",))
    monkeypatch.setattr(grid, "TOKENS", 6)
    comparison = compare(pair(), MODEL, 0.0, lambda _message, _share: None)
    by_size = {cell.tree.size: cell for cell in comparison.cells}
    assert by_size[1].tokens_per_step == 1.0
    deep = max(comparison.cells, key=lambda cell: cell.tree.depth)
    assert deep.tokens_per_step > 2  # the draft is the target


def cell(tree: GrowMap, *tokens: int) -> GridCell:
    """Ten steps of a plain step's time on each prompt."""
    return GridCell(tree, 1.0, tuple(GridAnswer(each, 10, 1.0) for each in tokens))


def test_a_tree_that_was_lucky_once_is_not_taken_for_the_best() -> None:
    """Of equal trees each shines on another prompt: what seems lost is luck."""
    picked = cell(GrowMap.chain(1), 20, 20, 20, 20)
    lucky, other = cell(GrowMap.chain(2), 30, 18, 20, 18), cell(GrowMap.chain(3), 18, 28, 18, 20)
    comparison = GridComparison((picked, lucky, other), picked)
    assert comparison.seeming_shortfall == pytest.approx(1 - 80 / 86)
    # best on prompts 1 and 3: lucky, 36 tokens on the others against 40; and the other way round
    assert comparison.shortfall == pytest.approx((1 - 40 / 36 + 1 - 40 / 36) / 2)


def test_a_tree_that_is_better_everywhere_is_missed_by_all_of_its_lead() -> None:
    picked, better = cell(GrowMap.chain(1), 20, 10, 30, 20), cell(GrowMap.chain(2), 25, 15, 35, 25)
    comparison = GridComparison((picked, better), picked)
    assert comparison.shortfall == pytest.approx(((1 - 30 / 40) + (1 - 50 / 60)) / 2)
    assert GridComparison((picked, better), better).shortfall == 0.0
