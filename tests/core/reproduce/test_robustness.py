"""The robustness study: what is counted, that it goes on where it stopped, and what it refuses."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from sequoia_core.config import Mode, SamplingParams
from sequoia_core.decode.baseline_timer import NoBaseline
from sequoia_core.decode.engine import Engine
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.measure.draft_nucleus import DraftNucleus
from sequoia_core.model.loading.pair import Pair
from sequoia_core.reproduce.count_file import CountFile
from sequoia_core.reproduce.pictures import draw_study
from sequoia_core.reproduce.resampling import Counted
from sequoia_core.reproduce.robustness import RULES, Cell, Count, Counter, Sweep, count_all
from sequoia_core.reproduce.seeds import prompt_digest, prompt_seed
from sequoia_core.reproduce.standing import Study
from sequoia_core.reproduce.values import study_values
from sequoia_core.speculate.draft import DraftModel
from sequoia_core.speculate.tree_advisor import BundledAdvisor
from sequoia_core.tree.choice import TreeChoice
from sequoia_core.tree.growmap import GrowMap
from tests.core.engines import make_engine, steps_of, tokens_of
from tests.core.models import TableModel
from tests.core.reproducing import PROMPTS, load_tiny, save_pair

SWEEP = Sweep(GrowMap.k_ary([2, 1]), temperatures=(0.3, 1.0), top_ps=(0.9, 1.0), tokens=8)


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("pair")
    save_pair(folder)
    return load_tiny(folder)


@pytest.fixture(scope="module")
def whole(pair: Pair) -> list[Count]:
    """All prompts decoded in all ways."""
    return counted(pair)


def counted(
    pair: Pair, known: Sequence[Count] = (), prompts: Sequence[Sequence[int]] = PROMPTS
) -> list[Count]:
    return list(count_all(pair, SWEEP, prompts, known, lambda *_: None))


def test_every_rule_decodes_every_prompt_in_every_setting_with_one_seed(whole: list[Count]) -> None:
    places = {(count.cell, count.prompt) for count in whole}
    assert len(places) == len(whole) == len(SWEEP.cells()) * len(PROMPTS)
    assert {cell.rule for cell, _ in places} == set(RULES)
    for ids in PROMPTS:
        seeds = {SWEEP.sampling(cell, ids).seed for cell in SWEEP.cells()}
        assert seeds == {prompt_seed(SWEEP.seed, ids)}
    for count in whole:
        assert count.counted.steps <= count.counted.tokens <= 3 * count.counted.steps
        assert SWEEP.tokens <= count.counted.tokens < SWEEP.tokens + 3


@pytest.mark.parametrize("stopped_after", [7, 30])
def test_a_study_that_was_stopped_comes_to_the_same(
    pair: Pair, whole: list[Count], stopped_after: int, tmp_path: Path
) -> None:
    first = CountFile(tmp_path / "counts.jsonl", SWEEP, "a pair")
    for count in whole[:stopped_after]:
        first.add(count)
    again = CountFile(tmp_path / "counts.jsonl", SWEEP, "a pair")
    assert again.counts == whole[:stopped_after]
    rest = counted(pair, again.counts)
    assert [*again.counts, *rest] == whole


def test_whole_steps_are_counted_so_that_their_mean_is_that_of_a_step() -> None:
    """Wald's identity, on a pair whose every step gives three tokens: 10 of them are 4 steps."""
    model = TableModel(9, 1, scale=40.0)
    sweep = Sweep(GrowMap.chain(2), tokens=10)
    counter = Counter(model, DraftModel(model), sweep, prompt_tokens=3)
    assert counter.count(Cell(Mode.SEQUOIA, 0.2, 1.0), [1, 2, 3]) == Counted(tokens=12, steps=4)
    engine = make_engine(model, model, sweep.growmap)
    events = list(engine.generate([1, 2, 3], SamplingParams(0.2, seed=1, max_new_tokens=10)))
    assert (len(tokens_of(events)), len(steps_of(events))) == (10, 4)


@pytest.mark.parametrize("rule", RULES)
def test_the_engine_decodes_the_same_steps(pair: Pair, whole: list[Count], rule: Mode) -> None:
    engine = Engine.of(pair, BundledAdvisor.default({}))
    engine.tree_choice, engine.clock = TreeChoice(rule, SWEEP.growmap), NoBaseline()
    engine.make_sampler = DraftNucleus(SWEEP.draft_top_p).sampler
    cell = Cell(rule, 1.0, 0.9)
    for ids in PROMPTS:
        steps = steps_of(list(engine.generate(ids, SWEEP.sampling(cell, ids))))
        counted = Counted(sum(len(step.path) for step in steps), len(steps))
        assert Count(cell, prompt_digest(ids), counted) in whole


def test_what_the_models_have_no_room_for_is_told(pair: Pair) -> None:
    long = [3] * (300 - SWEEP.tokens - SWEEP.growmap.size)
    assert pair.draft is not None
    Counter(pair.target, DraftModel(pair.draft), SWEEP, len(long))
    with pytest.raises(ParameterError, match="context window of 300"):
        next(count_all(pair, SWEEP, [[*long, 3]], [], lambda *_: None))


def test_a_line_that_was_being_written_is_decoded_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "counts.jsonl"
    file = CountFile(path, SWEEP, "a pair")
    counts = [Count(cell, "p", Counted(9, 4)) for cell in SWEEP.cells()[:3]]
    for count in counts:
        file.add(count)
    text = path.read_text()
    for cut in range(1, len(text.splitlines()[-1]) + 1):
        path.write_text(text[:-cut])
        assert CountFile(path, SWEEP, "a pair").counts == counts[:2]
    assert path.read_text() == "".join(text.splitlines(keepends=True)[:-1])
    for cut in range(1, len(text.splitlines()[0]) + 1):
        path.write_text(text.splitlines()[0][:cut])  # killed in the first line
        assert CountFile(path, SWEEP, "a pair").counts == []


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 18}, "seed 17, not 18"),
        ({"tokens": 9}, "tokens 8, not 9"),
        ({"draft_top_p": 0.5}, "draft_top_p 1.0, not 0.5"),
        ({"growmap": GrowMap.chain(3)}, "another growmap"),
        ({}, "another pair"),
    ],
)
def test_results_of_other_options_are_not_mixed(
    tmp_path: Path, changes: dict[str, Any], told: str
) -> None:
    path = tmp_path / "counts.jsonl"
    CountFile(path, SWEEP, "a pair")
    values = {"growmap": SWEEP.growmap, "tokens": 8, **changes}
    with pytest.raises(ParameterError, match=f"was begun with {told}"):
        CountFile(path, Sweep(**values), "a pair" if changes else "b pair")


def test_more_settings_and_prompts_may_be_asked_for_later(
    pair: Pair, whole: list[Count], tmp_path: Path
) -> None:
    path = tmp_path / "counts.jsonl"
    file = CountFile(path, SWEEP, "a pair")
    for count in whole:
        if count.prompt == prompt_digest(PROMPTS[0]):
            file.add(count)
    more = Sweep(SWEEP.growmap, temperatures=(0.3, 0.6, 1.0), top_ps=(1.0,), tokens=8)
    known = CountFile(path, more, "a pair").counts
    rest = list(count_all(pair, more, PROMPTS[:2], known, lambda *_: None))
    new_temperature, new_prompt = len(RULES), 3 * len(RULES)
    assert len(rest) == new_temperature + new_prompt


@pytest.mark.parametrize("line", ["{", "[]", "7", '{"rule": "no"}', '{"rule": "topk"}'])
def test_a_damaged_file_is_named_with_its_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "counts.jsonl"
    CountFile(path, SWEEP, "a pair")
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(ParameterError, match="line 2: no result of this command"):
        CountFile(path, SWEEP, "a pair")
    path.write_text(line + "\n")
    with pytest.raises(ParameterError):
        CountFile(path, SWEEP, "a pair")


def test_a_file_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(SequoiaError, match="directory"):
        CountFile(tmp_path, SWEEP, "a pair")


@pytest.mark.parametrize(
    "changes",
    [
        {"temperatures": (0.0, 0.6)},
        {"temperatures": (0.6, 0.6)},
        {"temperatures": (-1.0,)},
        {"top_ps": ()},
        {"top_ps": (1.2,)},
        {"draft_top_p": 0.0},
        {"tokens": 0},
        {"growmap": GrowMap((-1,))},
    ],
)
def test_a_sweep_that_compares_nothing_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ParameterError):
        Sweep(**{"growmap": GrowMap.chain(2), **changes})


def test_a_target_without_a_draft_is_told(tmp_path: Path) -> None:
    save_pair(tmp_path)
    with pytest.raises(ParameterError, match="has no draft"):
        counted(load_tiny(tmp_path, draft=False))


def test_the_picture_and_the_values_hold_every_rule_and_setting(
    pair: Pair, whole: list[Count], tmp_path: Path
) -> None:
    study = Study.of(SWEEP, whole)
    files = [tmp_path / name for name in ("a.svg", "b.svg")]
    for file in files:
        draw_study(file, study)
    assert files[0].read_bytes() == files[1].read_bytes()
    drawn = files[0].read_text()
    assert all(word in drawn for word in ("top-p 0.9", "top-p 1", *(r.value for r in RULES)))
    values = json.loads(json.dumps(study_values(pair, SWEEP, study)))
    assert [(each["temperature"], each["top_p"]) for each in values["settings"]] == [
        (0.3, 0.9), (1.0, 0.9), (0.3, 1.0), (1.0, 1.0),
    ]  # fmt: skip
    digests = {prompt_digest(ids) for ids in PROMPTS}
    assert values["prompts"] == len(digests)
