"""`sequoia config`: where the settings come from and what they come to."""

import json

import typer

from ..paths import config_file

config_app = typer.Typer(help="Show the configuration.", no_args_is_help=True)


@config_app.command("path")
def show_path() -> None:
    """Print the path of the configuration file, whether it exists or not."""
    typer.echo(config_file())


@config_app.command("show")
def show_settings() -> None:
    """Print every setting as TOML, after file and environment."""
    from ..settings import load_settings

    # strings, numbers and lists of strings are written alike in JSON and TOML
    for name, value in load_settings({}).model_dump(mode="json", exclude_none=True).items():
        typer.echo(f"{name} = {json.dumps(value, ensure_ascii=False)}")
