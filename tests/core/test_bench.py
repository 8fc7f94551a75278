"""The benchmark's own arithmetic: what is read, who runs when, and what the report says of it."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from sequoia_core.bench.parting import describe_partings, find_parting
from sequoia_core.bench.prompts import load_prompts
from sequoia_core.bench.report import as_values, rows, table
from sequoia_core.bench.runner import compare
from sequoia_core.bench.systems import Run
from sequoia_core.config import SamplingParams
from sequoia_core.errors import ParameterError
from tests.core.models import TableModel

PARAMS = SamplingParams(temperature=0.0, max_new_tokens=8)


class FixedSystem:
    """Takes the same time for every token, and writes down when it ran."""

    def __init__(self, name: str, seconds: float, log: list[str], tokens_per_step: int = 1) -> None:
        self.name = name
        self._seconds, self._log, self._per_step = seconds, log, tokens_per_step

    def run(self, prompt_ids: Sequence[int], params: SamplingParams) -> Run:
        self._log.append(self.name)
        tokens = params.max_new_tokens - 1
        return Run(
            token_ids=tuple(prompt_ids),
            tokens=tokens,
            seconds=self._seconds * tokens,
            steps=tokens // self._per_step,
            draft_ms=1.0,
            verify_ms=2.0,
            bookkeeping_ms=1.0,
        )


def test_systems_take_turns_in_alternating_order_after_one_warm_up() -> None:
    log: list[str] = []
    systems = [FixedSystem("a", 0.1, log), FixedSystem("b", 0.2, log)]
    compare(systems, [[1], [2], [3]], PARAMS, lambda _message, _fraction: None)
    assert log == ["a", "b", "a", "b", "b", "a", "a", "b"]


def test_the_report_compares_with_the_first_system() -> None:
    log: list[str] = []
    systems = [FixedSystem("a", 0.1, log), FixedSystem("b", 0.05, log, tokens_per_step=7)]
    comparison = compare(systems, [[1], [2]], PARAMS, lambda _message, _fraction: None)
    first, second = rows(comparison)
    assert first.ratio == (1.0, 1.0, 1.0)
    assert second.ratio == pytest.approx((2.0, 2.0, 2.0))
    assert second.tokens_per_second == pytest.approx((20.0, 20.0, 20.0))
    assert second.tokens_per_step == 7
    assert second.bookkeeping_share == 0.25
    assert second.same_text == 2
    assert "2.00x (2.00 to 2.00)" in table(comparison)
    json.dumps(as_values(comparison))


def test_prompts_of_every_row_format(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"turns": ["one", "later"]}\n\n{"prompt": "two"}\n{"text": "three"}\n')
    assert load_prompts(str(path), 3) == ["one", "two", "three"]
    plain = tmp_path / "prompts.txt"
    plain.write_text("one\ntwo\n")
    assert load_prompts(str(plain), 2) == ["one", "two"]
    assert len(load_prompts(None, 6)) == 6


@pytest.mark.parametrize("row", ["{", "[]", '{"turns": []}', '{"prompt": 3}', '{"text": " "}', "7"])
def test_a_row_without_a_prompt_is_named(tmp_path: Path, row: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "fine"}\n' + row + "\n")
    with pytest.raises(ParameterError, match="line 2"):
        load_prompts(str(path), 1)


def test_a_missing_file_and_too_few_prompts_are_told(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be read"):
        load_prompts(str(tmp_path / "none.jsonl"), 1)
    with pytest.raises(ParameterError, match="has 6 prompts"):
        load_prompts(None, 7)


def test_a_parting_gives_the_margin_of_the_one_row_forward() -> None:
    target = TableModel(9, 4)
    best, second = target.logits_after([1, 2, 3]).topk(2).values.tolist()
    parting = find_parting(target, [1, 2], [3, 4], [3, 5])
    assert parting is not None
    assert parting.position == 1
    assert parting.margin == pytest.approx(best - second)
    assert find_parting(target, [1, 2], [3, 4], [3, 4]) is None
    assert "on 1 of 2 prompts, after 1 to 1 tokens" in describe_partings("b", [parting, None])
    assert "the same text" in describe_partings("b", [None])
