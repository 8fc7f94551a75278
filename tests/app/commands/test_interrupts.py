"""Ctrl+C at a known place of a command's start ends it silently with 130, wherever it is lost."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

SIGNALLED = """
import signal, sys

class Dropping:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

def raised(): signal.raise_signal(signal.SIGINT)

def dropped(): Dropping()

def swallowed():
    try: raised()
    except KeyboardInterrupt: pass

def changed():
    try: raised()
    except KeyboardInterrupt: raise ImportError("it failed to import") from None

class Finder:
    def find_spec(self, name, *_):
        if name == {name!r}:
            sys.meta_path.remove(self)
            print("reached", file=sys.stderr)
            {how}()

sys.meta_path.insert(0, Finder())
sys.argv = ["sequoia", *{arguments}]
from app import main
main()
"""
"""`how` SIGINT comes and is lost as the module `name` is imported for the first time."""


def interrupted(name: str, how: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run(SIGNALLED.format(name=name, how=how, arguments=arguments))


HEARD = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
"""
"""Also where the tests run in the background, in which a shell lets SIGINT be ignored."""


def run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-c", HEARD + code],
        cwd=ROOT, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "how"),
    [
        ("typer", "raised"), ("typer", "swallowed"), ("app.commands.listings", "raised"),
        ("app.commands.listings", "dropped"), ("app.commands.listings", "changed"),
    ],
)  # fmt: skip
def test_it_ends_a_command_while_that_is_imported(name: str, how: str) -> None:
    done = interrupted(name, how, "models")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "reached\n")


@pytest.mark.embedded
@pytest.mark.parametrize(
    ("name", "how"),
    [("numpy", "raised"), ("sequoia_core.model.loading.models", "swallowed")],
)
def test_it_ends_an_answer_before_its_models_are_loaded(name: str, how: str) -> None:
    """PyTorch imports NumPy in C and clears every error of that."""
    done = interrupted(name, how, "ask", "--max-new-tokens", "1", "Why?")
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "reached\n")


DROPPED_WHILE_DECODING = """
import signal, sys
from sequoia_core.text.detokenizer import TextStream

class Dropping:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)

push = TextStream.push
def pushed(*arguments):
    TextStream.push = push
    Dropping()
    return push(*arguments)

TextStream.push = pushed
sys.argv = ["sequoia", "ask", "--max-new-tokens", "8", "--quiet", "Why?"]
from app import main
main()
"""


@pytest.mark.embedded
def test_it_ends_an_answer_that_is_being_decoded() -> None:
    done = run(DROPPED_WHILE_DECODING)
    assert (done.returncode, done.stderr) == (130, "")


def test_without_it_the_command_runs_to_its_end() -> None:
    done = interrupted("no module", "raised", "models")
    assert done.returncode == 0
    assert "embedded" in done.stdout
    assert done.stderr == ""
