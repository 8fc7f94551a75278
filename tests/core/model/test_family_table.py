"""The guide's table of what is tested has every family, and says yes where the tests have it."""

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from sequoia_core.model.config_entries import families
from tests.core.families import VARIANTS
from tests.core.model.loading.test_gguf_families import WRITTEN

GUIDE = (Path(__file__).parents[3] / "docs" / "guide.md").read_text("utf-8")
SECTION = GUIDE.partition("### What is tested\n")[2].partition("\n## ")[0]
YES, NO = {"yes", "native"}, {"no", "GPU"}


def tables() -> Iterator[list[list[str]]]:
    for block in re.findall(r"(?:^\|.*\n)+", SECTION, re.MULTILINE):
        rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in block.split("\n")]
        yield [rows[0], *rows[2:-1]]


(COLUMNS, *FAMILIES), (_, *SHOWN) = tables()


def covered(test: str) -> set[str]:
    """The families that a test runs with, by `model_type`; a test is `FILE` and `NAME`."""
    file, name = test.split()
    module = import_module("tests.core." + file.removesuffix(".py").replace("/", "."))
    marks = [each for each in getattr(module, name).pytestmark if each.name == "parametrize"]
    values = [value for mark in marks for value in mark.args[1] if isinstance(value, str)]
    variants = [WRITTEN[value][0] if value in WRITTEN else value for value in values]
    return {VARIANTS[variant][0] for variant in variants if variant in VARIANTS}


def shown_by(column: str) -> list[str]:
    (cell,) = (row[2] for row in SHOWN if column in row[0].split(", "))
    file, *names = re.findall(r"`([^`]+)`", cell)
    return [f"{file} {name}" for name in names]


def families_saying(column: str, words: set[str]) -> set[str]:
    at = COLUMNS.index(column)
    return {row[0].strip("`") for row in FAMILIES if row[at] in words}


def test_the_table_has_all_families_and_says_something_of_each() -> None:
    assert [row[0].strip("`") for row in FAMILIES] == list(families())
    assert len(COLUMNS) == 16
    assert all({*row[1:]} <= YES | NO and len(row) == len(COLUMNS) for row in FAMILIES)
    named = [column for row in SHOWN for column in row[0].split(", ")]
    assert sorted(named) == sorted(COLUMNS[1:])


def test_each_cell_has_its_test() -> None:
    for column in COLUMNS[1:]:
        first, *others = shown_by(column)
        yes, no = families_saying(column, YES), families_saying(column, NO)
        assert yes <= covered(first), column
        for other in others:
            assert no <= covered(other), column
        # one that a test of its own refuses, or that nothing runs, is not among the others
        assert column == "parallel" or not no & covered(first), column


def test_what_is_not_divided_among_processes_is_said() -> None:
    whole = {name for name, each in families().items() if each.features.get("qk_norm") == "whole"}
    assert families_saying("parallel", NO) == whole
