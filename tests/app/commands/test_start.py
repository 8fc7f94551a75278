"""What opening the chat or a recording does not pay for."""

import gc
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup

from app.cli import HOMES, app
from app.commands.chat import quick_imports

ROOT = Path(__file__).parents[3]


def loaded_by(code: str) -> set[str]:
    """Every module that a fresh interpreter holds after the code."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return set(done.stdout.split())


def test_no_command_is_imported_before_it_is_asked_for() -> None:
    loaded = loaded_by("import app.cli, typer; typer.main.get_command(app.cli.app)")
    assert {name for name in loaded if name.startswith("app.commands.")} == {
        f"app.commands.{name}" for name in ("chat", "options")
    }
    assert "sequoia_core.text.template_renderer" not in loaded  # of an engine


def test_each_command_is_there_under_its_name_with_a_help_text() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, TyperGroup)
    context = typer.Context(group)
    assert group.list_commands(context) == list(HOMES)
    for name in HOMES:
        command = group.get_command(context, name)
        assert command is not None
        assert command.name == name
        assert command.get_short_help_str()


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was_after_imports(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with suppress(ImportError), quick_imports():
            assert not gc.isenabled()
            raise ImportError
        assert gc.isenabled() is enabled
    finally:
        gc.unfreeze()
        (gc.enable if before else gc.disable)()
