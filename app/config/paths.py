"""Where a person's files are, by the system's conventions, and checks of those to be written."""

import os
from pathlib import Path

import platformdirs

from sequoia_core.errors import ParameterError
from sequoia_core.files import is_file_name, make_private_folder

_APP = "sequoia"


def config_file() -> Path:
    return platformdirs.user_config_path(_APP) / "config.toml"


def cache_folder() -> Path:
    """Files that may be deleted at any time: measured times and digests."""
    return platformdirs.user_cache_path(_APP)


def data_folder() -> Path:
    """Files that a person would miss."""
    return platformdirs.user_data_path(_APP)


def record_file() -> Path:
    return data_folder() / "sessions.db"


def log_folder() -> Path:
    return platformdirs.user_log_path(_APP)


def working_folder() -> Path:
    """The folder that the program was started in; a relative path where it has been removed."""
    try:
        return Path.cwd()
    except OSError:
        return Path()


# Output, checked before a command spends minutes on its contents


def output_file(given: Path | None, *, private: bool = False) -> Path | None:
    """A file that can be written; its folder is made, `private` for its owner only.

    Raises ParameterError if it cannot be written.
    """
    if given is None:
        return None
    try:
        file = given.expanduser()
    except RuntimeError:
        raise ParameterError(f"{given}: there is no such home folder") from None
    if not is_file_name(str(file)):
        raise ParameterError(f"{str(given)!r} is no name of a file")
    try:
        if private:
            make_private_folder(file.parent)
        else:
            file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ParameterError(f"{given}: its folder cannot be made: {error.strerror}") from None
    try:
        taken = file.is_dir()
    except OSError as error:
        raise ParameterError(f"{file}: no file can be written there: {error.strerror}") from None
    if taken or not os.access(file if file.exists() else file.parent, os.W_OK):
        raise ParameterError(f"{given}: no file can be written there")
    return file


def output_picture(given: Path | None) -> Path | None:
    """As `output_file`, for a picture; also checks that matplotlib can draw it."""
    file = output_file(given)
    if file is not None:
        from sequoia_core.figures.charts import check_picture

        check_picture(file)
    return file


def output_result(given: Path) -> Path:
    """As `output_file`, for a result whose format follows from its name."""
    if given.suffix not in (".json", ".pt"):
        raise ParameterError(f"{given}: the name must end in .json or .pt")
    file = output_file(given)
    assert file is not None
    return file
