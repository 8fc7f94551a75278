"""Files that declare more than is in them are refused before they cost anything."""

import io
import json
import pickle
import resource
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sequoia_core.data.passages import DataSpec, load_prompts
from sequoia_core.distill.corpus import read_arrays
from sequoia_core.errors import GrowMapError, ParameterError, SequoiaError, TraceError
from sequoia_core.recording.trace_file import LONGEST_LINE, MOST_STEP_NODES
from sequoia_core.reproduce.experiment import ResultFile
from sequoia_core.tree.budget_search import SearchFile
from sequoia_core.tree.files import load_growmap, read_acceptance_rates, save_growmap
from sequoia_core.tree.growmap import GrowMap
from tests.core.checkpoints import tiny_tokenizer
from tests.core.recording.test_trace import HEADER
from tests.core.test_files import SEPARATORS
from tests.replay_engine import read_trace

MANY = 40_000
HUGE = 10**11
TOKENIZER = tiny_tokenizer()


def star(**changed: object) -> dict[str, Any]:
    """A growmap of the reference's format with one node."""
    entries = {"roots": [[0]], "branches": [[0]], "Successors": [[]], "size": 1}
    tensors = {"mask": torch.ones(1, 1), "depth": torch.zeros(1)}
    return {**entries, **tensors, **changed}


def expanded(*shape: int) -> torch.Tensor:
    """A tensor of which one number is stored."""
    return torch.ones(1, dtype=torch.int64).expand(*shape)


def laughs() -> list[Any]:
    """Sixty lists that name each other twice: 2 ** 60 when they are walked through."""
    made: list[Any] = []
    for _ in range(60):
        made = [made, made]
    return made


def compressed(path: Path) -> None:
    """Write the archive anew, its members deflated."""
    with zipfile.ZipFile(io.BytesIO(path.read_bytes())) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.fixture(autouse=True)
def _little_memory() -> Any:
    """What takes gigabytes fails instead of taking them."""
    torch.zeros(1) + 1  # threads and pools of torch are not counted
    before = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + (1 << 30), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


LARGE = {
    "roots": [[0], list(range(1, MANY))],
    "branches": [[MANY - 1], [0] * (MANY - 1)],
    "Successors": [list(range(1, MANY))] + [[] for _ in range(MANY - 1)],
    "size": MANY,
    "depth": torch.tensor([0] + [1] * (MANY - 1)),
}


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        (star(**LARGE, mask=expanded(MANY, MANY)), "mask is not a"),
        (star(**LARGE | {"depth": expanded(MANY)}), "depth disagrees"),
        (star(depth=expanded(HUGE)), "depth disagrees"),
        (star(mask=expanded(1, HUGE)), "mask is not a"),
        (star(roots=expanded(HUGE)), "roots is not a list of lists"),
        (star(roots=[expanded(HUGE)]), "roots is not a list of lists"),
        (star(Successors=[[expanded(HUGE)]]), "Successors: whole numbers"),
        (star(size=expanded(HUGE)), "size: whole numbers"),
        (star(Successors=[list(range(1000))] * 1000), "Successors has more than 65,536"),
        *((star(**{name: laughs()}), name) for name in star()),
        (bytearray(10), "not a PyTorch file"),
        (torch.zeros(5, device="meta"), "not a PyTorch file"),
    ],
)
def test_a_growmap_costs_no_more_than_its_file(
    tmp_path: Path, entries: object, complaint: str
) -> None:
    path = tmp_path / "tree.pt"
    torch.save(entries, path)
    with pytest.raises(GrowMapError, match=complaint) as caught:
        load_growmap(path)
    assert "tree.pt: " in str(caught.value)
    assert len(str(caught.value)) < 400


def test_a_compressed_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "tree.pt"
    torch.save(star(), path)
    assert load_growmap(path).size == 1
    compressed(path)
    with pytest.raises(GrowMapError, match="compressed"):
        load_growmap(path)


def test_what_an_archive_declares_is_added_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tree.pt"
    torch.save(star(), path)
    monkeypatch.setattr("sequoia_core.tree.torch_file.MAX_BYTES", path.stat().st_size)
    assert load_growmap(path).size == 1
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = next(each for each in archive.namelist() if each.endswith("data/0"))
    at = content.rindex(name.encode()) - 46 + 24  # its size in the directory at the end
    path.write_bytes(content[:at] + (1 << 30).to_bytes(4, "little") + content[at + 4 :])
    with pytest.raises(GrowMapError, match="declares more than"):
        load_growmap(path)


@pytest.mark.parametrize(
    "call", [(bytearray, 1 << 40), (torch.Tensor, 1 << 40), (complex, 1), (set, [1])]
)
def test_a_pickle_calls_nothing_but_what_makes_a_tensor(
    tmp_path: Path, call: tuple[Callable[..., Any], object]
) -> None:
    class Called:
        def __reduce__(self) -> tuple[Any, ...]:
            return call[0], (call[1],)

    path = tmp_path / "tree.pt"
    torch.save({"a": Called()}, path, pickle_module=pickle, pickle_protocol=2)
    with pytest.raises(GrowMapError, match="not a PyTorch file of plain tensors"):
        load_growmap(path)


@pytest.mark.parametrize(
    "vector",
    [expanded(HUGE), torch.zeros(5, dtype=torch.complex64), torch.zeros(5).to_sparse(), laughs()],
)
def test_an_acceptance_vector_costs_no_more_than_its_file(tmp_path: Path, vector: object) -> None:
    path = tmp_path / "vector.pt"
    torch.save(vector, path)
    with pytest.raises(GrowMapError, match=r"vector\.pt: "):
        read_acceptance_rates(path)


def test_a_mask_that_could_not_be_read_again_is_not_written(tmp_path: Path) -> None:
    star_of_many = GrowMap((-1,) + (0,) * MANY)
    with pytest.raises(GrowMapError, match=r"ends in \.json"):
        save_growmap(star_of_many, tmp_path / "tree.pt")
    save_growmap(star_of_many, tmp_path / "tree.json")
    assert load_growmap(tmp_path / "tree.json").size == MANY + 1


@pytest.mark.parametrize(
    "text",
    [
        '{"parents": ' + "[" * 100_000,
        '{"parents": [-1, ' + "9" * 5000 + "]}",
        '{"parents": [-1, 0], "acceptance_rates": [NaN]}',
        '{"parents": [-1, 0], "acceptance_rates": [1e999]}',
        '{"parents": [-1, 2, 1]}',
        '{"parents": [-1' + ", 0" * 70_000 + "]}",
        '{"parents": [-1, [[[[[[[[[[[1]]]]]]]]]]]]}',
        '{"parents": [-1, 0], "name": "\\ud800"}',
    ],
)
def test_an_odd_growmap_is_one_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tree.json"
    path.write_text(text)
    with pytest.raises(GrowMapError) as caught:
        load_growmap(path)
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("draft_time", "1" * 400),
        ("target_time", "[5, " + "1" * 400 + "]"),
        ("max_depth", "9" * 5000),
        ("valid_budget", "[" * 100_000),
        ("dst", '"a\\u0000b"'),
        ("acceptance_rate_vector", '"\\ud800"'),
        ("acceptance_rate_vector", json.dumps("x" * 5000)),
        ("acceptance_rate_vector", '"/dev/zero"'),
    ],
)
def test_an_odd_search_config_is_one_line(tmp_path: Path, entry: str, value: str) -> None:
    good = {
        "acceptance_rate_vector": "v.json", "max_depth": 4, "max_budget": 8, "draft_time": 1,
        "valid_budget": [1, 4], "target_time": [5, 6], "dst": "o.json",
    }  # fmt: skip
    (tmp_path / "v.json").write_text('{"acceptance_rates": [0.5]}')
    del good[entry]
    path = tmp_path / "config.json"
    path.write_text(f'{json.dumps(good)[:-1]}, "{entry}": {value}}}')
    with pytest.raises(SequoiaError):
        SearchFile.read(path)


# Lines


def prompts(path: Path) -> list[tuple[int, ...]]:
    return load_prompts(DataSpec(str(path), 0, 2), TOKENIZER)


@pytest.mark.parametrize("separator", SEPARATORS)
def test_what_stands_in_a_string_ends_no_row(tmp_path: Path, separator: str) -> None:
    text = f"one{separator}two"
    rows = [json.dumps({"turns": [each]}, ensure_ascii=False) for each in (text, "three")]
    (tmp_path / "raw.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(rows).encode())
    (tmp_path / "escaped.jsonl").write_text("\n".join(map(json.dumps, map(json.loads, rows))))
    if separator >= "\x20":  # JSON wants the others escaped
        assert prompts(tmp_path / "raw.jsonl") == prompts(tmp_path / "escaped.jsonl")
    assert len(prompts(tmp_path / "escaped.jsonl")) == 2


def test_the_line_that_is_wrong_is_counted_with_blank_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"turns": ["one"]}\n\n\n{"turns"\n')
    with pytest.raises(ParameterError, match="line 4: not a JSON object"):
        prompts(path)


@pytest.mark.parametrize("row", ["[" * 100_000, '{"turns": [' + "9" * 5000 + "]}"])
def test_an_odd_row_is_one_line(tmp_path: Path, row: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(row)
    with pytest.raises(ParameterError, match="line 1: not a JSON object"):
        prompts(path)


def test_half_a_surrogate_pair_in_a_row_is_a_replacement_character(tmp_path: Path) -> None:
    for name, text in (("half", "a\\ud800b"), ("whole", "a\\ufffdb")):
        row = '{"turns": ["%s"]}\n' % text  # noqa: UP031  # braces are JSON's
        (tmp_path / f"{name}.jsonl").write_text(2 * row)
    assert prompts(tmp_path / "half.jsonl") == prompts(tmp_path / "whole.jsonl")


def test_results_are_lines_of_json_too(tmp_path: Path) -> None:
    path = tmp_path / "cells.jsonl"
    head = {"name": "a\u2028b\x85c"}
    path.write_text(json.dumps(head, ensure_ascii=False) + '\n{"text": "d\u2028e"}\n', "utf-8")
    assert ResultFile(path, head, dict).rows == [{"text": "d\u2028e"}]


# Recordings


def test_a_line_of_a_trace_is_read_up_to_its_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert LONGEST_LINE < 1 << 26
    monkeypatch.setattr("sequoia_core.recording.trace_file.LONGEST_LINE", 1000)
    path = tmp_path / "a.jsonl"
    path.write_text(HEADER + "\n" + '{"event": "Failed", "message": "' + "x" * 2000 + '"}\n')
    with pytest.raises(TraceError, match="line 2: it has more than 1,000 bytes"):
        read_trace(path)


def step(nodes: list[dict[str, object]]) -> str:
    times = {"draft_ms": 1.0, "verify_ms": 1.0, "bookkeeping_ms": 1.0}
    values = {
        "event": "Step", "index": 1, "nodes": nodes, "path": [0], "bonus_token_id": 0,
        "bonus_text": "", "bonus_prob": 0.5, "token_ids": [0], "context_length": 1,
        "timings": times, "plain_ms": 1.0, "plain_source": "",
    }  # fmt: skip
    return json.dumps(values)


def node(**changed: object) -> dict[str, object]:
    return {
        "token_id": 1, "text": "a", "parent": -1, "depth": 0, "rank": 0, "draft_prob": None,
        "target_prob": None, "outcome": "accepted",
    } | changed  # fmt: skip


@pytest.mark.parametrize(
    "nodes",
    [
        [],
        [node(), node(parent=0, depth=1 << 31, rank=1)],
        [node(), node(parent=0, depth=1, rank=-(1 << 63))],
        [node(depth=5)],
        [node(), node(parent=1, depth=1, rank=1)],
        [node()] + [node(parent=0, depth=1, rank=1)] * MOST_STEP_NODES,
    ],
)
def test_a_recorded_step_is_one_tree(tmp_path: Path, nodes: list[dict[str, object]]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(f"{HEADER}\n{step([node()])}\n")
    assert len(read_trace(path).events) == 1
    path.write_text(f"{HEADER}\n{step(nodes)}\n")
    with pytest.raises(TraceError, match="line 2: Step"):
        read_trace(path)


def test_arrays_that_declare_far_more_than_is_in_them_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens.npz"
    np.savez_compressed(path, tokens=np.zeros(3_000_000, np.int32), offsets=np.zeros(1, np.int64))
    assert len(read_arrays(path)["tokens"]) == 3_000_000
    monkeypatch.setattr("sequoia_core.distill.corpus._ALWAYS_BYTES", 1_000_000)
    with pytest.raises(ParameterError, match="far more than are in it"):
        read_arrays(path)
