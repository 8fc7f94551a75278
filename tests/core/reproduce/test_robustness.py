"""The robustness experiment: what is counted, that it continues, and what it refuses."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.errors import ParameterError
from sequoia_core.model.llama import Llama
from sequoia_core.model.loading.pair import Pair
from sequoia_core.reproduce.experiment import prompt_digest, prompt_seed
from sequoia_core.reproduce.robustness import (
    RULES,
    Cell,
    PromptCount,
    RobustnessExperiment,
    Sweep,
)
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import make_engine, steps_of, tokens_of
from tests.core.models import TableModel
from tests.core.reproducing import PROMPTS, load_tiny, quiet, save_pair

SWEEP = Sweep(GrowMap.k_ary([2, 1]), temperatures=(0.3, 1.0), top_ps=(0.9, 1.0), tokens=8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder)
    return load_tiny(folder)


@pytest.fixture(scope="module")
def whole(pair: Pair, tmp_path_factory: pytest.TempPathFactory) -> RobustnessExperiment:
    """All prompts decoded in all cells."""
    return decoded(pair, tmp_path_factory.mktemp("whole") / "counts.jsonl")


def decoded(
    pair: Pair, path: Path, sweep: Sweep = SWEEP, prompts: Sequence[tuple[int, ...]] = PROMPTS
) -> RobustnessExperiment:
    experiment = RobustnessExperiment(pair, sweep, prompts, path)
    experiment.run(quiet)
    return experiment


def test_every_rule_decodes_every_prompt_in_every_setting_with_one_seed(
    whole: RobustnessExperiment,
) -> None:
    rows = whole.file.rows
    places = {(count.cell, count.prompt) for count in rows}
    assert len(places) == len(rows) == len(SWEEP.cells()) * len(PROMPTS)
    assert {cell.rule for cell, _ in places} == set(RULES)
    for ids in PROMPTS:
        seeds = {SWEEP.sampling(cell, ids).seed for cell in SWEEP.cells()}
        assert seeds == {prompt_seed(SWEEP.seed, ids)}
    for count in rows:
        assert count.steps <= count.tokens <= 3 * count.steps
        assert SWEEP.tokens <= count.tokens < SWEEP.tokens + 3


@pytest.mark.parametrize("stopped_after", [7, 30])
def test_a_run_that_was_stopped_comes_to_the_same(
    pair: Pair, whole: RobustnessExperiment, stopped_after: int, tmp_path: Path
) -> None:
    path = tmp_path / "counts.jsonl"
    experiment = RobustnessExperiment(pair, SWEEP, PROMPTS, path)

    def stop(_message: str, _fraction: float | None) -> None:
        if len(experiment.file.rows) == stopped_after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        experiment.run(stop)
    assert RobustnessExperiment(pair, SWEEP, PROMPTS, path).file.rows == experiment.file.rows
    assert decoded(pair, path).file.rows == whole.file.rows
    assert path.read_bytes() == whole.file.path.read_bytes()


def test_whole_steps_are_counted_so_that_their_mean_is_that_of_a_step(
    pair: Pair, tmp_path: Path
) -> None:
    """Wald's identity, on a pair whose every step gives three tokens: 10 of them are 4 steps."""
    model = TableModel(9, 1, scale=40.0)
    sweep = Sweep(GrowMap.chain(2), tokens=10)
    llama = cast("Llama", model)
    same = replace(pair, target=llama, draft=llama, draft_vocab_ids=None)
    prompts = [(1, 2, 3), (1, 2)]
    experiment = RobustnessExperiment(same, sweep, prompts, tmp_path / "counts.jsonl")
    count = experiment.count(Cell(Mode.SEQUOIA, 0.2, 1.0), prompts[0])
    assert (count.tokens, count.steps) == (12, 4)
    engine = make_engine(model, model, sweep.growmap)
    events = list(engine.generate([1, 2, 3], SamplingParams(0.2, seed=1, max_new_tokens=10)))
    assert (len(tokens_of(events)), len(steps_of(events))) == (10, 4)


def test_a_prompt_that_does_not_fit_is_refused(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "counts.jsonl"
    long = (3,) * (300 - SWEEP.tokens - SWEEP.growmap.size)
    RobustnessExperiment(pair, SWEEP, [long, (3,)], path)
    with pytest.raises(ParameterError, match="context window of 300"):
        RobustnessExperiment(pair, SWEEP, [(*long, 3), (3,)], path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"seed": 18}, "seed 17, not 18"),
        ({"tokens": 9}, "tokens 8, not 9"),
        ({"draft_top_p": 0.5}, "draft_top_p 1.0, not 0.5"),
        ({"growmap": GrowMap.chain(3)}, "another growmap"),
        ({}, "another pair"),
    ],
)
def test_results_of_other_options_are_not_mixed(
    pair: Pair, tmp_path: Path, changes: dict[str, Any], words: str
) -> None:
    path = tmp_path / "counts.jsonl"
    RobustnessExperiment(pair, SWEEP, PROMPTS, path)
    other = pair if changes else replace(pair, fingerprint="another")
    with pytest.raises(ParameterError, match=f"was begun with {words}"):
        RobustnessExperiment(other, replace(SWEEP, **changes), PROMPTS, path)


def test_more_settings_and_prompts_may_be_added_later(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "counts.jsonl"
    known = len(decoded(pair, path, prompts=PROMPTS[:2]).file.rows)
    more = replace(SWEEP, temperatures=(0.3, 0.6, 1.0), top_ps=(1.0,))
    new_temperature, new_prompt = 2 * len(RULES), 3 * len(RULES)
    assert len(decoded(pair, path, more).file.rows) == known + new_temperature + new_prompt


def test_a_file_of_an_earlier_version_is_read(pair: Pair, tmp_path: Path) -> None:
    path = tmp_path / "counts.jsonl"
    head = RobustnessExperiment(pair, SWEEP, PROMPTS, path).file.path.read_text()
    row = (
        '{"rule": "topk", "temperature": 1, "top_p": 0.9, "prompt": "a", "tokens": 9, "steps": 4}\n'
    )
    path.write_text(head + row)
    kept = RobustnessExperiment(pair, SWEEP, PROMPTS, path).file
    assert kept.rows == [PromptCount(Mode.TOPK, 1.0, 0.9, "a", 9, 4)]


def test_a_target_without_a_draft_is_refused(tmp_path: Path) -> None:
    save_pair(tmp_path)
    with pytest.raises(ParameterError, match="has no draft"):
        decoded(load_tiny(tmp_path, draft=False), tmp_path / "counts.jsonl")


def test_the_picture_and_the_values_hold_every_rule_and_setting(
    whole: RobustnessExperiment, tmp_path: Path
) -> None:
    report = whole.report()
    files = [tmp_path / name for name in ("a.svg", "b.svg")]
    for file in files:
        report.draw(file)
    assert files[0].read_bytes() == files[1].read_bytes()
    drawn = files[0].read_text()
    assert all(word in drawn for word in ("top-p 0.9", "top-p 1", *(r.value for r in RULES)))
    values = json.loads(json.dumps(report.values))
    assert [(each["temperature"], each["top_p"]) for each in values["settings"]] == [
        (0.3, 0.9), (1.0, 0.9), (0.3, 1.0), (1.0, 1.0),
    ]  # fmt: skip
    assert set(values["settings"][0]["ahead"]) == set(values["overall_ahead"])
    assert values["prompts"] == len({prompt_digest(ids) for ids in PROMPTS})


def test_other_rules_are_compared_by_their_first_and_added_to_the_same_file(
    pair: Pair, tmp_path: Path
) -> None:
    path = tmp_path / "counts.jsonl"
    known = decoded(pair, path).file.rows
    more = decoded(pair, path, replace(SWEEP, rules=(Mode.TRAVERSE, Mode.SEQUOIA)))
    assert len(more.file.rows) == len(known) + len(SWEEP.cells()) // len(RULES) * len(PROMPTS)
    report = more.report()
    assert report.values["first"] == "traverse"
    assert set(report.values["overall_ahead"]) == {"sequoia"}
    assert "leads of traverse" in report.text


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ((Mode.TRAVERSE,), "two rules"),
        ((Mode.TRAVERSE, Mode.TRAVERSE), "each once"),
        ((Mode.TRAVERSE, Mode.CHAIN), "name a chain"),
        ((Mode.TRAVERSE, Mode.AR), "do not sample"),
    ],
)
def test_rules_that_cannot_be_compared_are_refused(rules: tuple[Mode, ...], words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        replace(SWEEP, rules=rules)
