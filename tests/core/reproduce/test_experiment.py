"""A result file loses at most the line that was being written; each prompt has its own seed."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequoia_core.config import SamplingParams
from sequoia_core.errors import ParameterError, SequoiaError
from sequoia_core.reproduce.experiment import ResultFile, prompt_digest, prompt_seed

HEAD = {"version": 1, "seed": 17, "parents": [-1, 0]}


@dataclass(frozen=True)
class Row:
    at: int


def opened(path: Path, head: dict[str, object] | None = None) -> ResultFile[Row]:
    return ResultFile(path, head or HEAD, Row)


def test_what_was_added_is_there_when_it_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    file = opened(path)
    assert file.rows == []
    for at in range(3):
        file.add(Row(at))
        assert opened(path).rows == file.rows == [Row(each) for each in range(at + 1)]
    assert json.loads(path.read_text().splitlines()[0]) == HEAD


def test_whatever_byte_it_was_killed_at_only_the_last_line_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    file = opened(path)
    head = path.read_bytes()
    file.add(Row(0))
    kept = path.read_bytes()
    file.add(Row(1))
    whole = path.read_bytes()
    for length in range(len(kept), len(whole)):
        path.write_bytes(whole[:length])
        again = opened(path)
        assert again.rows == [Row(0)]
        again.add(Row(1))
        assert path.read_bytes() == whole
    for length in range(len(head)):
        path.write_bytes(whole[:length])
        assert opened(path).rows == []
        assert path.read_bytes() == head


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"seed": 18}, "was begun with seed 17, not 18"),
        ({"dtype": "float32"}, "was begun with dtype None, not 'float32'"),
        ({"parents": [-1]}, "was begun with another growmap; continue"),
    ],
)
def test_another_head_is_refused_in_one_line(
    tmp_path: Path, changed: dict[str, object], words: str
) -> None:
    path = tmp_path / "rows.jsonl"
    opened(path).add(Row(0))
    before = path.read_bytes()
    with pytest.raises(ParameterError, match=words) as caught:
        opened(path, HEAD | changed)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


@pytest.mark.parametrize("line", ["{", "3", "[]", "[" * 100_000, "{}", '{"at": "no"}'])
def test_a_line_that_is_no_row_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "rows.jsonl"
    opened(path)
    path.write_text(f"{path.read_text()}{line}\n")
    with pytest.raises(ParameterError, match="line 2: no result of this command"):
        opened(path)
    path.write_text(line + "\n")
    with pytest.raises(ParameterError):
        opened(path)


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes.jsonl").write_bytes(b"\xff\n")
    with pytest.raises(SequoiaError, match=r"bytes\.jsonl"):
        opened(tmp_path / "bytes.jsonl")
    (tmp_path / "file").touch()
    with pytest.raises(SequoiaError, match=r"rows\.jsonl"):
        opened(tmp_path / "file" / "rows.jsonl")
    with pytest.raises(SequoiaError, match="directory"):
        opened(tmp_path)
    file = opened(tmp_path / "rows.jsonl")
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(SequoiaError, match=r"rows\.jsonl: "):
        file.add(Row(0))


@given(
    st.lists(st.lists(st.integers(0, 60000), min_size=1), min_size=2, max_size=6, unique_by=tuple),
    st.integers(0, 2**40),
)
def test_every_prompt_and_every_experiment_has_a_seed_of_its_own(
    prompts: list[list[int]], seed: int
) -> None:
    seeds = [prompt_seed(each, ids) for each in (seed, seed + 1) for ids in prompts]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [prompt_seed(each, tuple(ids)) for each in (seed, seed + 1) for ids in prompts]
    for each in seeds:
        SamplingParams(seed=each)  # in the range that is allowed
    assert len({prompt_digest(ids) for ids in prompts}) == len(prompts)
