"""`sequoia config`: the path of the configuration file, and all settings."""

import typer

from ..config.paths import config_file
from .group import CommandGroup

config_app = typer.Typer(cls=CommandGroup, help="Show the configuration.", no_args_is_help=True)


@config_app.command("path")
def show_path() -> None:
    """Print the path of the configuration file, whether it exists or not."""
    typer.echo(config_file())


@config_app.command("show")
def show_settings() -> None:
    """Print every setting as TOML, after file and environment."""
    import tomlkit

    from ..config.load import as_toml, load_settings

    typer.echo(tomlkit.dumps(as_toml(load_settings({}))).rstrip())
