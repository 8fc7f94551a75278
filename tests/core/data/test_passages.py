"""Data sets of one's own: what a row is, which tokens of it are a prompt, and what is refused."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sequoia_core.data import passages
from sequoia_core.data.passages import DataSpec, load_passages, load_prompts
from sequoia_core.data.prompts import PROMPTS, Row, RowKind, row_of
from sequoia_core.errors import ParameterError
from sequoia_core.text.chat_template import ChatTemplate
from tests.core.checkpoints import tiny_tokenizer
from tests.core.tiny_tokenizers import byte_level

TOKENIZER = tiny_tokenizer()  # a character is a token
UNTAUGHT = tiny_tokenizer()
UNTAUGHT.chat_template = None


def token_ids(spec: DataSpec) -> list[tuple[int, ...]]:
    return [each.token_ids for each in load_passages(spec, TOKENIZER)]


def text(length: int) -> str:
    return "".join(chr(ord("A") + at % 20) for at in range(length))


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"text": "a"}, Row("a", RowKind.TEXT)),
        ({"article": "a", "highlights": "b"}, Row("a", RowKind.TEXT)),
        ({"prompt": "a", "text": "b"}, Row("a", RowKind.PROMPT)),
        ({"prompt": ["a", "b"], "prompt_id": 1}, Row("a", RowKind.TURN)),
        ({"turns": ["a", "b"], "prompt": "c"}, Row("a", RowKind.TURN)),
        ({"turns": []}, None),
        ({"text": 3}, None),
        ({"title": "a"}, None),
        (["a"], None),
    ],
)
def test_what_a_row_says(values: object, expected: Row | None) -> None:
    assert row_of(values) == expected


@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=12),
    start=st.integers(0, 3),
    wanted=st.integers(1, 4),
    prompt=st.integers(1, 30),
    more=st.integers(0, 30),
)
def test_a_slice_counts_the_texts_that_are_long_enough(
    tmp_path_factory: pytest.TempPathFactory,
    lengths: list[int],
    start: int,
    wanted: int,
    prompt: int,
    more: int,
) -> None:
    path = tmp_path_factory.mktemp("data") / "set.jsonl"
    source = write_rows(path, [{"text": text(length)} for length in lengths])
    spec, tokens = DataSpec(source, start, start + wanted), prompt + more
    fit = [length for length in lengths if length >= prompt + (more > 0)]
    with patch.object(passages, "PROMPT_TOKENS", prompt):
        if len(fit) < start + wanted:
            with pytest.raises(ParameterError, match=f"has {len(fit)} rows"):
                load_passages(spec, TOKENIZER, tokens)
            return
        found = load_passages(spec, TOKENIZER, tokens)
    expected = [text(min(length, tokens)) for length in fit[start : start + wanted]]
    assert [TOKENIZER.decode(each.token_ids) for each in found] == expected
    assert {each.prompt for each in found} == {prompt}


def test_a_prompt_is_the_beginning_of_a_text_with_what_the_tokenizer_puts_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passages, "PROMPT_TOKENS", 20)
    source = write_rows(tmp_path / "a.jsonl", [{"text": "the hut " * 60}])
    tokenizer = byte_level()
    (prompt,) = load_prompts(DataSpec(source, 0, 1), tokenizer)
    assert list(prompt) == tokenizer.encode("the hut " * 60)[:20]
    assert len(prompt) == 20


def test_questions_go_through_the_template_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passages, "PROMPT_TOKENS", 4)
    rows: list[dict[str, object]] = [
        {"turns": ["A" * 9, "B"]},
        {"prompt": "C" * 9},
        {"text": text(9)},
    ]
    source = write_rows(tmp_path / "a.jsonl", rows)
    prompts = load_prompts(DataSpec(source, 0, 3), TOKENIZER)
    template = ChatTemplate(TOKENIZER, None)
    assert list(prompts[0]) == template.whole([], "A" * 9)
    assert list(prompts[1]) == template.whole([], "C" * 9)
    assert TOKENIZER.decode(prompts[2]) == text(4)
    found = load_passages(DataSpec(source, 0, 3), TOKENIZER)
    assert [each.prompt for each in found] == [len(prompts[0]), len(prompts[1]), 4]


def test_a_prompt_is_a_plain_text_to_a_model_that_does_not_chat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passages, "PROMPT_TOKENS", 4)
    source = write_rows(tmp_path / "a.jsonl", [{"prompt": text(9)}, {"prompt": text(3)}])
    (prompt,) = load_prompts(DataSpec(source, 0, 1), UNTAUGHT)
    assert UNTAUGHT.decode(prompt) == text(4)
    with pytest.raises(ParameterError, match=r"has 1 rows of at least 4 tokens \(1 have fewer\)"):
        load_prompts(DataSpec(source, 0, 2), UNTAUGHT)


def test_the_built_in_questions_are_there_without_a_source() -> None:
    template = ChatTemplate(TOKENIZER, None)
    every = [tuple(template.whole([], prompt)) for prompt in PROMPTS]
    assert load_prompts(DataSpec(None), TOKENIZER) == every
    assert load_prompts(DataSpec(None, 1, 3), TOKENIZER) == every[1:3]
    with pytest.raises(ParameterError, match=f"the built-in set has {len(PROMPTS)} rows"):
        load_prompts(DataSpec(None, len(PROMPTS), len(PROMPTS) + 3), TOKENIZER)


def test_a_plain_file_has_a_text_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "PROMPT_TOKENS", 5)
    path = tmp_path / "a.txt"
    path.write_text(f"{text(3)}\n\n{text(9)}\n{text(7)}\n")
    prompts = load_prompts(DataSpec(str(path), 0, 2), TOKENIZER)
    assert [TOKENIZER.decode(prompt) for prompt in prompts] == [text(5), text(5)]


def test_a_plain_file_of_short_lines_is_one_running_text(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("ABCD\n" * 150)  # 749 tokens
    rows = token_ids(DataSpec(str(path), 0, 2))
    assert [len(row) for row in rows] == [256, 256]
    assert TOKENIZER.decode(rows[0] + rows[1]) == ("ABCD\n" * 150)[:512]
    assert len(token_ids(DataSpec(str(path), 0, 3))[2]) == 749 - 512
    with pytest.raises(ParameterError, match="has 3 rows"):
        load_passages(DataSpec(str(path), 0, 4), TOKENIZER)


def test_folders_of_datasets_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passages, "PROMPT_TOKENS", 5)
    import datasets

    rows = [{"text": text(length)} for length in (9, 3, 8)]
    saved = datasets.Dataset.from_list(rows)
    saved.save_to_disk(tmp_path / "saved")
    both = datasets.DatasetDict({"train": datasets.Dataset.from_list(rows[:1]), "test": saved})
    both.save_to_disk(tmp_path / "dict")
    (tmp_path / "parquet").mkdir()
    saved.to_parquet(tmp_path / "parquet" / "test.parquet")
    (tmp_path / "json").mkdir()
    write_rows(tmp_path / "json" / "rows.jsonl", rows)
    for name in ("saved", "dict", "parquet", "json"):
        prompts = load_prompts(DataSpec(str(tmp_path / name), 0, 2), TOKENIZER)
        assert [TOKENIZER.decode(prompt) for prompt in prompts] == [text(5), text(5)], name
        with pytest.raises(ParameterError, match="has 2 rows"):
            load_prompts(DataSpec(str(tmp_path / name), 0, 3), TOKENIZER)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"title": "a"}\n', 'line 1: no "turns", "prompt", "text" or "article" to read'),
        ('{"text": "a"}\n{"text"', "line 2: no"),
        (b"\xff", "cannot be read as text"),
    ],
)
def test_a_bad_file_is_refused_by_its_line(
    tmp_path: Path, content: str | bytes, message: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ParameterError, match=message):
        load_prompts(DataSpec(str(path)), TOKENIZER)


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    for name in ("pile", str(tmp_path / "none.jsonl")):
        with pytest.raises(ParameterError, match="known are cnn, openwebtext, c4, wiki, mt-bench"):
            load_prompts(DataSpec(name), TOKENIZER)
    (tmp_path / "a.csv").write_text("text\n")
    with pytest.raises(ParameterError, match=r"rows are read from a \.jsonl or \.txt file"):
        load_prompts(DataSpec(str(tmp_path / "a.csv")), TOKENIZER)
    (tmp_path / "empty").mkdir()
    (tmp_path / "odd").mkdir()
    write_rows(tmp_path / "odd" / "a.jsonl", [{"title": "a"}])
    for folder, message in (("empty", "is no data set"), ("odd", "row 0: no")):
        with pytest.raises(ParameterError, match=message) as refused:
            load_prompts(DataSpec(str(tmp_path / folder)), TOKENIZER)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("values", [("",), ("a", -1), ("a", 3, 3)], ids=["name", "start", "end"])
def test_a_slice_out_of_range_is_refused(values: tuple[Any, ...]) -> None:
    with pytest.raises(ParameterError):
        DataSpec(*values)
