"""A file of results loses at most the line that was being written, and mixes nothing."""

import json
from pathlib import Path

import pytest

from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.reproduce.result_lines import ResultLines

HEAD = {"version": 1, "seed": 17, "parents": [-1, 0]}


def test_what_was_added_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines.jsonl"
    lines = ResultLines(path, HEAD)
    assert lines.results == []
    added = [{"at": at} for at in range(3)]
    for count, values in enumerate(added, start=1):
        lines.add(values)
        assert ResultLines(path, HEAD).results == lines.results == added[:count]
    assert json.loads(path.read_text().splitlines()[0]) == HEAD


def test_whatever_byte_it_was_killed_at_only_the_last_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "lines.jsonl"
    lines = ResultLines(path, HEAD)
    lines.add({"at": 0})
    kept = path.read_bytes()
    lines.add({"at": 1})
    whole = path.read_bytes()
    for length in range(len(kept), len(whole)):
        path.write_bytes(whole[:length])
        again = ResultLines(path, HEAD)
        assert again.results == [{"at": 0}]
        again.add({"at": 1})
        assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 18}, "was begun with seed 17, not 18"),
        ({"dtype": "float32"}, "was begun with dtype None, not 'float32'"),
        ({"parents": [-1]}, "was begun with another growmap; go on"),
    ],
)
def test_another_head_is_refused_in_one_line(
    tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    path = tmp_path / "lines.jsonl"
    ResultLines(path, HEAD).add({"at": 0})
    before = path.read_bytes()
    with pytest.raises(ParameterError, match=words) as caught:
        ResultLines(path, HEAD | changed, {"parents": "another growmap"})
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", ["{", "3", "[" * 100_000])
def test_a_line_that_is_no_result_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "lines.jsonl"
    ResultLines(path, HEAD)
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(ParameterError, match="line 2: no result"):
        ResultLines(path, HEAD)


def test_a_result_of_another_kind_is_named_by_its_line(tmp_path: Path) -> None:
    lines = ResultLines(tmp_path / "lines.jsonl", HEAD)
    lines.add({"at": 0})
    assert "line 2: no result" in str(lines.no_result(0))


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(SequoiaError, match=r"bytes\.jsonl"):
        ResultLines(tmp_path / "bytes.jsonl", HEAD)
    (tmp_path / "file").touch()
    with pytest.raises(SequoiaError, match=r"lines\.jsonl"):
        ResultLines(tmp_path / "file" / "lines.jsonl", HEAD)
    lines = ResultLines(tmp_path / "lines.jsonl", HEAD)
    (tmp_path / "lines.jsonl").unlink()
    (tmp_path / "lines.jsonl").mkdir()
    with pytest.raises(SequoiaError, match=r"lines\.jsonl: "):
        lines.add({"at": 0})
