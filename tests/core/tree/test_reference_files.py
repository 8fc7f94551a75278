"""Acceptance vectors on disk: what is written is read back, and what is no vector is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sequoia_core.errors import GrowMapError
from sequoia_core.tree.reference_files import read_acceptance_rates, write_acceptance_rates


@given(
    shares=st.lists(st.floats(0.0, 1.0, width=32), min_size=1, max_size=20),
    ending=st.sampled_from([".pt", ".json"]),
)
def test_a_noisy_vector_comes_back_as_it_was_measured(
    tmp_path_factory: pytest.TempPathFactory, shares: list[float], ending: str
) -> None:
    path = tmp_path_factory.mktemp("vectors") / f"vector{ending}"
    rates = [share / len(shares) for share in shares]
    write_acceptance_rates(path, rates, 1 - sum(rates), {"positions": 3})
    assert read_acceptance_rates(path) == pytest.approx(rates, rel=1e-6, abs=1e-12)


def test_the_references_format_has_nothing_at_the_first_and_the_rejected_at_the_last_place(
    tmp_path: Path,
) -> None:
    write_acceptance_rates(tmp_path / "a.pt", [0.5, 0.125, 0.25], 0.125, {})
    vector = torch.load(tmp_path / "a.pt", weights_only=True)
    assert torch.equal(vector, torch.tensor([0.0, 0.5, 0.125, 0.25, 0.125]))
    write_acceptance_rates(tmp_path / "a.json", [0.5, 0.25], 0.25, {"prompts": 3})
    values = json.loads((tmp_path / "a.json").read_text())
    assert values == {"acceptance_rates": [0.5, 0.25], "rejected": 0.25, "prompts": 3}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([0.0, 0.5, float("nan"), 0.5], "entry 2 is not a number"),
        ([0.0, 0.5, -0.1, 0.6], "entry 2 is -0.1, which is not a probability"),
        ([0.0, float("inf"), 0.0], "entry 1 is inf"),
        ([0.0, 0.7, 0.6, 0.0], "add up to 1.3"),
        ([0.5, 0.2, 0.3], "entry 0 is 0.5; it must be 0"),
    ],
)
def test_what_is_no_distribution_over_ranks_is_refused(
    tmp_path: Path, entries: list[float], message: str
) -> None:
    torch.save(torch.tensor(entries), tmp_path / "a.pt")
    with pytest.raises(GrowMapError, match=message) as refused:
        read_acceptance_rates(tmp_path / "a.pt")
    assert str(refused.value).startswith(f"acceptance vector {tmp_path / 'a.pt'}: ")


def test_rounding_of_half_precision_is_no_excess(tmp_path: Path) -> None:
    vector = torch.tensor([0.0, 0.6342, 0.1079, 0.2579 + 0.0005], dtype=torch.float16)
    torch.save(vector, tmp_path / "a.pt")
    assert len(read_acceptance_rates(tmp_path / "a.pt")) == 2


@pytest.mark.parametrize(
    "values", [[], {}, {"acceptance_rates": []}, {"acceptance_rates": ["a"]}, "text"]
)
def test_json_without_rates_is_refused(tmp_path: Path, values: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps(values))
    with pytest.raises(GrowMapError, match="a list of numbers"):
        read_acceptance_rates(tmp_path / "a.json")


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"{", "not valid JSON"), (b"\xff", "not valid JSON"), (None, "No such")],
)
def test_unreadable_json_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(GrowMapError, match=message):
        read_acceptance_rates(tmp_path / "a.json")


def test_a_name_without_a_format_and_a_folder_that_is_not_there_are_refused(tmp_path: Path) -> None:
    for name, message in (("a.txt", r"must end in \.json or \.pt"), ("no/a.pt", "No such file")):
        with pytest.raises(GrowMapError, match=message):
            write_acceptance_rates(tmp_path / name, [0.5], 0.5, {})
