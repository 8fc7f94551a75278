"""Packaged shapes are what their generator makes, and agree with the figures they come from."""

import re
from itertools import pairwise
from pathlib import Path

import pytest

from sequoia_core.reproduce.paper_facts import (
    DATASETS,
    TEMPERATURES,
    Figure,
    paper_facts,
    tree_name,
)
from sequoia_core.tree.files import (
    find_growmap,
    growmap_names,
    load_growmap,
    read_acceptance_rates,
    save_growmap,
)
from sequoia_core.tree.growmap import GrowMap
from sequoia_core.tree.search import expected_tokens_table
from tests.core.make_growmaps import (
    FAMILIES,
    exponent_of,
    fitted_factor,
    fitted_rates,
    listed,
    main,
    rewrite_readme,
)

GROWMAPS = Path(__file__).parents[3] / "growmaps"
NOT_MADE = ("k-ary",)
FACTS = paper_facts()


def test_making_them_anew_gives_the_packaged_files_byte_for_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["make_growmaps", str(tmp_path)])
    main()
    families = [family for family in FAMILIES if family not in NOT_MADE]
    packaged = [path for family in families for path in (GROWMAPS / family).rglob("*.json")]
    assert f"{len(packaged)} shapes written" in capsys.readouterr().out
    assert len(list(tmp_path.rglob("*.json"))) == len(packaged) > 0
    for path in packaged:
        again = tmp_path / path.relative_to(GROWMAPS)
        assert again.read_bytes() == path.read_bytes(), path


def test_the_readme_lists_every_shape_with_its_figures() -> None:
    rows = {}
    for line in (GROWMAPS / "README.md").read_text().splitlines():
        if line.startswith("| `"):
            name, *figures = [cell.strip(" `") for cell in line.strip("|").split("|")]
            rows[name] = figures
    assert sorted(rows) == growmap_names()
    for name, (nodes, depth, levels, expected) in rows.items():
        tree = find_growmap(name)
        assert (int(nodes), int(depth)) == (tree.size, tree.depth)
        assert expanded(levels) == [len(level) for level in tree.levels]
        rates = tree.acceptance_rates
        assert expected == (f"{tree.expected_tokens(rates):.2f}" if rates else "")


def expanded(levels: str) -> list[int]:
    """`1 8 (x3)` is 1, 8, 8, 8."""
    found = re.findall(r"(\d+)(?: \(x(\d+)\))?", levels)
    return [int(width) for width, times in found for _ in range(int(times or 1))]


def test_rewriting_the_readme_replaces_the_table_alone(tmp_path: Path) -> None:
    save_growmap(GrowMap.chain(6), tmp_path / "x.json")
    (tmp_path / "chain").mkdir()
    (tmp_path / "x.json").rename(tmp_path / "chain" / "6.json")
    table = listed(tmp_path)
    assert table.splitlines()[2:] == ["| `chain/6` | 7 | 6 | 1 (x7) |  |"]
    (tmp_path / "README.md").write_text(f"before\n\n{table}| `old` | 1 |\n\nafter\n\nend\n")
    rewrite_readme(tmp_path)
    assert (tmp_path / "README.md").read_text() == f"before\n\n{table}\nafter\n\nend\n"


@pytest.mark.parametrize("factor", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("exponent", [0.2, 0.453, 1.0])
def test_rates_of_the_family_fall_and_leave_the_rejection_it_states(
    factor: float, exponent: float
) -> None:
    rates = fitted_rates(factor, exponent, 12)
    assert all(first > second for first, second in pairwise(rates[1:]))
    for ranks in (1, 5, 12):
        left = 1 - sum(rates[:ranks])
        assert left == pytest.approx(factor * ranks**-exponent, abs=1e-4)


@pytest.mark.parametrize("size", [(8, 3), (40, 6)])
@pytest.mark.parametrize("tokens", [2.2, 2.9])
def test_a_fit_reaches_the_tokens_it_was_given(size: tuple[int, int], tokens: float) -> None:
    factor = fitted_factor(0.453, *size, tokens)
    assert factor is not None
    rates = fitted_rates(factor, 0.453)
    assert expected_tokens_table(rates, *size, 32).values[size] == pytest.approx(tokens, abs=0.003)


def test_no_draft_makes_a_shallow_tree_yield_more_than_its_levels() -> None:
    assert fitted_factor(0.453, 64, 3, 4.5) is None


def test_a_first_child_that_is_always_rejected_is_the_end_of_the_family() -> None:
    assert fitted_factor(0.453, 8, 3, 1.1) is None


@pytest.mark.parametrize("figure", FACTS.figures, ids=lambda each: f"{each.hardware}-{each.pair}")
def test_each_published_figure_has_a_tree_that_is_worth_it(figure: Figure) -> None:
    """Fitted where the figure was fitted to; foretold on the L40, whose figures fit nothing."""
    name = tree_name(figure.hardware, figure.pair, figure.dataset, figure.temperature)
    tree = find_growmap(name)
    assert tree.expected_tokens(tree.acceptance_rates) == pytest.approx(figure.tokens, abs=0.006)
    if figure.nodes is not None:
        assert tree.size == figure.nodes
    if figure.levels is not None:
        assert tree.depth == figure.levels - 1


@pytest.mark.parametrize(("kind", "tokens"), [("greedy", 4.05), ("stochastic", 3.45)])
def test_the_releases_own_trees_are_worth_the_papers_tokens_by_the_fitted_rates(
    reference_folder: Path, kind: str, tokens: float
) -> None:
    theirs = load_growmap(reference_folder / f"A100-CNN-68m-7b-{kind}.pt")
    rates = find_growmap(f"a100/68m-7b/cnn-{kind}").acceptance_rates
    assert theirs.expected_tokens(rates) == pytest.approx(tokens, abs=0.006)


def test_the_counts_are_the_releases_vector(reference_folder: Path) -> None:
    (rates,) = read_acceptance_rates(reference_folder / "acceptance-rate-vector.pt")
    assert FACTS.acceptance_rates == pytest.approx(rates, abs=1e-7)
    assert exponent_of(FACTS.acceptance_rates) == pytest.approx(0.453)


def test_every_cell_of_the_tables_has_a_pair_a_size_and_a_tree_to_fall_back_on() -> None:
    setups = {(setup.hardware, setup.pair) for setup in FACTS.setups}
    for figure in FACTS.figures:
        assert (figure.hardware, figure.pair) in setups
        assert figure.dataset in DATASETS
        assert figure.temperature in TEMPERATURES
    for setup in FACTS.setups:
        trees_of = FACTS.pairs[setup.pair].trees_of
        folder = f"{setup.hardware}/{trees_of}/"
        assert any(name.startswith(folder) for name in growmap_names())


@pytest.mark.parametrize("name", sorted(FACTS.pairs))
def test_shapes_have_the_parameters_of_their_names(name: str) -> None:
    pair = FACTS.pairs[name]
    for stated, shape in zip(name.split("-"), (pair.draft, pair.target), strict=True):
        number = float(stated[:-1]) * {"m": 1e6, "b": 1e9}[stated[-1]]
        assert shape.parameters == pytest.approx(number, rel=0.05)
