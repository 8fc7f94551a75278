"""What the documents tell a person to type is there: commands, options, targets of make, files."""

import re
import shlex
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from app import cli
from sequoia_core.tree.files import growmap_names, load_growmap

ROOT = Path(__file__).parents[2]
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/guide.md", "docs/reproducing.md")
MADE = ("--dst", "--trace", "--picture", "--json-file", "--out", ">")
"""What stands behind these is written by the command."""
OF_THE_RELEASE = ("../A100_growmaps/", "../L40_growmaps/", "demo-config.json", "config.json")
"""Files that lie where the published release was unpacked."""


def blocks(document: str) -> Iterator[str]:
    """Lines of the blocks of code, those that go on in the next one joined."""
    text = (ROOT / document).read_text("utf-8")
    for block in re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        yield from re.sub(r"\\\n\s*", "", block).split("\n")


def commands(document: str, program: str) -> Iterator[list[str]]:
    """What is typed behind the name of a program."""
    for line in blocks(document):
        found = re.match(rf"(?:\$ |\w+=\S* |.* \| )*{program}(?: (.*)|$)", line)
        if found:
            yield shlex.split((found[1] or "").split(" | ")[0], comments=True)


def resolved(words: list[str]) -> tuple[Any, list[str]]:
    """The command that the words name, and what is left of them."""
    command: Any = typer.main.get_command(cli.app)
    rest = list(words)
    while hasattr(command, "get_command") and rest and not rest[0].startswith("-"):
        inner = command.get_command(typer.Context(command), rest[0])
        assert inner is not None, f"no command {rest[0]}"
        command, rest = inner, rest[1:]
    return command, rest


def test_the_documents_have_commands() -> None:
    assert sum(1 for each in DOCUMENTS for _ in commands(each, "sequoia")) > 40


@pytest.mark.parametrize("document", DOCUMENTS)
def test_commands_and_their_options_are_there(document: str) -> None:
    for words in commands(document, "sequoia"):
        command, rest = resolved(words)
        known = {name for each in command.params for name in (*each.opts, *each.secondary_opts)}
        given = {word.partition("=")[0] for word in rest if re.match(r"--?[A-Za-z]", word)}
        assert given <= known | {"--help", "-h"}, words


@pytest.mark.parametrize("document", DOCUMENTS)
def test_targets_of_make_are_there(document: str) -> None:
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    for words in commands(document, "make"):
        assert {word for word in words if "=" not in word} <= targets, words


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    text = (ROOT / document).read_text("utf-8")
    links = [each for each in re.findall(r"\]\(([^)#]+)", text) if "://" not in each]
    for link in links:
        assert ((ROOT / document).parent / link).exists(), link


@pytest.mark.parametrize("document", DOCUMENTS)
def test_files_that_are_read_are_there(document: str) -> None:
    made = set()
    for words in commands(document, "sequoia"):
        for option, value in pairwise(words):
            if option in MADE:
                made.add(value)
    for words in commands(document, "sequoia"):
        for option, value in pairwise(words):
            known = value in made or value.startswith(OF_THE_RELEASE)
            if option == "--config" and not (document == "docs/reproducing.md" and known):
                assert (ROOT / value).is_file(), words
            if option == "--growmap" and not known and "/" in value:
                assert value in growmap_names() or (ROOT / value).is_file(), words


def test_the_search_of_the_readme_runs_from_a_clone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    (words,) = (each for each in commands("README.md", "sequoia") if each[:1] == ["search"])
    words[words.index("--dst") + 1] = str(tmp_path / "tree.json")
    result = CliRunner().invoke(cli.app, words)
    assert result.exit_code == 0, result.output
    assert load_growmap(tmp_path / "tree.json").parents == (-1, 0, 0, 1)
