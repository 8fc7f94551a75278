"""Prompts of a file or built in, as text."""

from pathlib import Path

import pytest

from sequoia_core.data.prompts import PROMPTS, prompt_texts
from sequoia_core.errors import ParameterError


def test_prompts_of_every_row_format(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"turns": ["one", "later"]}\n\n{"prompt": "two"}\n{"text": "three"}\n')
    assert prompt_texts(str(path), 3) == ["one", "two", "three"]
    plain = tmp_path / "prompts.txt"
    plain.write_text("one\ntwo\n")
    assert prompt_texts(str(plain), 2) == ["one", "two"]
    assert len(prompt_texts(None, 6)) == 6


@pytest.mark.parametrize("row", ["{", "[]", '{"turns": []}', '{"prompt": 3}', '{"text": " "}', "7"])
def test_a_row_without_a_prompt_is_named(tmp_path: Path, row: str) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"text": "fine"}\n' + row + "\n")
    with pytest.raises(ParameterError, match="line 2"):
        prompt_texts(str(path), 1)


def test_a_missing_file_and_too_few_prompts_are_reported(tmp_path: Path) -> None:
    with pytest.raises(ParameterError, match="cannot be read"):
        prompt_texts(str(tmp_path / "none.jsonl"), 1)
    with pytest.raises(ParameterError, match=f"has {len(PROMPTS)} prompts"):
        prompt_texts(None, len(PROMPTS) + 1)
