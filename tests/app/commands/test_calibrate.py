"""`sequoia calibrate` measures the chosen pair, draws what it found and owns up to its choice."""

from collections.abc import Iterator
from typing import Any

import pytest
from rich.text import Text
from typer.testing import CliRunner

import sequoia_core
from app.cli import app
from app.commands.calibrate import Series, chart
from sequoia_core.measure import grid, tuner
from sequoia_core.measure.calibration import Calibration
from sequoia_core.measure.grid import GridAnswer, GridCell, GridComparison
from sequoia_core.measure.tuner import OnlineAdvisor
from sequoia_core.tree.choice import ROOT
from sequoia_core.tree.growmap import GrowMap
from tests.core.measuring import calibration_of

FIGURES = calibration_of(((0.625, 0.25, 0.125), (0.5, 0.0625)))
TREE = GrowMap.k_ary([2, 1])


class FakeTuner:
    """Measures nothing, and has a calibration or none."""

    def __init__(self, calibration: Calibration | None, done: list[Any]) -> None:
        self.calibration, self.done = calibration, done
        self.online = OnlineAdvisor(calibration) if calibration else None

    def measure(self, temperature: float) -> Iterator[tuple[str, float]]:
        self.done.append(("the pair", temperature))
        yield "Measuring", 1.0

    def summary(self, temperature: float) -> str:
        return f"measured at {temperature:g}"


def calibrated(
    monkeypatch: pytest.MonkeyPatch,
    *arguments: str,
    calibration: Calibration | None = FIGURES,
    before: tuple[str, ...] = (),
) -> tuple[str, list[Any]]:
    """What the command prints, and what it loaded and measured."""
    done: list[Any] = []

    def load_pair(*names: str | None, **_options: object) -> str:
        done.append(names)
        return "the pair"

    def made(pair: str) -> FakeTuner:
        assert pair == "the pair"
        return FakeTuner(calibration, done)

    def compare(pair: str, figures: object, temperature: float, progress: object) -> GridComparison:
        done.append(("grid", pair, temperature))
        cells = (
            GridCell(ROOT, 1.0, (GridAnswer(10, 10, 1.0),) * 2),
            GridCell(TREE, 1.25, (GridAnswer(18, 10, 1.5),) * 2),
            GridCell(GrowMap.chain(2), 1.2, (GridAnswer(15, 10, 1.2),) * 2),
        )
        return GridComparison(cells, cells[1])

    monkeypatch.setitem(vars(sequoia_core), "load_pair", load_pair)
    monkeypatch.setattr(tuner, "Tuner", made)
    monkeypatch.setattr(grid, "compare", compare)
    result = CliRunner().invoke(app, [*before, "calibrate", *arguments])
    assert result.exit_code == 0, result.output
    return result.stdout, done


def test_it_measures_the_chosen_pair_at_the_chosen_temperature(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    flags = ("--target", "a", "--draft", "b", "--temperature", "0.3")
    printed, done = calibrated(monkeypatch, *flags)
    assert done == [("a", "b"), ("the pair", 0.3)]
    assert printed.splitlines()[-1] == "measured at 0.3"


@pytest.mark.parametrize(
    "option",
    [
        ("--growmap", "chain/2"),
        ("--mode", "ar"),
        ("--lookup", "off"),
        ("--seed", "3"),
        ("--top-p", "0.5"),
        ("--max-new-tokens", "9"),
    ],
)
def test_an_option_that_measuring_has_no_use_for_is_refused(option: tuple[str, str]) -> None:
    for words in (("calibrate", *option), (*option, "calibrate")):
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 2
        assert option[0] in Text.from_ansi(result.stderr).plain


def test_an_option_before_the_command_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    _, done = calibrated(monkeypatch, before=("--target", "a", "--temperature", "0.3"))
    assert done == [("a", None), ("the pair", 0.3)]


def test_it_prints_the_curve_and_every_rate_that_was_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed, _ = calibrated(monkeypatch, "--temperature", "0.6")
    assert "64 tokens" in printed
    assert "1024 tokens" in printed
    assert "rows of a forward" in printed
    for temperature in ("0", "0.6"):
        assert f"temperature {temperature}, depth 1, by rank   0.625 0.250 0.125" in printed
        assert f"temperature {temperature}, depth 2, by rank   0." in printed


def test_without_a_draft_only_the_targets_curve_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = Calibration.without_draft(FIGURES.times)
    printed, done = calibrated(monkeypatch, "--grid", "--temperature", "0.5", calibration=alone)
    assert "1024 tokens" in printed
    assert "accepted" not in printed
    assert "draft forward" not in printed
    assert printed.endswith("measured at 0.5\n")
    assert len(done) == 2  # no grid of trees


def test_without_figures_there_is_nothing_to_draw(monkeypatch: pytest.MonkeyPatch) -> None:
    printed, done = calibrated(monkeypatch, "--grid", "--temperature", "0.5", calibration=None)
    assert printed == "measured at 0.5\n"
    assert len(done) == 2


def test_a_grid_says_how_far_the_picked_tree_is_from_the_best(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed, done = calibrated(monkeypatch, "--grid", "--temperature", "0")
    assert done[-1] == ("grid", "the pair", 0.0)
    joined = " ".join(printed.split())
    assert "picked tree (5 nodes, depth 2) is 4.0% below the best of the grid" in joined
    assert "(3 nodes, depth 2)" in joined
    assert "1.20x picked" in joined
    assert "1.25x best" in joined


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_no_line_is_wider_than_the_terminal(monkeypatch: pytest.MonkeyPatch, columns: int) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setattr(FakeTuner, "summary", lambda *_given: "best of a fixed shape; " * 9)
    printed, _ = calibrated(monkeypatch, "--grid")
    widest = max(map(len, printed.splitlines()))
    axis = next(line for line in printed.splitlines() if "└" in line)
    assert widest <= min(columns, 88)
    assert len(axis) == min(columns, 88) - 14 - 1


def heights(lines: list[str], glyph: str) -> dict[int, int]:
    """Line of each column in which a glyph stands."""
    return {
        column: row
        for row, line in enumerate(lines)
        for column, each in enumerate(line)
        if each == glyph
    }


def drawn(*series: Series, height: int = 9, width: int = 60) -> list[str]:
    lines = chart(series, "x", "y", width, height)
    return [line.plain for line in lines]


@pytest.mark.parametrize("points", [1, 2, 3, 7])
def test_marks_stand_higher_and_further_right_the_larger_they_are(points: int) -> None:
    line = drawn(Series("up", [(x, x * x) for x in range(points)], mark="#"))
    places = sorted(heights(line, "#").items())
    assert 1 <= len(places) <= points
    assert [row for _, row in places] == sorted((row for _, row in places), reverse=True)


def test_a_line_joins_its_points_without_gaps() -> None:
    lines = drawn(Series("", [(0, 0), (1, 5), (2, 1)]), width=70)
    columns = {
        column
        for line in lines[1:-2]
        for column, each in enumerate(line)
        if "\u2801" <= each <= "\u28ff"
    }
    assert columns == set(range(min(columns), max(columns) + 1))
    assert len(columns) == 70 - 8 - 14 - 2


def test_axes_tell_the_range_and_every_line_has_its_name() -> None:
    lines = drawn(*(Series(f"line {n}", [(3, 1.0), (120, 20.0)]) for n in range(3)), height=6)
    assert lines[0].endswith("y")
    assert lines[1].strip().startswith("20 ┤")
    assert any(line.strip().startswith("0 ┤") for line in lines)
    assert lines[-1].split() == ["3", "x", "120"]
    for n in range(3):
        assert sum(f"line {n}" in line for line in lines) == 1


def test_more_names_than_lines_are_all_written() -> None:
    lines = drawn(*(Series(f"line {n}", [(1, 0.0), (2, 0.0)]) for n in range(5)), height=3)
    assert all(any(f"line {n}" in line for line in lines) for n in range(5))


def test_equal_cells_do_not_confuse_best_and_picked() -> None:
    cell = GridCell(TREE, 1.2, (GridAnswer(11, 10, 1.0),) * 2)
    worse = GridCell(TREE, 1.2, (GridAnswer(10, 10, 1.0),) * 2)
    both = GridComparison((worse, cell), worse)
    assert both.best is cell
    assert both.seeming_shortfall == both.shortfall == pytest.approx(1 - 1 / 1.1)
    assert both.error == pytest.approx((0.2 + 0.1 / 1.1) / 2)
