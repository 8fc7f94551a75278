"""A growmap is a tree: what is derived agrees with the parents, and nothing else gets in."""

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sequoia_core.errors import GrowMapError
from sequoia_core.tree.growmap import GrowMap, find_growmap, growmap_names
from sequoia_core.tree.numbering import MAX_NODES
from sequoia_core.tree.reference_files import read_acceptance_rates

ROOT = Path(__file__).parents[3]
REFERENCE_GROWMAPS = [
    "8-chain",
    "8x8-tree",
    "A100-CNN-68m-7b-greedy",
    "A100-CNN-68m-7b-stochastic",
    "demo_tree",
]


@st.composite
def parent_lists(draw: st.DrawFn) -> list[int]:
    """Any tree in any numbering: nodes hang below earlier ones, then all are relabelled."""
    size = draw(st.integers(1, 30))
    parents = [-1] + [draw(st.integers(0, node - 1)) for node in range(1, size)]
    labels = draw(st.permutations(range(size)))
    relabelled = [0] * size
    for node, parent in enumerate(parents):
        relabelled[labels[node]] = -1 if parent < 0 else labels[parent]
    return relabelled


def ancestors_or_self(parents: tuple[int, ...], node: int) -> set[int]:
    found = {node}
    while parents[node] >= 0:
        node = parents[node]
        found.add(node)
    return found


def shape_of(parents: list[int], node: int) -> list[Any]:
    """The subtree as nested lists, which have no numbering."""
    return [shape_of(parents, child) for child, up in enumerate(parents) if up == node]


@settings(deadline=None)
@given(parent_lists())
def test_renumbering_keeps_the_shape_and_is_breadth_first(parents: list[int]) -> None:
    tree = GrowMap(tuple(parents))
    assert shape_of(list(tree.parents), 0) == shape_of(parents, parents.index(-1))
    assert list(tree.parents) == sorted(tree.parents)
    assert GrowMap(tree.parents).parents == tree.parents


@settings(deadline=None)
@given(parent_lists())
def test_everything_derived_agrees_with_the_parents(parents: list[int]) -> None:
    tree = GrowMap(tuple(parents))
    mask = tree.ancestor_mask()
    assert mask.dtype == torch.bool
    for node in range(tree.size):
        line = ancestors_or_self(tree.parents, node)
        assert set(mask[node].nonzero().flatten().tolist()) == line
        assert tree.depths[node] == len(line) - 1
        assert tree.children[node] == tuple(
            child for child in range(tree.size) if tree.parents[child] == node
        )
        assert node in tree.levels[tree.depths[node]]
        if node:
            assert tree.children[tree.parents[node]][tree.ranks[node] - 1] == node
    assert tree.ranks[0] == 0
    assert sum(map(len, tree.levels)) == tree.size
    assert tree.depth == max(tree.depths) == len(tree.levels) - 1
    assert tree.branching == max(map(len, tree.children))


@settings(deadline=None)
@given(parent_lists(), st.lists(st.floats(0, 1), max_size=4))
def test_expected_tokens_is_one_plus_what_each_depth_adds(
    parents: list[int], rates: list[float]
) -> None:
    tree = GrowMap(tuple(parents))
    by_depth = tree.expected_by_depth(rates)
    assert len(by_depth) == tree.depth
    assert tree.expected_tokens(rates) == pytest.approx(1 + sum(by_depth))
    by_path = 0.0
    for node in range(tree.size):
        product = 1.0
        for step in ancestors_or_self(tree.parents, node) - {0}:
            rank = tree.ranks[step]
            product *= rates[rank - 1] if rank <= len(rates) else 0.0
        by_path += product
    assert tree.expected_tokens(rates) == pytest.approx(by_path)


@settings(deadline=None)
@given(parent_lists(), st.lists(st.floats(0, 1), max_size=3))
def test_json_gives_the_same_value_back(parents: list[int], rates: list[float]) -> None:
    tree = GrowMap(tuple(parents), "näme", tuple(rates), 'a "source"')
    assert GrowMap.from_json(tree.to_json()) == tree


@settings(deadline=None, max_examples=20)
@given(parent_lists())
def test_the_reference_format_gives_the_same_tree_back(
    tmp_path_factory: pytest.TempPathFactory, parents: list[int]
) -> None:
    path = tmp_path_factory.mktemp("pt") / "tree.pt"
    tree = GrowMap(tuple(parents))
    tree.save(path)
    assert GrowMap.load(path).parents == tree.parents


def test_what_is_written_for_the_reference_is_what_it_reads(tmp_path: Path) -> None:
    GrowMap((-1, 0, 0, 1)).save(tmp_path / "tree.pt")
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
    GrowMap.load(reference_folder / f"{name}.pt").save(tmp_path / "copy.pt")
    copy = torch.load(tmp_path / "copy.pt", weights_only=True)
    assert list(copy) == list(original)
    for key, value in original.items():
        if isinstance(value, torch.Tensor):
            assert copy[key].dtype == value.dtype
            assert torch.equal(copy[key], value)
        else:
            assert copy[key] == value


@settings(deadline=None)
@given(st.lists(st.integers(1, 3), max_size=6))
def test_widths_say_how_many_nodes_each_level_has(branches: list[int]) -> None:
    tree = GrowMap.k_ary([*branches, *[1] * 7])
    said = re.findall(r"(\d+)(?: \(x(\d+)\))?", tree.widths())
    levels = [int(width) for width, times in said for _ in range(int(times or 1))]
    assert levels == [len(level) for level in tree.levels]
    assert len(said) <= len(branches) + 1


def test_a_chain_drafts_its_length() -> None:
    chain = GrowMap.chain(4)
    assert (chain.size, chain.depth, chain.branching) == (5, 4, 1)
    assert GrowMap.chain(0).size == 1


def test_k_ary_levels_multiply() -> None:
    tree = GrowMap.k_ary([3, 1, 2])
    assert [len(level) for level in tree.levels] == [1, 3, 3, 6]
    assert {len(tree.children[node]) for node in tree.levels[2]} == {2}


@pytest.mark.parametrize(
    ("parents", "words"),
    [
        ((), "empty"),
        ((0,), "0 roots"),
        ((-1, -1), "2 roots"),
        ((-1, 2, 1), "cycle"),
        ((-1, 1), "cycle"),
        ((-1, -2), "outside"),
        ((-1, 2), "outside"),
        ((-1, 10**30), "outside"),
        ((-1, True), "whole number"),
        ((-1, 0.0), "whole number"),
        ((-1, "0"), "whole number"),
        ((-1, None), "whole number"),
        ((-1, *[0] * MAX_NODES), "65,536"),
    ],
)
def test_what_is_no_tree_is_refused_in_one_line(parents: tuple[Any, ...], words: str) -> None:
    with pytest.raises(GrowMapError, match=words) as caught:
        GrowMap(parents)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("children", [[[1], [1]], [[1, 1], []], [[0]], [[2], []], [[-1]], [[]] * 2])
def test_children_lists_that_are_no_tree_are_refused(children: list[list[int]]) -> None:
    with pytest.raises(GrowMapError):
        GrowMap.from_children(children)


@pytest.mark.parametrize("branches", [[-1], [2, -2], [300, 300]])
def test_levels_that_make_no_tree_are_refused(branches: list[int]) -> None:
    with pytest.raises(GrowMapError, match=r"children per node|65,536"):
        GrowMap.k_ary(branches)


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan"), float("inf"), True, "0.5"])
def test_a_rate_must_be_a_probability(rate: Any) -> None:
    with pytest.raises(GrowMapError, match="probability"):
        GrowMap((-1,), acceptance_rates=(rate,))


def test_a_name_cannot_carry_terminal_escapes() -> None:
    with pytest.raises(GrowMapError, match="printable"):
        GrowMap((-1,), name="\x1b[31mred")


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
        GrowMap.load(path)
    assert str(caught.value).startswith(f"growmap {path}: ")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < len(str(path)) + 200


def test_a_large_tree_is_read_whole(tmp_path: Path) -> None:
    GrowMap.chain(MAX_NODES - 1).save(tmp_path / "long.json")
    assert GrowMap.load(tmp_path / "long.json").depth == MAX_NODES - 1


@pytest.mark.parametrize("name", ["missing.json", ".", "missing.pt", "no\x00name"])
def test_a_path_that_is_no_file_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(GrowMapError, match=r"no such file|not a regular file"):
        GrowMap.load(tmp_path / name)


def test_a_file_that_cannot_be_read_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object, **_options: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "mine.json").touch()
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(GrowMapError, match=r"mine\.json: Permission denied"):
        GrowMap.load(tmp_path / "mine.json")


def test_saving_needs_a_known_ending_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(GrowMapError, match=r"\.json or \.pt"):
        GrowMap.chain(1).save(tmp_path / "tree.txt")
    for name in ("tree.json", "tree.pt"):
        with pytest.raises(GrowMapError, match="No such file"):
            GrowMap.chain(1).save(tmp_path / "nowhere" / name)


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
    return GrowMap.load(tmp_path / "tree.pt")


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
        GrowMap.load(evil)
    assert not trap.exists()


def test_acceptance_vectors_lose_their_first_and_last_entry(tmp_path: Path) -> None:
    torch.save(torch.tensor([0.0, 0.5, 0.25, 0.25]), tmp_path / "vector.pt")
    assert read_acceptance_rates(tmp_path / "vector.pt") == (0.5, 0.25)


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
    rates = read_acceptance_rates(reference_folder / "acceptance-rate-vector.pt")
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
    GrowMap.chain(3).save(tmp_path / "mine.json")
    assert find_growmap(str(tmp_path / "mine.json")).depth == 3


def test_a_file_without_labels_is_enough() -> None:
    assert GrowMap.from_json(json.dumps({"parents": [-1, 0]})).size == 2


def test_shapes_are_read_without_torch() -> None:
    code = (
        "import sys; from sequoia_core.tree.growmap import find_growmap; find_growmap('chain/2');"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
