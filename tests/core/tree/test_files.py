"""Tree shapes and acceptance vectors on disk: read back as written, or refused in one line."""

import json
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.errors import GrowMapError
from sequoia_core.tree.files import (
    find_growmap,
    growmap_names,
    load_growmap,
    read_acceptance_rates,
    save_growmap,
    write_acceptance_rates,
)
from sequoia_core.tree.growmap import MAX_NODES, GrowMap
from tests.core.tree.test_growmap import parent_lists

ROOT = Path(__file__).parents[3]
REFERENCE_GROWMAPS = [
    "8-chain",
    "8x8-tree",
    "A100-CNN-68m-7b-greedy",
    "A100-CNN-68m-7b-stochastic",
    "demo_tree",
]


@settings(deadline=None, max_examples=40)
@given(parent_lists(), st.lists(st.floats(0, 1), max_size=3))
def test_both_formats_give_the_same_tree_back(
    tmp_path_factory: pytest.TempPathFactory, parents: list[int], rates: list[float]
) -> None:
    folder = tmp_path_factory.mktemp("trees")
    deeper = (tuple(rates[:1]),) * (len(rates) // 2)
    tree = GrowMap(tuple(parents), "näme", tuple(rates), 'a "source"', deeper)
    for name in ("tree.json", "tree.pt"):
        save_growmap(tree, folder / name)
    assert load_growmap(folder / "tree.json") == tree
    assert load_growmap(folder / "tree.pt").parents == tree.parents


def test_what_is_written_for_the_reference_is_what_it_reads(tmp_path: Path) -> None:
    save_growmap(GrowMap((-1, 0, 0, 1)), tmp_path / "tree.pt")
    data = torch.load(tmp_path / "tree.pt", weights_only=True)
    assert data["roots"] == [[0], [1, 2], [3]]
    assert data["branches"] == [[2], [1, 0], [0]]
    assert data["Successors"] == [[1, 2], [3], [], []]
    assert data["size"] == 4
    assert data["depth"].dtype == data["mask"].dtype == torch.int64
    assert data["depth"].tolist() == [0, 1, 1, 2]
    assert data["mask"].tolist() == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]]


@pytest.mark.parametrize("name", REFERENCE_GROWMAPS)
def test_reference_files_survive_the_round_trip_bit_for_bit(
    reference_folder: Path, tmp_path: Path, name: str
) -> None:
    original = torch.load(reference_folder / f"{name}.pt", map_location="cpu", weights_only=True)
    save_growmap(load_growmap(reference_folder / f"{name}.pt"), tmp_path / "copy.pt")
    copy = torch.load(tmp_path / "copy.pt", weights_only=True)
    assert list(copy) == list(original)
    for key, value in original.items():
        if isinstance(value, torch.Tensor):
            assert copy[key].dtype == value.dtype
            assert torch.equal(copy[key], value)
        else:
            assert copy[key] == value


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"null",
        b"[-1, 0]",
        b'{"parents": 3}',
        b'{"parents": [-1, 0], "version": 2}',
        b'{"parents": [-1, 0], "colour": "red"}',
        b'{"parents": [-1], "acceptance_rates": 0.5}',
        b'{"parents": [-1], "acceptance_rates": [NaN]}',
        b'{"parents": [-1], "acceptance_rates": [0.5], "deeper_rates": [[2]]}',
        b'{"parents": [-1], "deeper_rates": [[0.5]]}',
        b'{"parents": [-1], "name": 3}',
        b'{"parents": [-1, ' + b"9" * 5000 + b"]}",
        "{}".encode("utf-16"),
        b"PK\x03\x04 and no more",
        b"\x80\x02 and no more",
        b"x" * 10_000_000,
        b"PK\x03\x04" + b"\x00\xff" * 5_000_000,
        b'{"parents": [' + b"0, " * 3_400_000 + b"0]}",
    ],
    ids=lambda content: repr(content[:16]) + f" {len(content)}",
)
def test_a_malformed_file_is_one_line_that_names_it(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(content)
    with pytest.raises(GrowMapError) as caught:
        load_growmap(path)
    assert str(caught.value).startswith(f"growmap {path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_large_tree_is_read_whole(tmp_path: Path) -> None:
    save_growmap(GrowMap.chain(MAX_NODES - 1), tmp_path / "long.json")
    assert load_growmap(tmp_path / "long.json").depth == MAX_NODES - 1


def test_a_name_too_long_for_a_file_names_no_tree() -> None:
    with pytest.raises(GrowMapError, match="no such file or name"):
        find_growmap("a" * 300)


@pytest.mark.parametrize("name", ["missing.json", ".", "missing.pt", "no\x00name"])
def test_a_path_that_is_no_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(GrowMapError, match=r"no such file|not a regular file"):
        load_growmap(tmp_path / name)


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "mine.json").touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(GrowMapError, match=r"mine\.json: Permission denied"):
        load_growmap(tmp_path / "mine.json")


def test_saving_needs_a_known_ending_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(GrowMapError, match=r"\.json or \.pt"):
        save_growmap(GrowMap.chain(1), tmp_path / "tree.txt")
    for name in ("tree.json", "tree.pt"):
        with pytest.raises(GrowMapError, match="No such file"):
            save_growmap(GrowMap.chain(1), tmp_path / "nowhere" / name)


def reference_entries() -> dict[str, Any]:
    """What the reference would hold for a root with two children, the first of which has one."""
    return {
        "roots": [[0], [1, 2], [3]],
        "branches": [[2], [1, 0], [0]],
        "Successors": [[1, 2], [3], [], []],
        "mask": torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]]),
        "depth": torch.tensor([0, 1, 1, 2]),
        "size": 4,
    }


def load_entries(tmp_path: Path, entries: object) -> GrowMap:
    torch.save(entries, tmp_path / "tree.pt")
    return load_growmap(tmp_path / "tree.pt")


def test_the_unbroken_reference_entries_load(tmp_path: Path) -> None:
    assert load_entries(tmp_path, reference_entries()).parents == (-1, 0, 0, 1)


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("size", 5),
        ("size", torch.tensor([4, 4])),
        ("roots", [[0], [1], [2, 3]]),
        ("roots", torch.zeros(3)),
        ("branches", [[2], [0, 1], [0]]),
        ("Successors", [[1, 2], [], [3], []]),
        ("Successors", [[1, 2], [3, 1], [], []]),
        ("Successors", [[1], [2], [1], []]),
        ("Successors", [[], [1], [2], [3]]),
        ("Successors", [[2, 1], [], [3], []]),
        ("Successors", [[1, 2], [-1], [], []]),
        ("Successors", [[1, 2], [9], [], []]),
        ("Successors", [[1, 2.0], [3], [], []]),
        ("Successors", []),
        ("Successors", None),
        ("Successors", [1, 2, 3, 4]),
        ("depth", torch.tensor([0, 1, 2, 2])),
        ("depth", [0, 1, 1, 2]),
        ("mask", torch.eye(4, dtype=torch.long)),
        ("mask", torch.ones(4, 4, dtype=torch.long)),
        ("mask", torch.ones(3, 3, dtype=torch.long)),
        ("mask", torch.eye(4, dtype=torch.long).to_sparse()),
        ("mask", [[1]]),
        ("mask", 2 * reference_entries()["mask"]),
    ],
)
def test_entries_that_disagree_are_refused(tmp_path: Path, entry: str, value: object) -> None:
    with pytest.raises(GrowMapError) as caught:
        load_entries(tmp_path, reference_entries() | {entry: value})
    assert "tree.pt: " in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bit", [(0, 1), (1, 2), (2, 1), (3, 0), (3, 1), (3, 2), (2, 2)])
def test_one_wrong_bit_of_the_mask_is_found(tmp_path: Path, bit: tuple[int, int]) -> None:
    entries = reference_entries()
    entries["mask"][bit] = 1 - entries["mask"][bit]
    with pytest.raises(GrowMapError, match="mask"):
        load_entries(tmp_path, entries)


@pytest.mark.parametrize("missing", ["roots", "branches", "Successors", "mask", "depth", "size"])
def test_a_missing_entry_is_refused(tmp_path: Path, missing: str) -> None:
    entries = reference_entries()
    del entries[missing]
    with pytest.raises(GrowMapError, match=missing):
        load_entries(tmp_path, entries)


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_cannot_run_code(tmp_path: Path, zipped: bool) -> None:
    trap, evil = tmp_path / "ran", tmp_path / "evil.pt"
    if zipped:
        torch.save(Touch(trap), evil)
    else:
        evil.write_bytes(pickle.dumps(Touch(trap), protocol=2))
    with pytest.raises(GrowMapError, match="would run code"):
        load_growmap(evil)
    assert not trap.exists()


@pytest.mark.parametrize("vector", [torch.zeros(2), torch.zeros(3, 3), torch.tensor([0, 2.0, 0])])
def test_an_acceptance_vector_holds_probabilities(tmp_path: Path, vector: torch.Tensor) -> None:
    torch.save(vector, tmp_path / "vector.pt")
    with pytest.raises(GrowMapError, match=r"vector\.pt"):
        read_acceptance_rates(tmp_path / "vector.pt")


def test_an_acceptance_vector_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "junk.pt").write_bytes(b"junk")
    for name in ("junk.pt", "missing.pt"):
        with pytest.raises(GrowMapError, match=f"acceptance vector .*{name}: "):
            read_acceptance_rates(tmp_path / name)


def test_the_reference_acceptance_vector_is_read(reference_folder: Path) -> None:
    (rates,) = read_acceptance_rates(reference_folder / "acceptance-rate-vector.pt")
    assert len(rates) == 32
    assert rates[:2] == pytest.approx((0.6342, 0.1079), abs=1e-4)


def test_every_packaged_shape_loads_under_its_name_and_says_its_source() -> None:
    for name in growmap_names():
        tree = find_growmap(name)
        assert tree.name == name
        assert tree.source
        assert find_growmap(f"{name}.json") == tree
    assert find_growmap("chain/4").parents == GrowMap.chain(4).parents
    assert find_growmap("paths/8x8").parents == GrowMap.k_ary([8] + [1] * 7).parents


def test_an_unknown_name_lists_close_ones() -> None:
    with pytest.raises(GrowMapError, match="smollm2-135m/greedy-16x4"):
        find_growmap("greedy-16x3")
    with pytest.raises(GrowMapError, match="growmap list"):
        find_growmap("zzzzzzzz")


def test_a_path_is_found_too(tmp_path: Path) -> None:
    save_growmap(GrowMap.chain(3), tmp_path / "mine.json")
    assert find_growmap(str(tmp_path / "mine.json")).depth == 3


def test_a_file_without_labels_is_enough(tmp_path: Path) -> None:
    (tmp_path / "tree.json").write_text('{"parents": [-1, 0]}')
    assert load_growmap(tmp_path / "tree.json").size == 2


def test_shapes_are_read_without_torch() -> None:
    code = (
        "import sys; from sequoia_core.tree.files import find_growmap; find_growmap('chain/2');"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


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
    assert read_acceptance_rates(path)[0] == pytest.approx(rates, rel=1e-6, abs=1e-12)


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
    assert len(read_acceptance_rates(tmp_path / "a.pt")[0]) == 2


@pytest.mark.parametrize(
    ("deeper", "message"),
    [
        ([[]], '"deeper_rates" is empty'), ([[0.7, 0.4]], "add up to 1.1"), ([[1.5]], "not a prob"),
        ([[0.1]] * 300, "more than 255 depths"), ([0.1], "no acceptance vector"),
    ],
)  # fmt: skip
def test_deeper_rates_that_cannot_be_are_refused(tmp_path: Path, deeper: Any, message: str) -> None:
    values = {"acceptance_rates": [0.5], "deeper_rates": deeper}
    (tmp_path / "a.json").write_text(json.dumps(values))
    with pytest.raises(GrowMapError, match=message):
        read_acceptance_rates(tmp_path / "a.json")


@pytest.mark.parametrize(
    "values", [[], {}, {"acceptance_rates": []}, {"acceptance_rates": ["a"]}, "text"]
)
def test_json_without_rates_is_refused(tmp_path: Path, values: Any) -> None:
    (tmp_path / "a.json").write_text(json.dumps(values))
    with pytest.raises(GrowMapError, match=r"no acceptance vector|is empty"):
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
